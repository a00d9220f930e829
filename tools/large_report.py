"""A report as large as that of a large model, made without converting one: layers of blocks, some Casts, a few nodes not proven."""

from __future__ import annotations

from torch2trt_onnx.backends.layers import Binding, EngineLayer, EngineTensor
from torch2trt_onnx.plan import Asked, NodePlan, PrecisionPlan
from torch2trt_onnx.report import NodeReport, Report, Weight

BLOCK = ("MatMul", "Add", "Cast", "LayerNormalization", "Cast", "Relu", "Mul", "Add")


def large_report(count: int) -> Report:
    """A report of so many nodes."""
    nodes: list[NodeReport] = []
    weights: list[Weight] = []
    changes: list[tuple[str, str, str, str]] = []
    layers: list[EngineLayer] = []
    before = "x"
    for at in range(count):
        block, op = at // len(BLOCK), BLOCK[at % len(BLOCK)]
        module = f"encoder.layers.{block // 8}.blocks.{block % 8}.{op.lower()}"
        name = f"/{module.replace('.', '/')}/{op}_{at}"
        made, weight = f"{name}_output_0", f"{module}.weight"
        precision = "fp32" if op == "LayerNormalization" else "fp16"
        inputs: tuple[str, ...] = (before,)
        reason = f"input {before!r} is {precision}"
        if op in ("MatMul", "LayerNormalization"):
            inputs = (before, weight)
            weights.append(Weight(weight, precision, (512, 512), 512 * 512 * 2, "fp32"))
            reason = f"nothing is against {precision}; weight {weight!r} is fp32"
        planned = NodePlan(
            name, op, precision, "auto", reason, (precision,), module, "/models/net.py:42 forward", "fp32", tensors=(made,), inputs=inputs
        )  # fmt: skip
        proven = ("unverifiable", "no layer names it") if at % 997 == 5 else ("fused", f"inside layer 'l{block}'")
        work = 512 * 512 * 64 if op == "MatMul" else 0
        nodes.append(NodeReport(planned, (precision,), (f"l{block}",), *proven, "", work, 64 * 1024))
        changes.append(("Retype", name, "narrowed from fp32 to fp16", reason))
        changes.append(("FoldWeightCasts", name, f"stored {weight!r} as fp16", "the Cast behind it is done once"))
        if at % len(BLOCK) == 1:
            tensor = EngineTensor(made, "Half", (64, 512))
            layers.append(EngineLayer(f"l{block}", "kgen", (tensor,), (), (tensor,), (name,), "__myl_Move"))
        before = made
    return Report(
        "Large",
        PrecisionPlan(tuple(node.plan for node in nodes), Asked()),
        nodes,
        changes,
        backend="TensorRT-RTX 1.7.1.116",
        layers=layers,
        bindings=[Binding("x", "Input", "Half", (64, 512), ""), Binding(before, "Output", "Half", (64, 512), "")],
        weights=weights,
        sizes={"engine": 10**9},
    )
