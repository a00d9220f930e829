"""ONNX's own backend tests through our pipeline; a program, because ONNX Runtime can end its process.

    python tests/onnx_backend.py FILE MODE:STRIDE ...

A forked child runs the cases, and writes the name of each and what it does before it does it. Where the child dies, the case is
written down as crashed, and the next child goes on behind it: so a crash has a name, and ends nothing else.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import onnx
from graphs import Scene
from onnx import AttributeProto, TensorProto, numpy_helper

from torch2trt_onnx import pipeline
from torch2trt_onnx.compare import errors
from torch2trt_onnx.errors import ConversionError, PassError
from torch2trt_onnx.passes import EmulateReduced

Value = Any
"""An array, a list of them, or None: a tensor, a sequence, an absent optional."""

Values = list[tuple[int, Value]]
"""Outputs, each with its ONNX type; -1 for what is no tensor, and for strings."""

TOLERANCE = 1e-5
"""The largest |a - b| / (1 + |b|) where fp64 became fp32: a few dozen roundings of fp32."""


@dataclass(frozen=True)
class Case:
    """A model with inputs, in the order of its graph."""

    name: str
    model: onnx.ModelProto
    inputs: list[Value]


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Args:
        case: its name.
        mode: a name in `MODES`.
        result: "same"; "refused", by an error of ours that gives a reason; "skipped", as ONNX Runtime cannot run it as it was
            given, so that it was only checked; or what is wrong: "different", "invalid", "lost", "retyped", "failed", "crashed";
            "loose": the graph is right, and fp16 cannot hold its numbers.
        why: the reason; for "same" how it is the same.
    """

    case: str
    mode: str
    result: str
    why: str = ""


def cases() -> Iterator[Case]:
    """The node cases, which onnx makes when it is asked, and those that it ships as files."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, in onnx's own reference code
        found = collect_testcases(None)
    for case in found:
        yield Case(case.name, case.model, [_value(v) for v in case.data_sets[0][0]])
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for case in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            data = Path(case.model_dir) / "test_data_set_0"
            inputs = [_read(data / f"input_{n}.pb", info.type) for n, info in enumerate(_inputs(model))]
            yield Case(f"{kind}/{case.name}", model, inputs)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    names = {t.name for t in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in names]


def _read(path: Path, kind: onnx.TypeProto) -> Value:
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))


def _value(given: Value) -> Value:
    if isinstance(given, TensorProto):
        return numpy_helper.to_array(given)
    if isinstance(given, (list, tuple)):
        return [_value(v) for v in given]
    return None if given is None else np.asarray(given)


def run(model: onnx.ModelProto, inputs: Sequence[Value]) -> Values:
    """The outputs in ONNX Runtime on the CPU, without its optimisations. Tensors of all types go in and come out."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = list(zip(_inputs(model), inputs, strict=True))
    plain = all(isinstance(v, np.ndarray) and v.dtype.kind not in "OUS" for v in inputs)
    if not plain or not all(info.type.HasField("tensor_type") for info in model.graph.output):
        return [(-1, v) for v in session.run(None, {info.name: v for info, v in fed if v is not None})]
    feeds = {info.name: _ort_value(v, info.type.tensor_type.elem_type) for info, v in fed}
    return [_own(v) for v in session.run_with_ort_values(None, feeds)]


def _ort_value(array: np.ndarray, kind: int) -> Any:
    """ONNX Runtime's own tensor, because its Python takes no arrays of types that NumPy lacks."""
    import onnxruntime as ort

    made = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), kind)
    data = numpy_helper.from_array(array).raw_data
    if data:
        ctypes.memmove(made.data_ptr(), data, len(data))
    return made


def _own(value: Any) -> tuple[int, Value]:
    if not value.is_tensor() or value.data_type() == "tensor(string)":
        return -1, value.numpy()
    tensor = TensorProto(data_type=value.element_type(), dims=value.shape())
    tensor.raw_data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return value.element_type(), numpy_helper.to_array(tensor)


