"""The graph under edit: what it keeps, how it sorts, and which types it finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import Scene, assert_same_numbers, outputs, parse
from onnx import TensorProto, helper

from torch2trt_onnx import pipeline
from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.graph import new_node, set_input, ties
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import onnx_type


def tidied(text):
    """The first output of each node of the main graph after `tidy`."""
    scene = Scene(text)
    scene.graph.tidy()
    return [node.outputs[0].name for node in scene.graph.ir.nodes]


def types(text, opset=20):
    """Type and shape of each tensor that a node makes, after inference."""
    scene = Scene(text, opset=opset)
    pipeline.run(scene.graph, [])
    return {
        t.name: (label(onnx_type(t)), None if t.shape is None else list(t.shape))
        for node in scene.graph.nodes()
        for t in node.outputs
    }


BODIES = """g (bool c, float[2] x) => (float[2] y) { v = Relu(x)
    y = If(c) <then_branch = t() => (float[2] a) { a = Neg(v) }, else_branch = e() => (float[2] b) { b = Abs(v) }> }"""


def test_what_graphsurgeon_drops_survives():
    model = parse(BODIES)
    model.domain, model.model_version, model.doc_string, model.producer_name = "here", 7, "a model", "me"
    helper.set_model_props(model, {"k": "v"})
    nodes = [*model.graph.node, model.graph.node[1].attribute[0].g.node[0], model.graph.node[1].attribute[1].g.node[0]]
    for index, node in enumerate(nodes):
        node.doc_string = f"line {index}"
        node.metadata_props.add(key="number", value=str(index))
    after = Scene(model).proto()
    assert (after.domain, after.model_version, after.doc_string, after.producer_name) == ("here", 7, "a model", "me")
    assert [(p.key, p.value) for p in after.metadata_props] == [("k", "v")]
    found = [*after.graph.node, after.graph.node[1].attribute[0].g.node[0], after.graph.node[1].attribute[1].g.node[0]]
    assert [node.doc_string for node in found] == [node.doc_string for node in nodes]
    assert [node.metadata_props[0].value for node in found] == ["0", "1", "2", "3"]
    onnx.checker.check_model(after, full_check=True)


def test_attributes_that_graphsurgeon_loses_survive():
    """Empty lists it fails at, bytes that are no text too; types and lists of tensors it drops."""
    kinds = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    tensors = [helper.make_tensor("t", TensorProto.FLOAT, [1], [2])]
    odd = {"kind": kinds, "tensors": tensors, "bytes": b"\xff", "more": [b"a", b"\xfe"], "plain": 3}
    model = parse("g (float[1,2] x) => (float[2] y) { v = Squeeze(x)  y = com.example.Odd(v) }", opset=11)
    for node, empty in zip(model.graph.node, ("axes", "floats"), strict=True):
        kind = onnx.AttributeProto.INTS if empty == "axes" else onnx.AttributeProto.FLOATS
        node.attribute.add(name=empty, type=kind)
    model.graph.node[1].attribute.extend(helper.make_attribute(name, value) for name, value in odd.items())
    given = model.SerializeToString()
    scene = Scene(model)
    scene.run(*pipeline.passes({}))
    assert model.SerializeToString() == given
    for before, after in zip(model.graph.node, scene.proto().graph.node, strict=True):
        found = {a.name: a for a in after.attribute}
        assert {a.name: a for a in before.attribute} == found


def test_attributes_that_graphsurgeon_loses_survive_in_bodies():
    scene = Scene(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) { a = Neg(x) }, else_branch = e() => (float[2] b) { b = Abs(x) }> }"""
    )
    model = scene.source
    model.graph.node[0].attribute[0].g.node[0].attribute.add(name="none", type=onnx.AttributeProto.INTS)
    body = Scene(model).proto().graph.node[0].attribute[0].g
    assert [a.name for a in body.node[0].attribute] == ["none"]


def test_metadata_follows_its_node_when_others_go_and_the_order_changes():
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x)  dead = Neg(x)  b = Abs(a)  y = Exp(b) }")
    for node in model.graph.node:
        node.metadata_props.add(key="made", value=node.output[0])
        node.doc_string = node.output[0]
    scene = Scene(model)
    scene.graph.ir.nodes.reverse()
    scene.graph.tidy()
    after = scene.proto().graph.node
    assert [(n.output[0], n.doc_string, n.metadata_props[0].value) for n in after] == [(n, n, n) for n in "aby"]


