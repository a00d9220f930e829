"""The few numbers of a report that stand in a result: what tables and the overview show without reading it again."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from torch2trt_onnx.page import summary
from torch2trt_onnx.report import Report


def of(report: Report) -> dict[str, Any]:
    """The numbers as plain data.

    `shares`: precision -> its part of the multiplications, or of the float nodes where nothing multiplies. `nodes`, `casts`, `warnings`
    and `unproven` are counts, `verdicts` counts of each; `weights` and `engine` bytes. `error`: the largest relative one, None where it
    is no number; `agrees`: whether all are within the tolerance. What there is not is left out.
    """
    found: dict[str, Any] = {
        "shares": {share.precision: round(share.work, 6) for share in summary.shares(report)},
        "nodes": len(report.nodes),
        "casts": sum(node.op == "Cast" and bool(node.precision) for node in report.plan.nodes),
        "warnings": len(report.warnings),
        **report.sizes,
    }
    if report.backend:
        found["backend"] = report.backend
        found["verdicts"] = dict(Counter(node.verdict for node in report.nodes if node.verdict))
        found["unproven"] = len(report.unproven())
    if (compared := report.comparison) is not None and compared.made and compared.outputs:
        worst = max(output.relative for output in compared.outputs)
        found |= {"error": worst if math.isfinite(worst) else None, "agrees": compared.ok}
    return found