# --- The ways of a case


def through_passes(case: Case, expected: Values | str) -> tuple[str, str]:
    """All passes, with the types that the case has: the graph is valid and loses nothing, and the numbers are the same."""
    return _compared(case, expected, strict=True)


def through_folding(case: Case, expected: Values | str) -> tuple[str, str]:
    """The same with constants for inputs, so that all that can be folded is."""
    if isinstance(expected, str):
        return "skipped", expected
    frozen = _frozen(case)
    try:
        expected = run(frozen.model, frozen.inputs)
    except Exception as error:
        return "skipped", f"with constants for inputs, {_line(error)}"
    try:
        return _compared(frozen, expected, strict=False)
    except Exception as error:
        # AffineGrid's own expansion feeds vectors of one number to Range, which goes unseen as long as they are not known.
        if "Input to 'Range' op should be scalars" in str(error):
            return "skipped", "with constants for inputs, Range reads vectors"
        raise


def _compared(case: Case, expected: Values | str, *, strict: bool) -> tuple[str, str]:
    scene = Scene(case.model)
    lost = _lost(case.model, scene.proto())
    if lost:
        return "lost", lost
    records = pipeline.run(scene.graph, pipeline.passes({}))
    model = scene.proto()
    broken = _broken(case.model, model) if strict else ""
    if broken:
        return "invalid", broken
    if isinstance(expected, str):
        return "skipped", expected
    demoted = any(record.name == "DemoteDouble" and record.changes for record in records)
    why = _difference(run(model, _fed(model, case.inputs)), expected, TOLERANCE if demoted else 0)
    if why and TensorProto.FLOAT16 in (kind for kind, _ in expected):
        # ONNX Runtime rounds not between all fp16 nodes; with all roundings written down, both graphs give one result.
        before, after = _emulated(case.model), _emulated(model)
        why = _difference(run(after, _fed(after, case.inputs)), run(before, case.inputs), 0)
        return ("different", why) if why else ("same", "with each rounding of fp16")
    return ("different", why) if why else ("same", "within the tolerance of fp64 as fp32" if demoted else "bit for bit")


