"""Everything that can go wrong by what a user gave, as one hierarchy.

    ConversionError                  the base: catch this one
    ├── InputError                   the inputs do not fit each other, or the model
    ├── SourceError                  the model is not what it says, or cannot be read
    ├── ExportError                  PyTorch could not say the model in ONNX
    ├── PrecisionError               the precisions asked for contradict the model, or each other
    │   └── RuleError                a rule cannot be read, or asks for what no node can have
    ├── GraphError                   the ONNX graph is ill-typed or invalid
    │   └── PassError                a pass of this project failed on a node
    ├── FlagError                    a command line of another tool cannot be read, or cannot say a plan
    ├── ComparisonError              the numbers could not be compared, although that was required
    ├── CalibrationError             the model could not be run on the calibration data
    ├── BackendError                 TensorRT said no
    │   ├── BackendMissingError      it is not installed, or cannot do this here
    │   ├── ParseError               its ONNX parser refused a node
    │   ├── BuildError               its builder could not make an engine
    │   ├── BindingError             an engine's inputs and outputs are not what was asked for
    │   ├── InspectionError          what it tells of an engine is not told in a form that we know
    │   ├── EngineError              an engine could not be loaded or run
    │   ├── EngineMismatchError      a saved engine is not what its manifest says, or does not fit this TensorRT or this GPU
    │   └── WorkerError              the child process crashed, ran out of time, or out of memory
    ├── ManifestError                a saved folder has no manifest, or one that cannot be read
    ├── RequestError                 the manifest of a batch cannot be read, or says what nobody can do
    ├── ProofError                   strict, and the engine does not prove what was planned
    └── OutputError                  a file could not be written

Warnings that concern the result are `ConversionWarning`s, and stand in the report as well.
"""

from __future__ import annotations


class ConversionError(Exception):
    """What failed, where, why, and how to mend it.

    Args:
        what: one sentence, the failure itself.
        where: the node, module, file or input that it concerns.
        why: the cause, in the words of the library that reported it where there is one.
        fix: what the user can do.
    """

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        rows = [what]
        rows += [f"  {label}: {text}" for label, text in (("where", where), ("why", why), ("fix", fix)) if text]
        super().__init__("\n".join(rows))

    @property
    def line(self) -> str:
        """What, where and why, in one line."""
        return " | ".join(" ".join(part.split()) for part in (self.what, self.where, self.why) if part)


class InputError(ConversionError):
    """The inputs do not fit each other, or the model."""


class SourceError(ConversionError):
    """The model is not what it says, or cannot be read."""


class ExportError(ConversionError):
    """PyTorch could not say the model in ONNX."""


class PrecisionError(ConversionError):
    """The precisions asked for contradict the model, or each other."""


class RuleError(PrecisionError):
    """A rule cannot be read, or asks for what no node can have."""


class GraphError(ConversionError):
    """The ONNX graph is ill-typed or invalid."""


class PassError(GraphError):
    """A pass of this project failed on a node."""


class FlagError(ConversionError):
    """A command line of another tool cannot be read, or cannot say a plan."""


class ComparisonError(ConversionError):
    """The numbers could not be compared, although that was required."""


class CalibrationError(ConversionError):
    """The model could not be run on the calibration data."""


class BackendError(ConversionError):
    """TensorRT said no."""


class BackendMissingError(BackendError):
    """The back end is not installed, or cannot do this here."""


class ParseError(BackendError):
    """TensorRT's ONNX parser refused a node."""


class BuildError(BackendError):
    """TensorRT's builder could not make an engine."""


class BindingError(BackendError):
    """The inputs and outputs of a network or an engine are not what was asked for."""


class InspectionError(BackendError):
    """What TensorRT tells of an engine is not told in a form that we know."""


class WorkerError(BackendError):
    """The child process crashed, ran out of time, or out of memory."""


class EngineError(BackendError):
    """An engine could not be loaded, or not run."""


class EngineMismatchError(BackendError):
    """A saved engine is not what its manifest says, or does not fit the TensorRT or the GPU that is here."""


class ManifestError(ConversionError):
    """A saved folder has no manifest, or one that cannot be read."""


class RequestError(ConversionError):
    """The manifest of a batch cannot be read, or says what nobody can do."""


class ProofError(ConversionError):
    """The built engine runs a node in another precision than was planned, or does not prove that it does not."""


class OutputError(ConversionError):
    """A file could not be written."""


class ConversionWarning(UserWarning):
    """Something that changes the result, or what it proves, and does not stop the conversion."""
