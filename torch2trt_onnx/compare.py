"""Numbers: the model in PyTorch against the final ONNX graph in ONNX Runtime, on the CPU.

Reduced precisions are computed in fp32 and rounded at each node (`EmulateReduced`), as PyTorch's CPU kernels do, so this shows
that the graph says what the model says, and not what a GPU's fp16 arithmetic makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from torch2trt_onnx.formats import Shape
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.inputs import PLAIN, Input, to_numpy
from torch2trt_onnx.passes.emulate_reduced import EmulateReduced, needs_emulation
from torch2trt_onnx.precision import ElementType, Precision
from torch2trt_onnx.sessions import bare_options
from torch2trt_onnx.typecheck import onnx_type

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.generic]
Values = Sequence[tuple[Array, str]]
"""Outputs, each with the name of its type: NumPy holds bf16 as fp32."""

Tensors = Sequence["torch.Tensor | Array"]
Runner = Callable[[Tensors], Values]
"""A reference in PyTorch is given tensors, one in ONNX Runtime either."""

_STEP = 5e-2  # a number on the border between two steps of the quantizer may fall on either side
TOLERANCES = {
    Precision.FP32: 1e-4,
    Precision.FP16: 6e-3,
    Precision.BF16: 4e-2,
    Precision.FP8: _STEP,
    Precision.INT8: _STEP,
    Precision.INT4: _STEP,
}
"""The largest |a - b| / (1 + |b|) of a right conversion, as measured on 61 modules and 8 pretrained models (not the quantized ones).

The widest one of the precisions in the plan counts."""

NARROWED = 5e-2
"""The same where the model was lowered from fp32, so that each rounding counts, and not only those that fall otherwise than PyTorch's."""


@dataclass(frozen=True)
class OutputComparison:
    """One output, of the graph and of the reference.

    Args:
        name: the binding.
        dtype, reference_dtype: the type of each; "float32" for "float64" is right, because TensorRT has no fp64.
        shape: of the graph's.
        absolute: the largest |a - b|.
        relative: the largest |a - b| / (1 + |b|), b from the reference.
        ok: whether the types are the same, and `relative` is within the tolerance.
    """

    name: str
    dtype: str
    reference_dtype: str
    shape: Shape
    absolute: float
    relative: float
    ok: bool


@dataclass
class Comparison:
    """What came of it.

    Args:
        made: whether the numbers were compared.
        reference: what the graph was compared with; or why it was not compared.
        tolerance: of `relative`.
        outputs: at opt shape.
        shapes: what is wrong at min or max shape, in words; empty where nothing is, or nothing is dynamic.
    """

    made: bool
    reference: str
    tolerance: float = 0.0
    outputs: list[OutputComparison] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it was made and everything agrees."""
        return self.made and not self.shapes and all(o.ok for o in self.outputs)


def compare(
    model: Path,
    graph: Graph,
    reference: Runner,
    reference_inputs: Sequence[Input],
    device: torch.device | None,
    tolerance: float,
    *,
    what: str,
    asked: Mapping[str, int] | None = None,
) -> Comparison:
    """Run the final graph and the reference at opt, min and max shape.

    Args:
        model: the final ONNX file.
        graph: the same graph.
        reference: from tensors in the order of `reference_inputs` to arrays in the order of the graph's outputs.
        reference_inputs: of the reference; may have inputs that the graph lost.
        device: where the reference lives.
        tolerance: see `OutputComparison.relative`.
        what: the reference in words.
        asked: output name -> ONNX type, where the user asked for another than the reference has.
    """
    result = Comparison(True, what, tolerance)
    odd = [t.name for t in graph.ir.outputs if getattr(t, "type", "tensor_type") != "tensor_type"]
    if odd:
        return Comparison(False, f"not made: the output {odd[0]!r} is no tensor")
    try:
        cases = _cases(graph, reference, reference_inputs, device, result)
    except _ReferenceError as error:
        return Comparison(False, f"not made: the reference fails: {error}")
    try:
        runner = OnnxRunner(model, graph)
    except Exception as error:
        return Comparison(False, f"not made: ONNX Runtime cannot load the graph: {_line(error)}")
    for case in cases:
        try:
            found = runner(case.feeds)
        except Exception as error:
            if case.point == "opt":
                return Comparison(False, f"not made: ONNX Runtime fails: {_line(error)}")
            result.shapes.append(
                f"the graph fails at {case.point} shape, so tracing baked a shape into it: {_line(error)}"
            )
            continue
        outputs = _judge(graph, found, case.expected, tolerance, asked or {})
        if case.point == "opt":
            result.outputs = outputs
            continue
        result.shapes += [
            f"output {o.name!r} differs at {case.point} shape by {o.relative:.3g}, "
            "so tracing may have baked a shape into the graph"
            for o in outputs
            if not o.ok
        ]
    return result


@dataclass
class _Case:
    """One shape of the inputs: what goes in, and what the reference makes of it."""

    point: str
    feeds: dict[str, torch.Tensor | Array]
    expected: Values


class _ReferenceError(Exception):
    """The reference fails at opt shape."""


def _cases(
    graph: Graph,
    reference: Runner,
    reference_inputs: Sequence[Input],
    device: torch.device | None,
    result: Comparison,
) -> list[_Case]:
    """Run the reference at opt, min and max shape, before the graph is loaded: two models' weights are never mapped at once."""
    bindings = {t.name: ElementType.of(onnx_type(t)) for t in graph.ir.inputs}  # fp32 where fp64 was asked for
    cases = []
    for point in ("opt", "min", "max"):
        places = [i.at(point) for i in reference_inputs]
        if point != "opt" and places == [i.at("opt") for i in reference_inputs]:
            continue
        try:
            # Numbers that the binding can hold: both sides get the same.
            tensors = [
                _numbers(
                    i, place, bindings.get(str(i.name)) or ElementType.of(i.dtype), n, needs_torch=device is not None
                )
                for n, (i, place) in enumerate(zip(reference_inputs, places, strict=True))
            ]
            expected = reference([_own(t, i, device) for i, t in zip(reference_inputs, tensors, strict=True)])
        except Exception as error:  # whatever the user's own code raises; and PyTorch makes no int4 numbers
            if point == "opt":
                raise _ReferenceError(_line(error)) from error
            result.shapes.append(f"the model itself fails at {point} shape: {_line(error)}")
            continue
        feeds = {str(i.name): t for i, t in zip(reference_inputs, tensors, strict=True)}
        cases.append(_Case(point, feeds, expected))
    return cases