def test_tidy_keeps_a_topological_order_as_it_is():
    text = "g (float[2] x) => (float[2] y) { d = Relu(x)  b = Neg(x)  c = Abs(x)  a = Sum(b, c, d)  y = Exp(a) }"
    assert tidied(text) == ["d", "b", "c", "a", "y"]


def test_tidy_moves_only_what_must_move():
    scene = Scene(
        "g (float[2] x) => (float[2] y) { d = Relu(x)  b = Neg(x)  c = Abs(x)  a = Sum(b, c, d)  y = Exp(a) }"
    )
    nodes = scene.graph.ir.nodes
    nodes.insert(1, nodes.pop(3))  # a before b and c
    scene.graph.tidy()
    assert [n.outputs[0].name for n in scene.graph.ir.nodes] == ["d", "b", "c", "a", "y"]


def test_tidy_puts_what_a_body_captures_before_its_node():
    scene = Scene(BODIES)
    scene.graph.ir.nodes.reverse()
    scene.graph.tidy()
    assert [n.op for n in scene.graph.ir.nodes] == ["Relu", "If"]


def test_tidy_drops_what_nothing_uses_with_what_only_that_used():
    assert tidied("g (float[2] x) => (float[2] y) { a = Relu(x)  b = Neg(a)  c = Abs(b)  y = Exp(x) }") == ["y"]


def test_tidy_drops_what_only_dead_bodies_use():
    scene = Scene(
        BODIES.replace("=> (float[2] y)", "=> (float[2] z)").replace("v = Relu(x)", "v = Relu(x)  z = Neg(x)")
    )
    scene.graph.tidy()
    assert [n.outputs[0].name for n in scene.graph.ir.nodes] == ["z"]
    assert [n.op for n in scene.graph.ir.inputs[1].outputs] == ["Neg"]


def test_readers_in_dead_bodies_are_no_readers():
    scene = Scene(BODIES.replace("y = If", "dead = If").replace("v = Relu(x)", "v = Relu(x)  y = Exp(v)"))
    scene.graph.tidy()
    v = scene.graph.ir.nodes[0].outputs[0]
    assert [node.op for node in v.outputs] == ["Exp"]


def test_tidy_cleans_bodies_too():
    scene = Scene(
        """g (bool c, float[2] x) => (float[2] y) { v = Relu(x)
            y = If(c) <then_branch = t() => (float[2] a) { dead = Exp(v)  a = Neg(x) },
            else_branch = e() => (float[2] b) { b = Abs(x) }> }"""
    )
    scene.graph.tidy()
    assert [node.op for node in scene.graph.nodes()] == ["If", "Neg", "Abs"]


def test_a_node_with_one_used_output_keeps_all():
    text = "g (float[4] x) => (float[2] y) { a, b = Split<num_outputs=2>(x)  y = Relu(b) }"
    assert tidied(text) == ["a", "y"]


def test_a_long_chain_does_not_exhaust_the_stack():
    count = 20_000
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("t0", f"t{count}")]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=10)
    scene = Scene(model)
    scene.graph.ir.nodes.reverse()
    scene.graph.tidy()
    scene.graph.infer_types(strict=True)
    assert [node.outputs[0].name for node in scene.graph.ir.nodes[:2]] == ["t1", "t2"]
    assert onnx_type(scene.graph.ir.nodes[-2].outputs[0]) == TensorProto.FLOAT


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_is_an_error_that_names_a_node(length):
    scene = Scene("g (float[2] x) => (float[2] y) { a = Add(x, x)  b = Neg(a)  c = Neg(b)  y = Exp(c) }")
    nodes = scene.graph.ir.nodes
    set_input(nodes[0], 1, nodes[length - 1].outputs[0])
    with pytest.raises(GraphError, match=r"cycle\n  where: node 'Add_a'"):
        scene.graph.tidy()


def test_nodes_without_a_name_or_with_another_one_s_get_their_own():
    model = parse(BODIES)
    model.graph.node[0].name = "same"
    model.graph.node[1].attribute[0].g.node[0].name = "same"
    names = [node.name for node in Scene(model).graph.nodes()]
    assert names[0] == "same"
    assert len(set(names)) == 4
    assert all(names)


