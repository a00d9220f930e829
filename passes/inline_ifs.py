"""Ifs whose condition is known."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import Graph, bypass, new_node, replace_uses
from torch2trt_onnx.passes.base import Change, Pass


class InlineIfs(Pass):
    """Put the branch that is always taken in the place of its If. TensorRT cannot build some models otherwise.

    Given:  y = If(true) <then_branch = {v = Relu(x)}, else_branch = {v = Abs(x)}>
    Result: v = Relu(x), read where y was
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in [*graph.graphs()]:
            outputs = {id(t) for t in inner.outputs}
            waiting = list(inner.nodes)
            while waiting:
                node = waiting.pop()
                if node.op != "If" or not isinstance(node.inputs[0], gs.Constant):
                    continue
                taken = bool(graph.array(node.inputs[0]).item())
                branch = node.attrs["then_branch" if taken else "else_branch"]
                inner.nodes.extend(branch.nodes)
                waiting.extend(branch.nodes)
                results = list(node.outputs)
                node.outputs.clear()
                named = []
                for result, made in zip(results, branch.outputs, strict=True):
                    replace_uses(result, made)
                    if id(result) in outputs:
                        name = graph.fresh_name(f"{node.name}/Identity")
                        named.append(new_node("Identity", name, {}, [made], [result]))
                inner.nodes.extend(named)
                for identity in named:
                    bypass(inner, identity)  # it stays where nothing in this graph makes the value
                branch.nodes = []
                yield Change(node.name, "inlined", f"its condition is always {taken}")
