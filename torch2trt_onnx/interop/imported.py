"""What a command line of another tool says, in the words of `convert`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import InputError
from torch2trt_onnx.formats import LINEAR, TENSORRT_FORMATS, TORCH_FORMATS, Shape, tensorrt_format
from torch2trt_onnx.inputs import Input, Output, Range
from torch2trt_onnx.precision import ElementType, Precision
from torch2trt_onnx.rules import Rule

CONTIGUOUS = "contiguous_format"


@dataclass(frozen=True)
class Port:
    """What is said of an input or an output of a network; nothing where nothing was said.

    Args:
        name: of the binding; "" where a position alone tells which is meant.
        dtype: its type.
        format: TensorRT's name ("LINEAR", "HWC8").
        profiles: the smallest, the best and the largest shape in each optimization profile; of a shape tensor the values.
    """

    name: str = ""
    dtype: ElementType | None = None
    format: str = ""
    profiles: tuple[Range, ...] = ()

    @classmethod
    def of(cls, given: Any) -> Port:
        """A Port from a `Port`, an `Input`, an `Output`, or a `Binding` of an engine or a graph.

        Raises:
            InputError: it is none of these, or TensorRT has no such format of its type.
        """
        if isinstance(given, Port):
            return given
        if isinstance(given, Binding):
            profiles = tuple((low, opt, high) for low, opt, high in given.profiles)
            return cls(given.name, _element(given.dtype), given.layout, profiles)
        if isinstance(given, Input):
            ranges = given.profiles if given.values is None else (given.values,)
            return cls(given.name or "", given.dtype, _tensorrt_format(given), ranges)
        if isinstance(given, Output):
            return cls(given.name or "", given.dtype, _tensorrt_format(given))
        raise InputError(f"{given!r} is no input or output", fix="pass an Input, an Output, a Binding or a Port")

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension has a range, or differs between profiles."""
        return len({shape for profile in self.profiles for shape in profile}) > 1

    def to_input(self) -> Input:
        """The `Input` that says the same.

        Raises:
            InputError: no shape was said, or the shapes do not fit each other.
        """
        if not self.profiles:
            raise InputError("the flags tell no shape", where=f"input {self.name!r}", fix="give the shape with --input")
        return Input(
            profiles=self.profiles,
            dtype=self.dtype,
            format=self.format if self.format not in ("", LINEAR) else CONTIGUOUS,
            name=self.name or None,
        )

    def to_output(self) -> Output:
        """The `Output` that says the same."""
        return Output(self.name or None, dtype=self.dtype, format=self.format or CONTIGUOUS)

    def shaped(self, shape: Shape | None) -> Port:
        """The same, of a static shape where it has none of its own: trtexec takes no shapes of a static network."""
        return self if self.profiles or shape is None else replace(self, profiles=((shape, shape, shape),))

    def with_type(self, other: Port) -> Port:
        """The same, with the type and the format of another where that has them."""
        return replace(self, dtype=other.dtype or self.dtype, format=other.format or self.format)


def _element(word: str) -> ElementType | None:
    return ElementType.of(word) if word not in ("", "?") else None


def _tensorrt_format(port: Input | Output) -> str:
    """TensorRT's name of a format."""
    if port.format == CONTIGUOUS or port.format not in TORCH_FORMATS:
        return LINEAR if port.format == CONTIGUOUS else port.format
    where = f"{port.name!r}"
    shape = port.opt_shape if isinstance(port, Input) else None
    if port.dtype is None or shape is None:
        raise InputError(
            f"TensorRT's name for {port.format} depends on the type and the channels, and they are not known",
            where=where,
            fix=f"give one of TensorRT's names: {', '.join(TENSORRT_FORMATS)}",
        )
    try:
        return tensorrt_format(port.format, port.dtype.name, shape, "tensorrt")
    except ValueError as error:
        raise InputError(f"TensorRT has no such format: {error}", where=where) from None


