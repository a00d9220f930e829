"""What a model takes and returns, taken apart and put together again, before and after JSON."""

import collections
import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from torch2trt_onnx import exporters
from torch2trt_onnx.errors import InputError, SourceError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.signature import Leaf, Record, Signature
from torch2trt_onnx.weights import WeightStore

X = torch.arange(8.0).reshape(2, 4)
Pair = collections.namedtuple("Pair", "low high")


class Output(collections.OrderedDict):
    """Like a model output of transformers."""

    def to_tuple(self):
        return tuple(self.values())


class Nested(nn.Module):
    def forward(self, x, options, flag=True, *, scale=None):
        top = torch.max(x, 0)
        return {"parts": [x + 1, None, (options["y"][0] * 2, 3.0)], "pair": Pair(x, x * 2), "top": top, 7: x - 1}


class Attributes(nn.Module):
    def forward(self, x):
        return Output(logits=x + 1, hidden=(x * 2, x * 3))


class Single(nn.Module):
    def forward(self, x):
        return x + 1


class Unused(nn.Module):
    def forward(self, x, unused, y):
        return x + y


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return {"w": x * self.w}


def signature_of(model, inputs, tmp_path, exporter="torchscript"):
    exported = exporters.export(source.load(model), inputs, WeightStore(tmp_path), exporter=exporter)
    graph = exported.model.graph
    kept = [name for name in exported.signature.inputs if name not in exported.signature.lost]
    assert kept == [i.name for i in graph.input if i.name not in {t.name for t in graph.initializer}]
    assert exported.signature.outputs == [o.name for o in graph.output]
    return exported.signature


def after_json(signature):
    """The signature as it comes out of a file."""
    return Signature.from_json(json.loads(json.dumps(signature.to_json(), allow_nan=False)))


def rebuilt(signature, result):
    """The result of a model, through flat outputs."""
    names = iter(signature.outputs)
    flat = {next(names): t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)}
    return signature.build(flat)


def assert_same(a, b):
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for left, right in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_nested_result_comes_back_in_the_classes_of_the_model(exporter, tmp_path):
    arguments = (X, {"y": [X, None]})
    signature = signature_of(Nested(), list(arguments), tmp_path, exporter)
    expected = Nested()(*arguments)
    found = rebuilt(signature, expected)
    assert_same(found, expected)
    assert type(found["pair"]) is Pair
    assert type(found["top"]) is torch.return_types.max


def test_after_json_a_named_tuple_is_one_of_the_same_fields_and_nothing_is_imported(tmp_path):
    signature = signature_of(Nested(), [X, {"y": [X, None]}], tmp_path)
    again = after_json(signature)
    assert again == signature
    found = rebuilt(again, Nested()(X, {"y": [X, None]}))
    assert type(found["pair"]).__name__ == "Pair"
    assert type(found["pair"]) is not Pair
    assert found["pair"]._fields == ("low", "high")
    assert torch.equal(found["pair"].high, X * 2)
    assert torch.equal(found["top"].indices, torch.max(X, 0).indices)
    assert type(found["parts"]) is list and type(found["parts"][2]) is tuple
    assert found["parts"][1] is None and found["parts"][2][1] == 3.0
    assert list(found) == ["parts", "pair", "top", 7]


@pytest.mark.parametrize("change", [lambda s: s, after_json], ids=["in memory", "from json"])
def test_a_model_output_is_a_dict_with_attributes_and_items_by_number(change, tmp_path):
    signature = change(signature_of(Attributes(), [X], tmp_path))
    found = rebuilt(signature, {"logits": X + 1, "hidden": (X * 2, X * 3)})
    assert isinstance(found, Record)
    assert torch.equal(found.logits, X + 1)
    assert torch.equal(found["hidden"][1], X * 3)
    assert found[0] is found.logits
    assert found.to_tuple()[0] is found.logits
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = found.other


def test_one_tensor_is_returned_bare(tmp_path):
    assert torch.equal(rebuilt(signature_of(Single(), [X], tmp_path), X), X)


def test_an_output_that_is_called_like_a_weight_has_the_name_that_the_graph_gives_it(tmp_path):
    signature = signature_of(Weight(), [X], tmp_path)
    assert signature.outputs != ["w"]
    assert list(signature.build({signature.outputs[0]: X})) == ["w"]


@dataclasses.dataclass
class Opaque:
    tensor: object


pytree.register_pytree_node(Opaque, lambda o: ([o.tensor], None), lambda items, _: Opaque(*items))


class Registered(nn.Module):
    def forward(self, x):
        return {"inside": Opaque(x + 1), "other": x}


def test_a_container_that_cannot_be_described_becomes_a_flat_tuple_with_a_note(tmp_path):
    exported = exporters.export(source.load(Registered()), [X], WeightStore(tmp_path))
    (note,) = exported.signature.notes
    assert "what the model returns holds a type of container that cannot be described" in note
    assert note in exported.warnings
    found = after_json(exported.signature).build(dict.fromkeys(exported.signature.outputs, X))
    assert type(found) is tuple and len(found) == 2


