"""Copies of a graph that measure, in ONNX Runtime on the CPU: one sample at a time, and each tensor let go as soon as it was read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

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


def run(copy: Graph, graph: Graph, samples: Iterable[Sample]) -> Iterator[list[Array]]:
    """The outputs of a copy for each sample. The graph is loaded once, and its weights are mapped.

    Args:
        copy: what is run.
        graph: what it was made from, which the user knows.
        samples: each with an array for each input.

    Raises:
        CalibrationError: ONNX Runtime cannot load it, or run it on a sample.
    """
    import onnxruntime as ort

    options = bare_options()
    # Planning where each tensor lies takes a time quadratic in the tensors that live at once, and the numbers of all tensors do.
    options.enable_mem_pattern = False
    # What is planned to be used again is held until then, however late: tensors of several sizes would pile up.
    options.enable_mem_reuse = False
    # The heap of the C library does not fit a tensor into the place of another one once a number lies between.
    options.enable_cpu_mem_arena = True
    path = copy.write(graph.weights.directory / "measuring.onnx")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise CalibrationError(
            "ONNX Runtime cannot load the model, so that nothing is measured", why=_line(error)
        ) from error
    finally:
        path.unlink()
    types = {t.name: ElementType.of(onnx_type(t)).numpy for t in copy.ir.inputs}
    for number, sample in enumerate(samples, 1):
        feeds = {name: np.asarray(sample[name], kind) for name, kind in types.items()}
        try:
            found = session.run(None, feeds)
        except Exception as error:
            raise _failed(error, graph, number) from error
        yield found


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