def test_a_name_that_is_there_is_kept_where_it_is_the_only_one():
    model = parse(BODIES)
    model.graph.node[0].name = "/layer/Relu"
    assert Scene(model).graph.ir.nodes[0].name == "/layer/Relu"


def test_fresh_names_are_new_every_time():
    graph = Scene(BODIES).graph
    assert [graph.fresh_name("v") for _ in range(3)] == ["v__2", "v__3", "v__4"]
    assert [graph.fresh_name("new") for _ in range(2)] == ["new", "new__2"]


def test_tensors_of_bodies_have_names_of_their_own_and_inputs_and_outputs_keep_theirs():
    scene = Scene(
        """g (bool c, float[2] x) => (float[2] y) {
            p = If(c) <then_branch = t() => (float[2] a) <float[2] w = {1, 2}> { v = Add(x, w)  a = Neg(v) },
                       else_branch = e() => (float[2] a) <float[2] w = {3, 4}> { v = Mul(x, w)  a = Abs(v) }>
            y = Relu(p)
        }"""
    )
    held = {id(t): t.name for node in scene.graph.nodes() for t in (*node.inputs, *node.outputs)}
    assert len(set(held.values())) == len(held)
    assert [t.name for t in (*scene.graph.ir.inputs, *scene.graph.ir.outputs)] == ["c", "x", "y"]
    assert_same_numbers(scene.source, scene.proto())


def test_a_body_that_hands_out_a_tensor_from_outside_gets_an_identity():
    scene = Scene(BODIES.replace("(float[2] a) { a = Neg(v) }", "(float[2] v) { }"))
    scene.graph.tidy()
    found = outputs(scene.proto(), {"c": np.array(True), "x": np.array([-1, 2], np.float32)})
    assert found[0].tolist() == [0, 2]


def test_an_initializer_that_is_an_output():
    scene = Scene("g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Add(x, w) }")
    scene.run(*pipeline.passes({}))
    assert_same_numbers(scene.source, scene.proto())


def test_an_input_that_is_an_output():
    scene = Scene("g (float[2] x) => (float[2] x, float[2] y) { y = Relu(x) }")
    scene.run(*pipeline.passes({}))
    assert_same_numbers(scene.source, scene.proto())