def _frozen(case: Case) -> Case:
    """The case with its tensors as initializers; its outputs are copies, because what makes an output is not folded."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept, values = [], []
    for info, value in zip(_inputs(case.model), case.inputs, strict=True):
        if isinstance(value, np.ndarray) and info.type.HasField("tensor_type"):
            model.graph.initializer.append(numpy_helper.from_array(value, info.name))
        else:
            kept.append(info)
            values.append(value)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        model.opset_import.add(domain="", version=13)
    for info in model.graph.output:
        name = info.name
        info.name = f"{name}/copy"
        model.graph.node.append(onnx.helper.make_node("Identity", [name], [info.name]))
    return Case(case.name, model, values)


def through_convert(case: Case, expected: Values | str) -> tuple[str, str]:
    """`convert` as the case is typed: it compares the numbers itself."""
    conversion = _converted(case, None)
    broken = _broken(case.model, conversion.onnx)
    if broken:
        return "invalid", broken
    comparison = conversion.report.comparison
    if not comparison.made:
        # What it has no types for it does not compare; all else that ONNX Runtime runs it must.
        known = "is not an element type|No corresponding Numpy type|unsupported ScalarType|is no tensor|Int4"
        excused = isinstance(expected, str) or re.search(known, comparison.reference)
        return "skipped" if excused else "failed", comparison.reference
    if not comparison.ok:
        return "different", str([*comparison.outputs, *comparison.shapes])
    return "same", "within the tolerance"


def through_fp16(case: Case, expected: Values | str) -> tuple[str, str]:
    """`convert` of an fp32 model to fp16: the result is valid, and ONNX Runtime runs it if it has the kernels."""
    if all(info.type.tensor_type.elem_type != TensorProto.FLOAT for info in _inputs(case.model)):
        return "skipped", "it takes no fp32"
    conversion = _converted(case, {"fp16"})
    model = conversion.onnx
    broken = _broken(case.model, model)
    if broken:
        return "invalid", broken
    if isinstance(expected, str):
        return "skipped", expected
    try:
        run(model, _fed(model, case.inputs))
    except Exception as error:
        if re.search("NOT_IMPLEMENTED|is not supported with", str(error)):
            return "skipped", f"in fp16, {_line(error)}"
        return "invalid", f"ONNX Runtime: {_line(error)}"
    wanted = ["FLOAT" if kind == "DOUBLE" else kind for kind in _kinds(case.model)]
    if wanted != _kinds(model):
        return "retyped", f"outputs {_kinds(model)} for {wanted}"
    comparison = conversion.report.comparison
    if not comparison.made:
        return "skipped", comparison.reference
    return "same" if comparison.ok else "loose", "" if comparison.ok else str(comparison.outputs)


def _kinds(model: onnx.ModelProto) -> list[str]:
    return [TensorProto.DataType.Name(info.type.tensor_type.elem_type) for info in model.graph.output]


def _converted(case: Case, precisions: object) -> Any:
    import torch

    from torch2trt_onnx import ConversionWarning, convert

    examples = {}
    for info, value in zip(_inputs(case.model), case.inputs, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.name in _TORCH:
            examples[info.name] = torch.from_numpy(value.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConversionWarning)
        return convert(case.model, examples, precisions, backend="none")


_TORCH = frozenset(
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64"]
)
"""The types that both NumPy and PyTorch have; ml_dtypes' do not pass from one to the other."""

Mode = Callable[[Case, Values | str], tuple[str, str]]
"""From a case and what it gives as it is (or why ONNX Runtime cannot run it) to a result and the reason of an `Outcome`."""

MODES: dict[str, Mode] = {
    "passes": through_passes,
    "folding": through_folding,
    "convert": through_convert,
    "fp16": through_fp16,
}


# --- What is judged


def _difference(found: Values, expected: Values, tolerance: float) -> str:
    """How outputs differ, in words; '' where they do not. With a tolerance, fp32 may stand for fp64."""
    if len(found) != len(expected):
        return f"{len(found)} outputs for {len(expected)}"
    for (kind, a), (wanted, b) in zip(found, expected, strict=True):
        if kind != wanted and not (tolerance and (kind, wanted) == (TensorProto.FLOAT, TensorProto.DOUBLE)):
            return f"type {kind} for {wanted}"
        if _same(a, b):
            continue
        if kind == -1 or a.shape != b.shape:
            return f"{a!r} for {b!r}"
        relative = errors(a, b)[1]
        if relative > tolerance or not tolerance:
            return f"numbers, by {relative:.3g}"
    return ""


def _same(a: Value, b: Value) -> bool:
    """Whether two values are the same bit for bit; strings by value."""
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool((a == b).all()) if a.dtype.kind in "OU" else a.tobytes() == b.tobytes()


def _fed(model: onnx.ModelProto, inputs: Sequence[Value]) -> list[Value]:
    """The inputs in the types that a graph has for them: fp32 for fp64, or what `convert` made of them."""
    fed = []
    for info, value in zip(_inputs(model), inputs, strict=True):
        kind = info.type.tensor_type.elem_type
        is_tensor = isinstance(value, np.ndarray) and kind and kind != TensorProto.STRING
        fed.append(value.astype(onnx.helper.tensor_dtype_to_np_dtype(kind), copy=False) if is_tensor else value)
    return fed


def _emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    scene = Scene(model)
    scene.run(EmulateReduced())
    return scene.proto()