def test_an_argument_that_cannot_be_described_becomes_flat_arguments_with_a_note():
    signature = Signature.of(
        (Opaque(Leaf("x")), {"y": Leaf("y")}), {}, Leaf("output"), inputs=["x", "y"], outputs=["output"]
    )
    assert "positional arguments instead: x, y" in signature.notes[0]
    assert list(signature.flatten((X, X), {})) == ["x", "y"]


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path):
    return signature_of(Nested(), [X, {"y": [X, None]}], tmp_path)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((X, {"y": [X, None]}), {}),
        ((X, {"y": (X, None)}), {}),
        ((X,), {"options": {"y": [X, None]}}),
        ((), {"options": {"y": [X, None]}, "x": X}),
        ((X, {"y": [X, None]}, True), {"scale": None}),
    ],
    ids=["by place", "a tuple for a list", "by name", "all by name", "defaults said"],
)
def test_arguments_are_taken_as_the_model_takes_them(nested, args, kwargs):
    assert set(nested.flatten(args, kwargs)) == {"x", "options_y_0"}
    assert set(after_json(nested).flatten(args, kwargs)) == {"x", "options_y_0"}


WRONG = {
    "a missing one": (((X,), {}), "the argument 'options' is missing"),
    "one too many": (((X, {"y": [X, None]}), {"other": 1}), "there is no argument 'other'"),
    "twice": (((X, {"y": [X, None]}), {"x": X}), "the argument 'x' was given twice, by place and by name"),
    "another constant": (((X, {"y": [X, None]}, False), {}), "the argument flag is False, and the graph was made with True"),
    "a tensor for None": (((X, {"y": [X, X]}), {}), r"options\['y'\]\[1\] is a tensor of shape \(2, 4\), and the graph was made"),
    "None for a tensor": (((None, {"y": [X, None]}), {}), "the argument x is None, and a tensor is wanted"),
    "a number for a tensor": (((1.5, {"y": [X, None]}), {}), "the argument x is 1.5, and a tensor is wanted"),
    "other keys": (((X, {"z": X}), {}), "the argument options is one with 'z', and a dict with 'y' is wanted"),
    "a list for a dict": (((X, [X]), {}), "the argument options is a list, and a dict with 'y' is wanted"),
    "a shorter list": (((X, {"y": [X]}), {}), r"options\['y'\] is one of 1, and a list of 2 is wanted"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "text"), WRONG.values(), ids=WRONG)
def test_a_call_that_is_wrong_says_which_argument_and_what_would_be_right(nested, call, text):
    with pytest.raises(InputError, match=text):
        nested.flatten(*call)


@pytest.mark.parametrize("change", [lambda s: s, after_json], ids=["in memory", "from json"])
def test_inputs_that_the_graph_lost_are_taken_and_ignored_or_left_out(change, tmp_path):
    signature = change(signature_of(Unused(), [X, X, X], tmp_path))
    assert signature.lost == ("unused",)
    assert set(signature.flatten((X, X, X), {})) == {"x", "y"}
    assert set(signature.flatten((X,), {"y": X})) == {"x", "y"}
    assert set(signature.flatten((X, None, X), {})) == {"x", "y"}


def test_a_parameter_without_a_name_is_told_by_its_place():
    signature = Signature((Leaf("a"), Leaf("b")), {}, Leaf("y"))
    with pytest.raises(InputError, match=r"the argument #1 is missing\n  fix: it takes #0, #1"):
        signature.flatten((X,), {})


def test_constants_may_be_numbers_that_json_does_not_have_and_types_of_torch():
    args = (Leaf("x"), float("inf"), float("nan"), torch.float16, torch.device("cpu"), torch.Size([2, 3]))
    signature = Signature.of(args, {}, (Leaf("y"), torch.Size([1])), inputs=["x"], outputs=["y"])
    assert not signature.notes
    again = after_json(signature)
    given = (X, *args[1:])
    assert list(again.flatten(given, {})) == ["x"]
    assert again.build({"y": X})[1] == torch.Size([1])
    with pytest.raises(InputError, match=r"the graph was made with torch\.float16"):
        again.flatten((X, float("inf"), float("nan"), torch.float32, *given[4:]), {})


def test_an_onnx_graph_takes_its_inputs_by_place_or_by_name():
    one, two = Signature.flat(["a", "b.1"], ["y"]), Signature.flat(["a"], ["y", "z"])
    assert list(one.flatten((X,), {"b.1": X})) == ["a", "b.1"]
    assert one.build({"y": X}) is X
    assert two.build({"y": X, "z": None}) == (X, None)
    with pytest.raises(InputError, match="the output 'z' is missing"):
        two.build({"y": X})


DAMAGED = {
    "another version": {"version": 99},
    "an unknown kind": {"result": {"pickle": "x"}},
    "two kinds": {"result": {"list": [], "tuple": []}},
    "no arguments": {"args": None},
    "a named tuple of odd names": {"result": {"namedtuple": ["A", ["import os"], [1]]}},
    "a type that is none": {"result": {"dtype": "load"}},
    "a device that is none": {"result": {"device": "load"}},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_signature_is_an_error_of_ours(damage):
    data = {**Signature.flat(["x"], ["y"]).to_json(), **damage}
    with pytest.raises(SourceError, match="the signature of the model cannot be read"):
        Signature.from_json(data)
