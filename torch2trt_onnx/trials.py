"""Many plans of one graph, each a run of the same ONNX Runtime session on the CPU, and its outputs against those of fp32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from torch2trt_onnx.compare import OnnxRunner
from torch2trt_onnx.errors import ComparisonError, InputError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.limits import Array, ErrorLimit
from torch2trt_onnx.passes import Retype, SwitchPrecision
from torch2trt_onnx.precision import ElementType
from torch2trt_onnx.typecheck import onnx_type

Sample = Mapping[str, Array]


class Trials:
    """A graph that computes with any of its nodes in their planned precision, and the others in fp32.

    What it computes with all of them in fp32 is what errors are measured by. Samples are read once, so that a loader may shuffle; they
    and these outputs lie in files, so that one sample is in memory at a time.

    Args:
        graph: as `planning.decide` leaves it. It stays as it is, and its weights are not copied.
        switched: the names of the nodes that a trial may have in either precision.
        limits: output -> its limit, for those that have one.
        samples: each maps the names of the inputs to arrays.
        folder: for the files of the samples.

    Attributes:
        runs: how many trials were run.

    Raises:
        InputError: there is no sample, or one lacks an input.
        ComparisonError: ONNX Runtime cannot run the graph.
    """

    def __init__(
        self,
        graph: Graph,
        switched: Sequence[str],
        limits: Mapping[str, ErrorLimit],
        samples: Iterable[Sample],
        folder: Path,
    ) -> None:
        self.runs = 0
        self._limits, self._count = limits, len(switched)
        self._inputs = {t.name: ElementType.of(onnx_type(t)) for t in graph.ir.inputs}
        path, copy = _switched(graph, switched)
        try:
            self._session = OnnxRunner(path, copy).session
        except Exception as error:  # its errors have no base of their own
            raise _failed("ONNX Runtime cannot load the graph to try precisions on", error) from error
        self._switches = [i.name for i in self._session.get_inputs() if i.name not in self._inputs]
        bound = zip(graph.ir.outputs, self._session.get_outputs(), strict=True)  # bf16 ones are bound by other names
        self._outputs = [found.name for tensor, found in bound if tensor.name in limits]
        self._files = [self._keep(folder / f"{number}.npz", sample) for number, sample in enumerate(samples, 1)]
        if not self._files:
            raise InputError(
                "there is no sample to measure errors on", fix="give some of the data that the model is for"
            )

    def errors(self, reduced: Iterable[int], samples: int | None = None) -> dict[str, float]:
        """The error of each limited output, the largest of all samples.

        Args:
            reduced: the positions of the switched nodes that run in their planned precision.
            samples: how many of the samples to run, from the first one on; None: all.

        Raises:
            InputError: a function of the user's that measures fails.
        """
        self.runs += 1
        errors = dict.fromkeys(self._limits, 0.0)
        for file in self._files[:samples]:
            with np.load(file) as held:
                arrays = [held[f"arr_{index}"] for index in range(len(held.files))]
            feeds = dict(zip(self._inputs, arrays, strict=False))
            results = zip(self._limits.items(), self._run(feeds, reduced, file), arrays[len(feeds) :], strict=True)
            for (name, limit), found, expected in results:
                errors[name] = max(errors[name], limit.error(name, found, expected))
        return errors

    def _keep(self, file: Path, sample: Sample) -> Path:
        missing = [name for name in self._inputs if name not in sample]
        if missing:
            raise InputError(
                f"a sample has no array for the inputs {', '.join(map(repr, missing))}",
                where=f"sample {file.stem}",
                fix=f"the inputs are {', '.join(self._inputs)}, and this sample has {', '.join(sample) or 'none'}",
            )
        feeds = {  # NumPy cannot feed bf16, so its bindings are fp32 here
            name: np.asarray(sample[name], np.float32 if kind.name == "bfloat16" else kind.numpy)
            for name, kind in self._inputs.items()
        }
        np.savez(file, *feeds.values(), *self._run(feeds, (), file))
        return file

    def _run(self, feeds: Mapping[str, Array], reduced: Iterable[int], file: Path) -> list[Array]:
        on = np.zeros(self._count, np.bool_)
        on[list(reduced)] = True
        try:
            found = self._session.run(self._outputs, {**feeds, **dict.fromkeys(self._switches, on)})
        except Exception as error:
            raise _failed(f"ONNX Runtime fails on sample {file.stem}", error) from error
        return [np.asarray(array) for array in found]


def _switched(graph: Graph, names: Sequence[str]) -> tuple[Path, Graph]:
    """A copy that computes all the plans, and its file."""
    copy = Graph(graph.to_proto(), graph.weights)  # with the types that the given one knows
    for step in (SwitchPrecision(names), Retype()):
        # Not by `pipeline.run`: the time of ONNX's inference is quadratic in the Ifs, and each tensor has its type already.
        for _ in step.apply(copy):
            pass
    copy.tidy()
    return copy.write(graph.weights.directory / "trials.onnx"), copy


def _failed(what: str, error: Exception) -> ComparisonError:
    why = str(error).strip().splitlines()[0]
    return ComparisonError(what, why=why, fix="leave max_error out, or mend the model or the samples")