def _lost(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What reading and writing a graph lost of its nodes and bindings; '' where nothing."""
    missing = Counter(map(_key, _nodes(before.graph))) - Counter(map(_key, _nodes(after.graph)))
    if missing:
        return f"node {next(iter(missing))}"
    for field in ("input", "output"):
        given = _inputs(before) if field == "input" else before.graph.output
        if [(v.name, v.type) for v in given] != [(v.name, v.type) for v in getattr(after.graph, field)]:
            return f"{field}s {[v.name for v in getattr(before.graph, field)]}"
    return ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _key(node: onnx.NodeProto) -> tuple[object, ...]:
    def value(attribute: AttributeProto) -> bytes:
        tensor = None
        if attribute.type == AttributeProto.TENSOR:
            tensor = attribute.t
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            return b"dense, and tested elsewhere"
        if tensor is None:
            plain = AttributeProto()
            plain.CopyFrom(attribute)
            plain.ClearField("doc_string")
            return bytes(plain.SerializeToString(deterministic=True))
        array = numpy_helper.to_array(tensor)
        data = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
        return repr((tensor.data_type, array.shape)).encode() + data

    attributes = tuple(sorted((a.name, value(a)) for a in node.attribute if a.type != AttributeProto.GRAPH))
    return node.op_type, node.domain, len(node.input), len(node.output), attributes


def _broken(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What onnx.checker says against a model that it did not say of the one before; '' where nothing."""
    for model in (after, before):
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            said = _line(error)
            continue
        return "" if model is after else said
    return ""


def _line(error: BaseException) -> str:
    return " | ".join(line.strip() for line in str(error).splitlines() if line.strip())[:600] or type(error).__name__


# --- The program


def run_all(path: Path, found: Sequence[Case], strides: dict[str, int], modes: dict[str, Mode]) -> None:
    """Run every n-th case in each mode, and write the outcomes, one line of JSON each."""
    gc.freeze()  # `convert` collects garbage, and would search all this each time
    at = 0
    while at < len(found):
        child = os.fork()
        if not child:
            with path.open("a") as file:
                for index in range(at, len(found)):
                    _run_case(found[index], index, {m: modes[m] for m, n in strides.items() if index % n == 0}, file)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not status:
            break
        last = json.loads(path.read_text().splitlines()[-1])
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        # Where the case as it was given ends the process, there is nothing to compare with.
        result = "skipped" if last["mode"] == "source" else "crashed"
        with path.open("a") as file:
            _write(file, {**last, "result": result, "why": f"the process dies of {name}"})
        at = last["at"] + 1


def _run_case(case: Case, index: int, modes: dict[str, Mode], file: TextIO) -> None:
    if not modes:
        return
    _write(file, {"case": case.name, "mode": "source", "at": index})
    try:
        expected: Values | str = run(case.model, case.inputs)
    except Exception as error:  # of many classes, that share no base
        expected = _line(error)
    for name, mode in modes.items():
        _write(file, {"case": case.name, "mode": name, "at": index})
        try:
            result, why = mode(case, expected)
        except ConversionError as error:
            result = "failed" if isinstance(error, PassError) else "refused"
            why = f"{type(error).__name__}: {_line(error)}"
        except Exception as error:
            result, why = "failed", f"{type(error).__name__}: {_line(error)}"
        _write(file, asdict(Outcome(case.name, name, result, why)))


def _write(file: TextIO, row: dict[str, object]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def read(path: Path) -> list[Outcome]:
    """The outcomes of a file that `run_all` wrote."""
    rows = map(json.loads, path.read_text().splitlines())
    return [Outcome(r["case"], r["mode"], r["result"], r["why"]) for r in rows if "result" in r]


if __name__ == "__main__":
    wanted = {mode: int(stride) for mode, stride in (word.split(":") for word in sys.argv[2:])}
    if {"convert", "fp16"} & {*wanted}:
        import torch  # noqa: F401 - once, and not in each child
    run_all(Path(sys.argv[1]), [*cases()], wanted, MODES)
