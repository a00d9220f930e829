"""Random typed graphs with Casts, Ifs and Loops, for hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.BOOL: np.bool_,
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
SHAPE = (2, 2)  # of every tensor, so that any two go together


class Builder:
    """A graph that grows by random choices; every tensor has the shape `SHAPE`."""

    def __init__(self, draw, scope=(), prefix="t"):
        self.draw, self.prefix = draw, prefix
        self.tensors = list(scope)  # (name, kind)
        self.nodes, self.initializers, self.count = [], [], 0

    def name(self):
        self.count += 1
        return f"{self.prefix}{self.count}"

    def node(self, op, inputs, kind=None, outputs=1, **attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        if kind is not None:
            self.tensors += [(name, kind) for name in names]
        return names[0]

    def values(self, kind):
        numbers = self.draw(st.lists(st.integers(-3, 4), min_size=4, max_size=4))
        scale = 0.375 if kind in FLOATS else 1
        return (np.array(numbers) * scale).reshape(SHAPE).astype(KINDS[kind])

    def constant(self, values):
        tensor = numpy_helper.from_array(np.asarray(values), self.name())
        if self.draw(st.booleans()):
            self.initializers.append(tensor)
            return tensor.name
        return self.node("Constant", [], value=tensor)

    def pick(self, *kinds):
        found = [t for t in self.tensors if not kinds or t[1] in kinds]
        if not found or self.draw(st.integers(0, 4)) == 0:
            kind = self.draw(st.sampled_from(kinds or tuple(KINDS)))
            name = self.constant(self.values(kind))
            self.tensors.append((name, kind))
            return name, kind
        return self.draw(st.sampled_from(found[-6:]))

    def grow(self, depth, least=1):
        ops = [self.arithmetic, self.unary, self.matmul, self.cast, self.cast, self.cast, self.identity, self.move]
        ops += [self.concat, self.shape, self.condition, self.loop] if depth else [self.concat, self.shape]
        for _ in range(self.draw(st.integers(least, least + (7 if depth == 2 else 3)))):
            step = self.draw(st.sampled_from(ops))
            step(depth) if step in (self.condition, self.loop) else step()

    def arithmetic(self):
        a, kind = self.pick(*FLOATS, TensorProto.INT32, TensorProto.INT64)
        b, _ = self.pick(kind)
        self.node(self.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), [a, b], kind)

    def unary(self):
        a, kind = self.pick(*FLOATS)
        self.node(self.draw(st.sampled_from(["Relu", "Neg", "Abs"])), [a], kind)

    def matmul(self):
        a, _ = self.pick(TensorProto.FLOAT)
        b, kind = self.pick(TensorProto.FLOAT)
        self.node("MatMul", [a, b], kind)

    def cast(self):
        a, _ = self.pick()
        to = self.draw(st.sampled_from(list(KINDS)))
        self.node("Cast", [a], to, to=to)

    def identity(self):
        a, kind = self.pick()
        self.node("Identity", [a], kind)

    def move(self):
        a, kind = self.pick()
        if self.draw(st.booleans()):
            self.node("Transpose", [a], kind, perm=[1, 0])
        else:
            flat = self.node("Reshape", [a, self.constant(np.array([-1]))])
            self.node("Reshape", [flat, self.constant(np.array(SHAPE))], kind)

    def concat(self):
        a, kind = self.pick()
        b, _ = self.pick(kind)
        both = self.node("Concat", [a, b], axis=0)
        self.node("Gather", [both, self.constant(np.array([3, 0]))], kind, axis=0)

    def shape(self):
        """Arithmetic of a shape, back in a tensor."""
        a, kind = self.pick(*FLOATS)
        size = self.node("Gather", [self.node("Shape", [a]), self.constant(np.array(0))])
        row = self.node("Unsqueeze", [size, self.constant(np.array([0]))])
        both = self.node("Concat", [row, self.constant(np.array([2]))], axis=0)
        self.node("Reshape", [a, both], kind)

    def condition(self, depth):
        kinds = self.draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=2))
        if self.draw(st.booleans()):
            test = self.constant(np.array(self.draw(st.booleans())))
        else:
            test = self.node("Gather", [self.pick(TensorProto.BOOL)[0], self.constant(np.array(0))], axis=0)
            test = self.node("Gather", [test, self.constant(np.array(1))], axis=0)
        # The two branches may use the same names, as ONNX allows.
        branches = [self.branch(kinds, depth - 1) for _ in range(2)]
        names = [self.name() for _ in kinds]
        self.nodes.append(helper.make_node("If", [test], names, then_branch=branches[0], else_branch=branches[1]))
        self.tensors += zip(names, kinds, strict=True)

    def loop(self, depth):
        """Two rounds of a body that hands on one tensor and collects another."""
        start, kind = self.pick(*FLOATS)
        collected = self.draw(st.sampled_from(FLOATS))
        inner = Builder(
            self.draw,
            [*self.visible(), (f"{self.prefix}s{len(self.nodes)}", kind)],
            f"{self.prefix}l{len(self.nodes)}_",
        )
        inner.grow(depth - 1)
        going = inner.node("Identity", [f"{self.prefix}k{len(self.nodes)}"])
        results = [inner.node("Identity", [inner.pick(k)[0]]) for k in (kind, collected)]
        body = helper.make_graph(
            inner.nodes,
            "body",
            [
                helper.make_tensor_value_info(f"{self.prefix}i{len(self.nodes)}", TensorProto.INT64, []),
                helper.make_tensor_value_info(f"{self.prefix}k{len(self.nodes)}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"{self.prefix}s{len(self.nodes)}", kind, SHAPE),
            ],
            [
                helper.make_tensor_value_info(going, TensorProto.BOOL, []),
                *(helper.make_tensor_value_info(n, k, SHAPE) for n, k in zip(results, (kind, collected), strict=True)),
            ],
            inner.initializers,
        )
        names = [self.name(), self.name()]
        self.nodes.append(helper.make_node("Loop", [self.constant(np.array(2)), "", start], names, body=body))
        self.tensors.append((names[0], kind))
        last = self.node("Gather", [names[1], self.constant(np.array(1))], collected, axis=0)
        assert last

    def visible(self):
        """What a body may read: ONNX Runtime 1.32, its optimisations disabled, loses a Cast of a Cast that only a body reads."""
        casts = {node.output[0] for node in self.nodes if node.op_type == "Cast"}
        return [t for t in self.tensors if t[0] not in casts]

    def branch(self, kinds, depth):
        inner = Builder(self.draw, self.visible(), f"{self.prefix}b{len(self.nodes)}_")
        inner.grow(depth)
        names = []
        for kind in kinds:
            own, _ = inner.pick(kind)
            names.append(inner.node("Identity", [own]))
        results = [helper.make_tensor_value_info(n, k, SHAPE) for n, k in zip(names, kinds, strict=True)]
        return helper.make_graph(inner.nodes, "branch", [], results, inner.initializers)


@st.composite
def models(draw, least=1):
    """A model of at least so many steps, some of which nothing may use."""
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3))
    dims = draw(st.sampled_from([SHAPE, ("N", 2)]))
    builder = Builder(draw, [(f"x{i}", kind) for i, kind in enumerate(kinds)])
    builder.grow(2, least)
    made = [t for t in builder.tensors if any(t[0] in node.output for node in builder.nodes)]
    if not made:
        builder.identity()
        made = builder.tensors[-1:]
    wanted = draw(st.lists(st.sampled_from(made[-5:]), min_size=min(least, len(made), 3), max_size=3, unique=True))
    graph = helper.make_graph(
        builder.nodes,
        "g",
        [helper.make_tensor_value_info(f"x{i}", kind, dims) for i, kind in enumerate(kinds)],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in wanted],
        builder.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def random_feeds(model, seed):
    random = np.random.default_rng(seed)
    found = {}
    for value in model.graph.input:
        kind = value.type.tensor_type.elem_type
        numbers = random.integers(-4, 5, SHAPE) * (0.3 if kind in FLOATS else 1)
        found[value.name] = numbers.astype(KINDS[kind])
    return found
