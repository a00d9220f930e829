"""Graphs as ONNX text, and what must hold of every rewrite."""

from __future__ import annotations

import difflib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from torch2trt_onnx import Options, pipeline
from torch2trt_onnx.backends import BACKENDS, BuildResult
from torch2trt_onnx.building import request_as_is
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes import Change
from torch2trt_onnx.precision import ElementType, label
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.weights import WeightStore

OPSET = 20
Arrays = Mapping[str, np.ndarray]


def parse(text: str, arrays: Arrays | None = None, opset: int = OPSET) -> onnx.ModelProto:
    """A model from `graph_name (inputs) => (outputs) { nodes }`.

    Args:
        text: without the header of the model.
        arrays: more initializers: the text cannot say bf16 and fp16 ones. Unused ones do no harm.
        opset: of the default domain.
    """
    domains = '"" : %d, "com.example" : 1' % opset  # noqa: UP031
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]> {text}")
    for name, array in (arrays or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


class Scene:
    """A graph with a folder for its weights, which goes with it."""

    def __init__(self, source: str | onnx.ModelProto, arrays: Arrays | None = None, opset: int = OPSET) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)  # silent, where TemporaryDirectory warns
        self.weights = WeightStore(Path(folder))
        self.source = source if isinstance(source, onnx.ModelProto) else parse(source, arrays, opset)
        self.graph = Graph(self.weights.adopt(self.source, None), self.weights)

    def run(self, *passes: pipeline.Step) -> list[Change]:
        """Run passes, and return all that they changed."""
        return [change for record in pipeline.run(self.graph, passes) for change in record.changes]

    def proto(self) -> onnx.ModelProto:
        """The model as it stands, with its weights inside."""
        model = self.graph.to_proto()
        self.weights.inline(model)
        return model

    def lines(self, kept: set[str] | None = None) -> list[str]:
        """The graph as text; see `render`."""
        return render(self.graph, names(self.source.graph) if kept is None else kept)

    def constant(self, name: str) -> np.ndarray:
        """The values of an initializer."""
        return next(
            self.graph.array(t)
            for node in self.graph.nodes()
            for t in node.inputs
            if isinstance(t, gs.Constant) and t.name == name
        )


def build(scene: Scene, backend: str = "rtx", **options: object) -> BuildResult:
    """The engine of a graph as it stands, of static shapes."""
    maker, chosen, folder = BACKENDS[backend], Options(**options), scene.weights.directory
    path = scene.graph.write(folder / "model.onnx")
    return maker.build(maker.job(request_as_is(scene.graph, path, maker), chosen, folder), chosen, folder, None)