TYPES = {
    "in the branches of an If": (
        """g (bool c, float16[N,2] x) => (float16[N,2] y) {
            y = If(c) <then_branch = t() => (a) { v = Cast<to=1>(x)  u = Relu(v)  a = Cast<to=10>(u) },
                       else_branch = e() => (b) { b = Neg(x) }> }""",
        {"u": ("fp32", ["N", 2]), "a": ("fp16", ["N", 2]), "b": ("fp16", ["N", 2])},
    ),
    "in the body of a Loop": (
        """g (int64 n, float16[2] x) => (float16[2] y) {
            y = Loop(n, , x) <body = b(i, c, s) => (d, u) { d = Identity(c)  v = Neg(s)  u = Relu(v)  }> }""",
        {"v": ("fp16", None), "u": ("fp16", None)},  # a loop may change the shape of what it carries
    ),
    "in the body of a Scan": (
        """g (float[2] z, float16[3,2] x) => (float[2] y, float16[3,2] w) {
            y, w = Scan(z, x) <num_scan_inputs=1, body = b(s, t) => (u, v) { u = Relu(s)  q = Neg(t)  v = Abs(q) }> }""",
        {"q": ("fp16", [2]), "u": ("fp32", [2])},
    ),
    "through sequences": (
        "g (float16[2] x) => (float16[2] y) <int64 i = {0}> { s = SequenceConstruct(x, x)  e = SequenceAt(s, i)  y = Relu(e) }",
        {"s": ("fp16", [2]), "e": ("fp16", [2])},
    ),
    "of dynamic dimensions, by the name that the model gives them": (
        "g (float[batch,3] x) => (float[batch,3] y) { v = Relu(x)  y = Neg(v) }",
        {"v": ("fp32", ["batch", 3]), "y": ("fp32", ["batch", 3])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPES.values(), ids=TYPES)
def test_types_are_found(case):
    text, expected = case
    found = types(text)
    assert {name: found[name] for name in expected} == expected


def test_the_type_that_another_domain_s_operator_declares_is_kept():
    text = "g (float[2] x) => (float[2] y) <float16[2] v> { v = com.example.Half(x)  w = Relu(v)  y = Cast<to=1>(w) }"
    assert types(text)["w"] == ("fp16", [2])


def test_types_follow_an_edit():
    scene = Scene("g (float[2] x) => (float16[2] y) { v = Cast<to=1>(x)  w = Relu(v)  y = Cast<to=10>(w) }")
    graph = scene.graph
    graph.infer_types(strict=True)
    graph.ir.nodes[0].attrs["to"] = TensorProto.BFLOAT16
    graph.infer_types(strict=True)
    assert label(onnx_type(graph.ir.nodes[1].outputs[0])) == "bf16"


def test_a_contradiction_is_an_error_where_strict():
    graph = Scene("g (float[2] x, float[3] z) => (float[3] y) { v = Add(x, z)  y = Relu(v) }").graph
    graph.infer_types(strict=False)
    with pytest.raises(GraphError, match="contradict each other"):
        graph.infer_types(strict=True)


def test_sequences_come_out_as_they_went_in():
    scene = Scene("g (seq(float16[2]) s, float16[2] x) => (seq(float16[2]) t) { t = SequenceInsert(s, x) }")
    scene.run(*pipeline.passes({}))
    onnx.checker.check_model(scene.proto(), full_check=True)
    kinds = [
        v.type.sequence_type.elem_type.tensor_type.elem_type
        for v in (*scene.proto().graph.input, *scene.proto().graph.output)
    ]
    assert kinds == [TensorProto.FLOAT16, TensorProto.UNDEFINED, TensorProto.FLOAT16]


def test_the_bindings_of_sequences_keep_their_shapes():
    scene = Scene("g (seq(float[N,3]) s) => (seq(float[N,3]) t) { t = Identity(s) }")
    scene.run(*pipeline.passes({}))
    before, after = scene.source.graph, scene.proto().graph
    assert [v.type for v in (*after.input, *after.output)] == [v.type for v in (*before.input, *before.output)]


def test_optionals_come_out_as_they_went_in():
    scene = Scene(
        """g (optional(float16[2]) o) => (float16[2] y, bool b) {
            v = OptionalGetElement(o)  b = OptionalHasElement(o)  y = Relu(v) }"""
    )
    scene.run(*pipeline.passes({}))
    assert [v.type for v in scene.proto().graph.input] == [v.type for v in scene.source.graph.input]
    onnx.checker.check_model(scene.proto(), full_check=True)


@pytest.mark.parametrize(("opset", "lengths"), [(8, '"", '), (20, "")])
def test_a_scan_ties_its_inputs_to_those_of_its_body_behind_the_lengths_that_opset_8_has(opset, lengths):
    graph = Scene(
        f"""g (float[1,2] s, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) {{
            y, z = Scan ({lengths}s, x) <num_scan_inputs: int = 1, body: graph = b (float[2] c, float[2] n)
                => (float[2] d, float[2] m) {{ d = Add(c, n)  m = Neg(d) }}> }}""",
        opset=opset,
    ).graph
    scan = graph.ir.nodes[0]
    found = [([t.name for t in tie.reads(scan)], [t.name for t in tie.makes]) for tie in ties(scan)]
    assert found == [(["s", "d"], ["y", "c"]), (["m"], ["z"]), (["x"], ["n"])]


def test_an_inserted_cast_lands_where_its_readers_are():
    scene = Scene(BODIES)
    graph = scene.graph
    body = next(iter(graph.ir.subgraphs()))
    node = body.nodes[0]
    set_input(node, 0, graph.insert_cast(body, node.inputs[0], TensorProto.FLOAT, node.name))
    graph.tidy()
    assert [n.op for n in body.nodes] == ["Cast", "Neg"]
    onnx.checker.check_model(scene.proto(), full_check=True)


def test_a_new_node_has_room_for_metadata():
    assert (new_node("Relu", "r", {}, [], []).metadata, new_node("Relu", "r", {}, [], []).doc_string) == ({}, "")
