"""What each layer of a weakly typed network is told: the decision alone, without TensorRT."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch2trt_onnx.backends.constraints import Layer, Told, decide
from torch2trt_onnx.backends.job import NodeJob


def layer(
    index, name, kind="MATRIX_MULTIPLY", reads=("x",), makes=(("y", "FLOAT"),), metadata="", casts=False, shape=False
):
    return Layer(index, name, metadata, kind, tuple(reads), tuple((n, t, shape) for n, t in makes), casts)


def node(name, precision="HALF", outputs=(("y", "HALF"),), **about):
    return NodeJob(name, tuple(outputs), precision, **about)


def told(layers, *nodes):
    return {found.name: found for found in decide(layers, nodes)}


class TestWhoseLayerItIs:
    @pytest.mark.parametrize(
        ("name", "metadata"),
        [
            ("fc", ""),
            ("fc_12", ""),
            ("something", "[ONNX Layer: fc]"),
            ("x", "[ONNX Layer: fc | body]\x1f[ONNX Layer: other]"),
        ],
    )
    def test_the_name_or_the_metadata_tells_the_node(self, name, metadata):
        assert told([layer(0, name, metadata=metadata)], node("fc"))[name].node == "fc"

    def test_a_node_whose_own_name_ends_in_a_number_is_not_taken_for_another(self):
        found = told([layer(0, "fc_1")], node("fc", "FLOAT"), node("fc_1", "HALF"))
        assert (found["fc_1"].node, found["fc_1"].precision) == ("fc_1", "HALF")

    def test_a_layer_without_a_name_goes_with_the_one_that_reads_it(self):
        constant = layer(0, "(Unnamed Layer* 0) [Constant]", "CONSTANT", reads=(), makes=[("c", "FLOAT")])
        found = told([constant, layer(1, "fc", reads=("x", "c"))], node("fc"))
        assert found["(Unnamed Layer* 0) [Constant]"].precision == "HALF"

    def test_the_last_layer_of_a_node_is_known_by_what_it_makes_whatever_reads_it(self):
        bias = layer(1, "(Unnamed Layer* 1) [ElementWise]", "ELEMENTWISE", reads=("inner",))
        back = layer(2, "cast", "CAST", reads=("y",), makes=[("z", "FLOAT")], casts=True)
        found = told(
            [layer(0, "fc", makes=[("inner", "FLOAT")]), bias, back],
            node("fc"),
            node("cast", "FLOAT", [("z", "FLOAT")]),
        )
        assert found["(Unnamed Layer* 1) [ElementWise]"].precision == "HALF"

    def test_a_cast_says_nothing_of_what_it_reads(self):
        made = layer(0, "(Unnamed Layer* 0) [Constant]", "CONSTANT", reads=(), makes=[("c", "FLOAT")])
        back = layer(1, "cast", "CAST", reads=("c",), makes=[("z", "HALF")], casts=True)
        found = told([made, back], node("cast", "HALF", [("z", "HALF")]))
        assert "belongs to no node" in found["(Unnamed Layer* 0) [Constant]"].reason

    def test_or_else_with_the_one_that_makes_what_it_reads(self):
        after = layer(1, "(Unnamed Layer* 1) [Shuffle]", "SHUFFLE", reads=("y",), makes=[("z", "FLOAT")])
        assert told([layer(0, "fc"), after], node("fc"))["(Unnamed Layer* 1) [Shuffle]"].precision == "HALF"

    def test_a_layer_that_touches_no_node_is_told_nothing_and_why(self):
        assert "belongs to no node" in told([layer(0, "lonely", makes=[("q", "FLOAT")])], node("fc"))["lonely"].reason


class TestWhatItIsTold:
    def test_a_planned_layer_its_precision_and_the_type_of_what_it_makes(self):
        assert told([layer(0, "fc")], node("fc"))["fc"] == Told(0, "fc", "fc", "HALF", ((0, "HALF"),))

    def test_an_fp32_neighbour_is_pinned_too_so_that_it_is_not_dragged_along(self):
        found = told(
            [layer(0, "fc"), layer(1, "relu", makes=[("z", "FLOAT")])],
            node("fc"),
            node("relu", "FLOAT", [("z", "FLOAT")]),
        )
        assert (found["relu"].precision, found["relu"].outputs) == ("FLOAT", ((0, "FLOAT"),))

    def test_an_output_that_the_plan_types_apart_from_its_node_has_that_type(self):
        norm = layer(0, "ln", "NORMALIZATION", makes=[("y", "FLOAT"), ("mean", "FLOAT")])
        assert told([norm], node("ln", outputs=[("y", "HALF"), ("mean", "FLOAT")]))["ln"].outputs == (
            (0, "HALF"),
            (1, "FLOAT"),
        )

    def test_inside_a_node_of_several_layers_what_they_hand_on_has_the_precision_of_the_node(self):
        product = layer(0, "fc", makes=[("inner", "FLOAT")])
        assert told([product, layer(1, "fc_3", "ELEMENTWISE", ("inner",))], node("fc"))["fc"].outputs == ((0, "HALF"),)

    def test_the_indices_of_topk_are_never_told_a_type(self):
        top = layer(0, "top", "TOPK", makes=[("values", "FLOAT"), ("indices", "INT32")])
        assert told([top], node("top", outputs=[("values", "HALF"), ("indices", "INT64")]))["top"].outputs == (
            (0, "HALF"),
        )


class TestWhatCannotBeTold:
    @pytest.mark.parametrize(
        ("made", "planned", "why"),
        [
            (layer(0, "n", "SHAPE", makes=[("y", "INT32")], shape=True), node("n", ""), "computes shapes"),
            (layer(0, "n", makes=[("y", "FLOAT")], shape=True), node("n"), "computes shapes"),
            (layer(0, "n", makes=[("y", "INT32")]), node("n"), "it makes INT32, and no float"),
            (layer(0, "n", makes=[("y", "BOOL")]), node("n"), "it makes BOOL, and no float"),
            (layer(0, "n", "CONSTANT", makes=[("y", "INT64")]), node("n"), "it makes INT64, and no float"),
            (layer(0, "n", "LOOP_OUTPUT"), node("n"), "border of a loop"),
            (layer(0, "n", "QUANTIZE"), node("n"), "Q/DQ says its types"),
            (layer(0, "n", "CAST", casts=True), node("n"), "a Cast says its types itself"),
            (layer(0, "n", "IDENTITY", casts=True), node("n"), "a Cast says its types itself"),
            (layer(0, "n"), node("n", quantized=True), "multiplies integers"),
            (layer(0, "n"), node("n", "FLOAT", free=True), "TensorRT may choose"),
            (layer(0, "n"), node("n", ""), "computes with no float"),
        ],
    )
    def test_each_has_its_reason_and_is_told_nothing(self, made, planned, why):
        found = told([made], planned)["n"]
        assert why in found.reason
        assert (found.precision, found.outputs) == ("", ())

    def test_an_identity_that_casts_nothing_is_told_its_precision(self):
        assert told([layer(0, "n", "IDENTITY")], node("n"))["n"].precision == "HALF"


KINDS = ["MATRIX_MULTIPLY", "CONSTANT", "SHUFFLE", "CAST", "SHAPE", "TOPK", "QUANTIZE"]


@given(st.data())
def test_every_layer_of_any_network_is_either_told_a_precision_or_has_a_reason(data):
    count = data.draw(st.integers(1, 8))
    names = st.sampled_from(["a", "b", "c", "a_1", "(Unnamed Layer* 0)", "other"])
    tensors = st.sampled_from(["t0", "t1", "t2", "t3"])
    layers = [
        Layer(
            i,
            data.draw(names),
            "",
            data.draw(st.sampled_from(KINDS)),
            tuple(data.draw(st.lists(tensors, max_size=2))),
            tuple(
                data.draw(
                    st.lists(st.tuples(tensors, st.sampled_from(["FLOAT", "HALF", "INT32"]), st.booleans()), max_size=2)
                )
            ),
            data.draw(st.booleans()),
        )
        for i in range(count)
    ]
    nodes = [
        node(n, data.draw(st.sampled_from(["HALF", "FLOAT", ""])), [(f"t{i}", "HALF")]) for i, n in enumerate("abc")
    ]
    found = decide(layers, nodes)
    assert [what.layer for what in found] == list(range(count))
    for what, seen in zip(found, layers, strict=True):
        assert bool(what.precision) != bool(what.reason)
        for index, kind in what.outputs:
            assert kind in ("FLOAT", "HALF")
            assert seen.makes[index][1] != "INT32", "no integer is told a float type"