@dataclass(frozen=True)
class Imported:
    """A command line of another tool, in the words of `convert`.

    Args:
        tool: "trtexec" or "polygraphy".
        precisions: the set that the engine may use; None: as the file is typed.
        strict: TensorRT must obey the precisions of layers, or fail.
        typing: "weak" or "strong"; None where the flags leave it to the version of TensorRT.
        rules: precisions of single layers; the last that matches wins.
        inputs: by name, those that the flags tell a shape of.
        positions: types and formats of the inputs in the order of the network; one alone is meant for all.
        outputs: likewise of the outputs.
        tensors: types and formats of inputs or outputs by name.
        model: the path of the model; "" where the flags name none.
        tf32: whether fp32 products may run in TF32.
        ignored: the flags that say nothing of precisions, shapes or bindings.
        notes: what could not be carried over exactly, and why.
    """

    tool: str
    precisions: frozenset[Precision] | None = None
    strict: bool = False
    typing: str | None = None
    rules: tuple[Rule, ...] = ()
    inputs: tuple[Port, ...] = ()
    positions: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    tensors: tuple[Port, ...] = ()
    model: str = ""
    tf32: bool = True
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def arguments(
        self, inputs: Mapping[str, Shape | None] | None = None, outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The arguments of `convert` that the flags say.

        Args:
            inputs: the model's, in their order, each with its shape where that is static; None where they are not known before it
                is exported.
            outputs: the names of the model's, likewise.

        Raises:
            InputError: the flags do not fit these names, or name a format and no shape.
        """
        said: dict[str, Any] = {"precisions": self.precisions, "strict": self.strict, "rules": self.rules}
        if inputs is None:
            said["inputs"] = self.as_inputs() or None
        else:
            ports = self.bound_inputs(list(inputs))
            blank = all(port == Port(port.name) for port in ports)
            said["inputs"] = None if blank else [port.shaped(inputs[port.name]).to_input() for port in ports]
        made = self.outputs if outputs is None else self.bound_outputs(outputs)
        said["outputs"] = [port.to_output() for port in made if port != Port(port.name)] or None
        return said

    def bound_inputs(self, names: Sequence[str]) -> list[Port]:
        """What is said of each input of a network, in its order.

        Args:
            names: of the inputs, in the order of the network.

        Raises:
            InputError: the flags name an input that it has not, or tell more or fewer formats than it has inputs.
        """
        found = self._bound(names, self.positions, "inputs")
        for port in self.inputs:
            meant = [i for i, name in enumerate(names) if is_meant(port.name, name)]
            if not meant:
                raise InputError(
                    f"the flags tell the shape of {port.name!r}, and there is no such input",
                    why=f"the inputs are {', '.join(map(repr, names))}",
                    fix="name the inputs as the ONNX file does",
                )
            for index in meant:
                if port.name == names[index] or not found[index].profiles:  # the exact name wins
                    found[index] = replace(port.with_type(found[index]), name=names[index])
        return found

    def bound_outputs(self, names: Sequence[str]) -> list[Port]:
        """What is said of each output of a network, in its order.

        Raises:
            InputError: the flags tell more or fewer formats than it has outputs.
        """
        return self._bound(names, self.outputs, "outputs")

    def as_inputs(self) -> list[Input]:
        """`Input`s in the order of the flags, for a model whose inputs have no names yet.

        Raises:
            InputError: types or formats are told by position, and it is not known whose they are.
        """
        if len(self.positions) > 1 and len(self.inputs) != 1:
            raise InputError(
                "the flags tell types and formats by the position of the input alone",
                why="the order in which they name the shapes need not be that of the network",
                fix="give the inputs with --input NAME:SHAPE:DTYPE:FORMAT",
            )
        told = {port.name: port for port in self.tensors}
        first = self.positions[0] if self.positions else Port()
        return [port.with_type(first).with_type(told.get(port.name, Port())).to_input() for port in self.inputs]

    def _bound(self, names: Sequence[str], positions: Sequence[Port], what: str) -> list[Port]:
        if len(positions) not in (0, 1, len(names)):
            raise InputError(
                f"the flags tell {len(positions)} formats of {what}, and the network has {len(names)}",
                where=f"{what} {', '.join(map(repr, names))}",
                fix="tell one for all, or one for each in the order of the network",
            )
        told = {port.name: port for port in self.tensors}
        found = []
        for index, name in enumerate(names):
            position = positions[index if len(positions) > 1 else 0] if positions else Port()
            found.append(Port(name).with_type(position).with_type(told.get(name, Port())))
        return found


def is_meant(pattern: str, name: str) -> bool:
    """Whether trtexec takes a name for what a pattern means: equal, or with the first `*` standing for anything."""
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == name
    return len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)


def exact_rule(name: str, precision: object) -> Rule:
    """The rule for the one node of a name, whatever characters that has."""
    return Rule(Precision.of(precision), name=literal(name))


def pattern_rule(pattern: str, precision: object) -> Rule:
    """The rule for the nodes that trtexec takes a pattern for."""
    before, star, after = pattern.partition("*")
    return Rule(Precision.of(precision), name=literal(before) + star + literal(after, head=False))


def precision_of(kind: ElementType) -> tuple[Precision | None, str]:
    """The precision that a layer can be told by a type; or None, and why there is none."""
    if kind.precision is None:
        return None, "it is no precision, and integers are as the model has them"
    if kind.precision.is_quantized:
        return None, f"here a node is {kind.precision.value} through Q/DQ in the model only"
    return kind.precision, ""


def literal(text: str, *, head: bool = True) -> str:
    """A glob for nothing but a text. At the `head` of a rule "re:" would begin a regular expression."""
    glob = "".join(f"[{c}]" if c in "*?[" else c for c in text)
    return f"[r]{glob[1:]}" if head and glob.startswith("re:") else glob


def distinct(words: Iterable[str]) -> tuple[str, ...]:
    """The words, each once."""
    return tuple(dict.fromkeys(words))