def _numbers(
    wanted: Input, place: tuple[Shape, Shape | None], kind: ElementType, seed: int, *, needs_torch: bool
) -> torch.Tensor | Array:
    """What goes in at one input; without PyTorch where that is not needed."""
    shape, values = place
    found = wanted.array(shape, kind, seed, values) if not needs_torch else None
    return found if found is not None else wanted.tensor(shape, kind, None, seed, values)


def _own(given: torch.Tensor | Array, wanted: Input, device: torch.device | None) -> torch.Tensor | Array:
    """A copy in the type of the reference, which may write into its input."""
    kind = ElementType.of(wanted.dtype)
    if not isinstance(given, np.ndarray):
        return given.to(device, kind.torch, copy=True)
    rounded = given.astype(kind.numpy)
    return rounded if kind.numpy.kind in PLAIN else rounded.astype(np.float32)


class OnnxRunner:
    """ONNX Runtime on the CPU, without its graph optimisations, and without copies of the weights.

    Args:
        model: an ONNX file.
        graph: the same, to find out whether it has fp16 or bf16; then a copy is made that emulates them.
    """

    def __init__(self, model: Path, graph: Graph) -> None:
        import onnxruntime as ort

        if needs_emulation(graph):
            model = _emulated(model, graph)
        self.types = [ElementType.of(onnx_type(tensor)).name for tensor in graph.ir.outputs]
        self.session: Any = ort.InferenceSession(str(model), bare_options(), providers=["CPUExecutionProvider"])

    def __call__(self, feeds: Mapping[str, torch.Tensor | Array]) -> Values:
        """The outputs, in the order of the graph, under the types that they have there."""
        given = {i.name: _plain(feeds[i.name]) for i in self.session.get_inputs()}
        return list(zip(self.session.run(None, given), self.types, strict=True))


def _plain(given: torch.Tensor | Array) -> Array:
    return given if isinstance(given, np.ndarray) else to_numpy(given)


def torch_runner(eager: Callable[..., Sequence[torch.Tensor]]) -> Runner:
    """A reference from a PyTorch callable of flat tensors."""

    def call(tensors: Tensors) -> Values:
        import torch

        with torch.no_grad():
            return [(to_numpy(t), ElementType.of(t.dtype).name) for t in eager(*tensors)]

    return call


def onnx_runner(model: Path, graph: Graph, names: Sequence[str]) -> Runner:
    """A reference from an ONNX file, of tensors in the order of `names`; loaded anew for each call, and let go after it."""

    def call(tensors: Tensors) -> Values:
        return OnnxRunner(model, graph)(dict(zip(names, tensors, strict=True)))

    return call


def tolerance_of(precisions: Sequence[str], *, narrowed: bool = False) -> float:
    """The tolerance of a plan: that of its widest-rounding precision.

    Args:
        precisions: that something rounds to.
        narrowed: whether what is compared with rounds to fp32 only; see `NARROWED`.
    """
    return (
        NARROWED
        if narrowed
        else max((TOLERANCES[Precision.of(p)] for p in precisions), default=TOLERANCES[Precision.FP32])
    )


def _emulated(model: Path, given: Graph) -> Path:
    """A copy of a model that computes in fp32, beside it; see `EmulateReduced`."""
    graph = Graph(given.to_proto(), given.weights)  # with the types that the given one knows
    for _ in EmulateReduced().apply(graph):
        pass
    graph.tidy()
    return graph.write(model.with_name(f"emulated-{model.name}"))


FORCED = {("float32", "float64"), ("int32", "int64")}
"""Types of an output that TensorRT has for those that it lacks; the user has been warned."""


def _judge(
    graph: Graph, found: Values, expected: Values, tolerance: float, asked: Mapping[str, int]
) -> list[OutputComparison]:
    results = []
    for tensor, a, (b, wanted) in zip(graph.ir.outputs, found, expected, strict=True):
        kind = ElementType.of(onnx_type(tensor)).name
        absolute, relative = errors(a[0], b) if a[0].shape == b.shape else (np.inf, np.inf)
        same_type = kind == wanted or (kind, wanted) in FORCED or asked.get(tensor.name) == onnx_type(tensor)
        ok = relative <= tolerance and same_type
        results.append(OutputComparison(tensor.name, kind, wanted, a[0].shape, absolute, relative, ok))
    return results


def errors(found: Array, expected: Array) -> tuple[float, float]:
    """The largest |a - b| and the largest |a - b| / (1 + |b|); equal infinities and two NaNs differ by 0, one alone by infinity."""
    a, b = (x.astype(np.float64) for x in (found, expected))
    if not a.size:
        return 0.0, 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
        scaled = np.where(same, 0.0, difference / (1 + np.abs(b)))  # NaN where b is
    return tuple(float(np.nan_to_num(x, nan=np.inf, posinf=np.inf).max()) for x in (difference, scaled))  # type: ignore[return-value]


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
