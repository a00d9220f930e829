"""Copies of a graph that measure, in ONNX Runtime on the CPU: one sample at a time, and each tensor let go as soon as it was read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch2trt_onnx import parts
from torch2trt_onnx.errors import CalibrationError
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.passes.emulate_reduced import EmulateReduced, needs_emulation
from torch2trt_onnx.precision import ElementType
from torch2trt_onnx.typecheck import onnx_type

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

NODE = re.compile(r"Name:'([^']*)'")
"""Where ONNX Runtime names a node that fails; inside control flow once for each node around it, and last for the node itself."""


def emulated(graph: Graph) -> Graph:
    """A copy of a graph to rewrite, which computes in fp32 and rounds where the graph has fp16 and bf16; see `EmulateReduced`."""
    copy = Graph(graph.to_proto(), graph.weights)  # with the types that the graph knows
    if needs_emulation(copy):
        for _ in EmulateReduced().apply(copy):
            pass
        copy.tidy()
    return copy


def bare_options() -> Any:
    """Of a session that runs a graph as it stands, on the CPU: what is measured is the graph, not what ONNX Runtime makes of it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # it would copy the weights
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # threads that wait would take the time of those that work
    options.enable_cpu_mem_arena = False
    # By default all Transposes of weights run first, and their results lie in memory together.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 4
    return options


@dataclass(frozen=True)
class Piece:
    """A graph to run, or a part of one.

    Args:
        graph: it may put out more than the part did.
        hands: what later pieces take of it, the last of its outputs.
    """

    graph: Graph
    hands: tuple[str, ...] = ()


def pieces(graph: Graph) -> list[Piece]:
    """Copies of a graph to rewrite and to run one after another; see `emulated` and `parts.split`."""
    copy = emulated(graph) if needs_emulation(graph) else graph
    found = parts.split(copy.to_proto(), parts.LARGEST)
    if len(found) == 1 and copy is not graph:
        return [Piece(copy)]
    return [Piece(Graph(part.model, graph.weights), part.hands) for part in found]


def run(todo: Sequence[Piece], graph: Graph, samples: Iterable[Sample]) -> Iterator[list[list[Array]]]:
    """What each piece puts out, and does not hand over, for each sample. The graph is loaded once, and its weights are mapped.

    Args:
        todo: what is run.
        graph: what they were made from, which the user knows.
        samples: each with an array for each input.

    Raises:
        CalibrationError: ONNX Runtime cannot load it, or run it on a sample.
    """
    import onnxruntime as ort

    sessions = [_session(piece.graph, graph) for piece in todo]
    names = [([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]) for session in sessions]
    last = {name: place for place, (inputs, _) in enumerate(names) for name in inputs}
    given = {t.name for t in graph.ir.inputs}
    kinds = {t.name: ElementType.of(onnx_type(t)).numpy for p in todo for t in p.graph.ir.inputs if t.name in given}
    for number, sample in enumerate(samples, 1):
        arrays = {name: np.asarray(sample[name], kind, order="C") for name, kind in kinds.items()}
        held = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        found = []
        for place, (piece, session, (inputs, outputs)) in enumerate(zip(todo, sessions, names, strict=True)):
            try:
                values = session.run_with_ort_values(outputs, {name: held[name] for name in inputs})
            except Exception as error:
                raise _failed(error, graph, number) from error
            own = len(outputs) - len(piece.hands)
            found.append([value.numpy() for value in values[:own]])
            held |= zip(piece.hands, values[own:], strict=True)
            for name in [name for name in held if last.get(name, -1) <= place]:
                del held[name]
        yield found


def _session(copy: Graph, graph: Graph) -> Any:
    import onnxruntime as ort

    options = bare_options()
    # Planning where each tensor lies takes a time quadratic in the tensors that live at once, and the numbers of all tensors do.
    options.enable_mem_pattern = False
    # What is planned to be used again is held until then, however late: tensors of several sizes would pile up.
    options.enable_mem_reuse = False
    options.enable_cpu_mem_arena = True
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    path = copy.write(graph.weights.directory / "measuring.onnx")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise CalibrationError(
            "ONNX Runtime cannot load the model, so that nothing is measured", why=_line(error)
        ) from error
    finally:
        path.unlink()


@functools.cache
def _share_arena() -> None:
    """Let sessions of this process that ask for it take memory from an arena that grows by what is needed.

    The heap of the C library does not fit a tensor into the place of another one once a number lies between, and the arena that a
    session has of its own doubles each time.
    """
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = {
        "arena_extend_strategy": 1,
        "max_mem": 0,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(as_requested))


def _failed(error: Exception, graph: Graph, number: int) -> CalibrationError:
    """What ONNX Runtime says of a sample, in words of the model."""
    name = next(iter(NODE.findall(str(error))[::-1]), "")
    node = next((n for n in graph.nodes() if n.name == name), None)
    about = [] if node is None else [node.metadata.get(f"{PREFIX}{key}", "") for key in ("module", "source")]
    return CalibrationError(
        f"the model does not run on sample {number} of the calibration data",
        where=None if node is None else ", ".join([f"{node.op} {node.name!r}", *filter(None, about)]),
        why=_line(error),
        fix="give samples of the data that it is for as calibration; random numbers may be no indices, sizes or masks that it can use",
    )


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