def names(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors of a graph and its bodies, unused initializers left out."""
    found = {t.name for t in (*graph.input, *graph.output)}
    for node in graph.node:
        found.update((*node.input, *node.output))
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= names(attribute.g)
    return found


def render(graph: Graph, kept: set[str]) -> list[str]:
    """A graph as lines of text that are equal where graphs are: each node with its attributes and tensors.

    Args:
        graph: the graph.
        kept: the names that mean something; other tensors are numbered, so that the names of new ones do not matter.
    """
    numbers: dict[int, int] = {}

    def tensor(t: gs.Tensor) -> str:
        if isinstance(t, gs.Constant):
            return constant(graph, t, kept)
        if not t.name or t.name in kept:
            return t.name or "''"
        return f"%{numbers.setdefault(id(t), len(numbers))}"

    def typed(t: gs.Tensor) -> str:
        kind = label(onnx_type(t))
        return f"{kind} {tensor(t)}" if not isinstance(t, gs.Constant) else tensor(t)

    def body(inner: gs.Graph, indent: str) -> Iterator[str]:
        yield f"{indent}({', '.join(map(typed, inner.inputs))}) => ({', '.join(map(typed, inner.outputs))})"
        for node in inner.nodes:
            plain = {k: v for k, v in sorted(node.attrs.items()) if not isinstance(v, gs.Graph)}
            words = ", ".join(
                f"{k}={constant(graph, v, set()) if isinstance(v, gs.Constant) else v}" for k, v in plain.items()
            )
            op = f"{node.domain}.{node.op}" if node.domain else node.op
            yield (
                f"{indent}  {', '.join(map(typed, node.outputs))} = {op}<{words}>({', '.join(map(tensor, node.inputs))})"
            )
            for key, value in sorted(node.attrs.items()):
                if isinstance(value, gs.Graph):
                    yield f"{indent}    {key}:"
                    yield from body(value, indent + "      ")

    return list(body(graph.ir, ""))


def constant(graph: Graph, t: gs.Constant, kept: set[str]) -> str:
    """The values of an initializer as text, with its name where that is kept."""
    values = graph.array(t)
    name = f"{t.name} = " if t.name in kept else ""
    return f"[{name}{label(onnx_type(t))}{list(values.shape)} {values.reshape(-1).tolist()}]"


def bindings(graph: Graph) -> list[tuple[str, int, list[object] | None]]:
    """Name, type and shape of each input and output."""
    return [
        (t.name, onnx_type(t), None if t.shape is None else list(t.shape))
        for t in (*graph.ir.inputs, *graph.ir.outputs)
    ]


def feeds(model: onnx.ModelProto, seed: int = 0, sizes: int = 3) -> dict[str, np.ndarray]:
    """Random arrays for the inputs of a model: small numbers, so that no type overflows; `sizes` is that of dynamic dimensions."""
    random = np.random.default_rng(seed)
    found = {}
    for value in model.graph.input:
        shape = [d.dim_value if d.HasField("dim_value") else sizes for d in value.type.tensor_type.shape.dim]
        kind = ElementType.of(value.type.tensor_type.elem_type).numpy
        numbers = (
            random.normal(scale=3, size=shape)
            if kind.kind == "f"
            else random.integers(0, 2 if kind.kind == "b" else 9, shape)
        )
        found[value.name] = np.asarray(numbers).astype(kind)
    return found


def outputs(model: onnx.ModelProto, given: Arrays) -> list[np.ndarray]:
    """The outputs of a model in ONNX Runtime, without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(given))


def assert_same_numbers(before: onnx.ModelProto, after: onnx.ModelProto, *, relative: float = 0.0) -> None:
    """Both give the same outputs for random inputs; exactly, or nearly so where `relative` is not 0."""
    for seed in range(3):
        given = feeds(before, seed)
        for a, b in zip(outputs(before, given), outputs(after, given), strict=True):
            np.testing.assert_allclose(b, a, rtol=relative, atol=relative, strict=True)


def assert_rewrites(
    before: str,
    after: str,
    passes: Sequence[pipeline.Step],
    *,
    arrays: Arrays | None = None,
    numbers: bool = True,
    relative: float = 0.0,
    same_bindings: bool = True,
    opset: int = OPSET,
) -> list[Change]:
    """Passes make one graph of another, and all that must hold of a pass does.

    Args:
        before: ONNX text; see `parse`.
        after: likewise. Tensors that `before` names keep their names; the names of others do not matter. Their order does.
        passes: what to run.
        arrays: initializers of both.
        numbers: whether the numbers in ONNX Runtime are the same; False only where `before` cannot run, or values may change.
        relative: the tolerance of the numbers.
        same_bindings: whether inputs and outputs keep their types and shapes.
        opset: of both.

    Returns:
        The changes.
    """
    scene, expected = Scene(before, arrays, opset), Scene(after, arrays, opset)
    kept = names(scene.source.graph)
    pipeline.run(expected.graph, [])
    given = bindings(scene.graph)
    changes = scene.run(*passes)
    found, wanted = scene.lines(), expected.lines(kept)
    assert found == wanted, "\n".join(difflib.unified_diff(wanted, found, "expected", "found", lineterm="", n=99))
    assert scene.graph.type_problems() == []
    if same_bindings:
        assert bindings(scene.graph) == given
    onnx.checker.check_model(scene.proto(), full_check=True)
    if numbers:
        assert_same_numbers(scene.source, scene.proto(), relative=relative)
    text = scene.proto().SerializeToString(deterministic=True)
    assert scene.run(*passes) == [], "a second run finds something to do"
    assert scene.proto().SerializeToString(deterministic=True) == text
    return changes


def rewrites(cases):
    """A test for each sentence; a case is (before, after) or (before, after, options of assert_rewrites)."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in cases.items()])


def check(case, *passes):
    before, after, *options = case
    return assert_rewrites(before, after, passes, **(options[0] if options else {}))
