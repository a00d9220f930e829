"""What a model takes and returns: nested, named, optional, repeated; and what happens to the model itself meanwhile."""

import collections
from typing import Dict, List, Optional  # noqa: UP035 - TorchScript reads these

import onnxruntime
import pytest
import torch
from torch import nn

from torch2trt_onnx import Input, Options, convert
from torch2trt_onnx.errors import ConversionWarning, ExportError, InputError

X = torch.linspace(-2, 2, 16).reshape(2, 8)


def agreeing(model, inputs, **options):
    """The conversion, whose numbers are those of eager PyTorch."""
    conversion = convert(model, inputs, **{"backend": "none", **options})
    comparison = conversion.report.comparison
    assert comparison.made, comparison.reference
    assert comparison.ok, (comparison.outputs, comparison.shapes)
    return conversion


def names(conversion):
    """The names of the inputs and of the outputs of the final graph."""
    graph = conversion.onnx.graph
    return [i.name for i in graph.input], [o.name for o in graph.output]


def value_of(conversion, **feeds):
    """The outputs of the final ONNX graph in ONNX Runtime, as tensors by name."""
    session = onnxruntime.InferenceSession(conversion.onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
    return {o.name: torch.from_numpy(a) for o, a in zip(session.get_outputs(), found, strict=True)}


# Results --------------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def forward(self, x):
        return {"sum": x + 1, "parts": [x * 2, None, (x - 1, 3.0)]}


def test_a_dict_is_returned_flat_under_its_keys_without_none_and_numbers():
    conversion = agreeing(Nested(), [X])
    assert names(conversion) == (["x"], ["sum", "parts_0", "parts_2_0"])
    found = value_of(conversion, x=X)
    assert torch.equal(found["sum"], X + 1)
    assert torch.equal(found["parts_2_0"], X - 1)


Pair = collections.namedtuple("Pair", "low high")


class Named(nn.Module):
    def forward(self, x):
        return Pair(x.clamp(max=0), x.clamp(min=0))


def test_a_named_tuple_is_returned_under_its_fields():
    found = value_of(agreeing(Named(), [X]), x=X)
    assert torch.equal(found["low"], X.clamp(max=0))
    assert torch.equal(found["high"], X.clamp(min=0))


class Repeated(nn.Module):
    def forward(self, x):
        y = x * 2
        return y, y, x, y.view(-1), x


@pytest.mark.parametrize("wrap", [lambda m: m, torch.jit.script], ids=["module", "script"])
def test_repeated_outputs_and_returned_inputs_have_a_name_each(wrap):
    conversion = agreeing(wrap(Repeated()), [X])
    assert names(conversion) == (["x"], [f"output_{i}" for i in range(5)])
    found = list(value_of(conversion, x=X).values())
    assert all(torch.equal(a, b) for a, b in zip(found, Repeated()(X), strict=True))


def test_tensorrt_takes_repeated_outputs_and_returned_inputs():
    report = agreeing(Repeated(), [X], backend="rtx").report
    assert [b.name for b in report.bindings] == ["x", *[f"output_{i}" for i in range(5)]]


class Untouched(nn.Module):
    def forward(self, x):
        return x.contiguous(), x.detach(), x.float()


def test_an_output_that_the_exporter_finds_equal_to_an_input_is_still_an_output():
    conversion = agreeing(Untouched(), [X])
    assert names(conversion) == (["x"], ["output_0", "output_1", "output_2"])


class SameName(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return {"x": x + self.w, "w": x * 2}


def test_an_output_may_be_called_like_an_input_or_a_weight():
    conversion = agreeing(SameName(), [X])
    inputs, outputs = names(conversion)
    weights = [t.name for t in conversion.onnx.graph.initializer]
    assert inputs == ["x"]
    assert len({*inputs, *outputs, *weights}) == len(inputs) + len(outputs) + len(weights)


class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.arange(8.0))

    def forward(self, x):
        return x + self.w, self.w


def test_a_weight_may_be_returned():
    found = value_of(agreeing(Weight(), [X]), x=X)
    assert torch.equal(found["output_1"], torch.arange(8.0))


class Nothing(nn.Module):
    def forward(self, x):
        return {"size": x.dim()}


def test_a_model_that_returns_no_tensor_is_refused():
    with pytest.raises(ExportError, match=r"returns no tensor\n  why: it returns a dict"):
        convert(Nothing(), [X], backend="none")


class Sizes(nn.Module):
    def forward(self, x):
        return x * 2, x.shape


def test_sizes_among_the_results_are_refused():
    with pytest.raises(ExportError, match=r"returns sizes.*\n  where: output output_1_0"):
        convert(Sizes(), [X], backend="none")


class Box:
    def __init__(self, inside):
        self.inside = inside


class Boxed(nn.Module):
    def forward(self, box, x):
        return x * box.inside


def test_tensors_inside_an_object_of_the_users_own_do_not_become_constants():
    with pytest.raises(InputError, match=r"the argument box is a Box.*\n.*inside.*\n.*register_dataclass\(Box\)"):
        convert(Boxed(), [Box(X), X], backend="none")
    with pytest.warns(ConversionWarning, match="a type of container that cannot be described"):
        assert convert(Boxed(), [Box(2.0), X], backend="none").report.comparison.ok


class Left(nn.Module):
    def forward(self, left):
        return left * 2


class Right(nn.Module):
    def forward(self, right):
        return right * 2


def test_an_input_may_stand_for_those_of_several_models():
    given = Input(X.shape)
    names = [convert(model, [given], backend="none").report.bindings[0].name for model in (Left(), Right())]
    assert names == ["left", "right"] and given.name is None


# Arguments ------------------------------------------------------------------------------------------------------------


class KeywordOnly(nn.Module):
    def forward(self, x, *, scale, bias=None):
        return x * scale if bias is None else x * scale + bias


def test_a_keyword_only_number_is_a_constant():
    conversion = agreeing(KeywordOnly(), ((X,), {"scale": 2.5}))
    assert names(conversion)[0] == ["x"]
    assert torch.equal(value_of(conversion, x=X)["output"], X * 2.5)


def test_keyword_only_tensors_are_inputs_of_their_names():
    conversion = agreeing(KeywordOnly(), {"x": X, "scale": torch.full((8,), 3.0), "bias": X})
    assert names(conversion)[0] == ["x", "scale", "bias"]


class Defaults(nn.Module):
    def forward(self, x, factor: float = 2.0, offset: int = 3, on: bool = True):
        return x * factor + offset if on else x - 1


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([X], X * 2 + 3),
        ([X, 0.5, 1], X * 0.5 + 1),
        (((X,), {"on": False}), X - 1),
        ({"x": X, "offset": -4}, X * 2 - 4),
    ],
    ids=["defaults", "positional", "keyword", "keywords only"],
)
def test_numbers_of_a_script_are_constants(inputs, expected):
    conversion = agreeing(torch.jit.script(Defaults()), inputs)
    assert names(conversion)[0] == ["x"]
    assert torch.allclose(value_of(conversion, x=X)["output"], expected)


class Containers(nn.Module):
    def forward(
        self,
        xs: List[torch.Tensor],  # noqa: UP006
        named: Dict[str, torch.Tensor],  # noqa: UP006
        mask: Optional[torch.Tensor] = None,  # noqa: UP045
    ):
        y = xs[0] + xs[1] * named["k"]
        if mask is not None:
            y = y * mask
        return y


@pytest.mark.parametrize("wrap", [lambda m: m, torch.jit.script], ids=["module", "script"])
@pytest.mark.parametrize("mask", [[], [None], [X * 3]], ids=["left out", "none", "given"])
def test_lists_dicts_and_optional_tensors_are_inputs_named_by_their_place(wrap, mask):
    arguments = [[X, X + 1], {"k": X - 1}, *mask]
    conversion = agreeing(wrap(Containers()), arguments)
    feeds = {"xs_0": X, "xs_1": X + 1, "named_k": X - 1}
    if mask and mask[0] is not None:
        feeds["mask"] = X * 3
    assert names(conversion)[0] == list(feeds)
    assert torch.allclose(value_of(conversion, **feeds)["output"], Containers()(*arguments))


class Unused(nn.Module):
    def forward(self, x, unused, y):
        return x + y


def test_an_input_that_nothing_depends_on_is_reported_as_lost():
    with pytest.warns(ConversionWarning, match="no input 'unused'"):
        conversion = agreeing(Unused(), [X, X, X])
    assert conversion.report.lost_inputs == ["unused"]
    assert names(conversion)[0] == ["x", "y"]


# Wrong inputs ---------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, left, right):
        return self.layer(left) + right


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([X], "missing a required argument: 'right'"),
        ([X, X, X], "too many positional arguments"),
        ({"left": X, "wrong": X}, "missing a required argument: 'right'"),
        ({"left": X, "right": X[:, :4], "wrong": X}, "unexpected keyword argument 'wrong'"),
        ([X.long(), X[:, :4]], "left: int64"),
        ([X[0, 0], X[:, :4]], r"left: float32 \(\)"),
        ([X[:, :3], X[:, :4]], r"left: float32 \(2, 3\)"),
        ([Input((2, 8), name="a"), Input((2, 4), name="a")], "two inputs have the name 'a'"),
        ([1.0, 2.0], "no input is a tensor"),
        (3, "inputs is a int"),
        ("x", "inputs is a str"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, words):
    with pytest.raises(InputError, match=words):
        convert(Two(), inputs, backend="none")


@pytest.mark.parametrize("inputs", [[X], [X, X, X], {"left": X, "wrong": X}])
def test_inputs_that_do_not_fit_a_script_are_refused(inputs):
    with pytest.raises(InputError, match=r"left|wrong|input_2|right"):
        convert(torch.jit.script(Two()), inputs, backend="none")


def test_a_failure_in_half_precision_is_not_hidden_by_a_retry_in_fp32():
    """PyTorch refuses -1e9 for fp16; the model has no weights whose type could be meant instead."""

    class Fill(nn.Module):
        def forward(self, x):
            return x.masked_fill(x > 0, -1e9)

    with pytest.raises(InputError, match="overflow"):
        convert(Fill(), [X.half()], backend="none")


def test_a_half_model_with_an_fp32_binding_casts_after_the_binding():
    model = Two().half()
    conversion = agreeing(
        model, [Input((2, 8), dtype=torch.float32, name="left"), Input((2, 4), dtype=torch.float32, name="right")]
    )
    graph = conversion.onnx.graph
    assert [i.type.tensor_type.elem_type for i in graph.input] == [1, 1]
    assert [n.op for n in conversion.plan.nodes if n.op == "Cast"] == ["Cast", "Cast"]
    assert [n.precision for n in conversion.plan.nodes if n.op == "Gemm"] == ["fp16"]
    found = value_of(conversion, left=X, right=X[:, :4])["output"]
    assert torch.allclose(found.float(), model(X.half(), X[:, :4].half()).float(), atol=6e-3)


# Shapes ---------------------------------------------------------------------------------------------------------------


class Baked(nn.Module):
    def forward(self, x):
        return x + torch.arange(int(x.shape[1]), dtype=x.dtype)


def ranged(name=None):
    return Input(min_shape=(1, 4), opt_shape=(2, 8), max_shape=(3, 16), name=name)


def test_a_shape_that_tracing_bakes_in_is_found_at_the_other_shapes():
    with pytest.warns(ConversionWarning):
        comparison = convert(Baked(), [ranged()], backend="none").report.comparison
    assert comparison.made
    assert not comparison.ok
    assert ["min" in line or "max" in line for line in comparison.shapes] == [True, True]


def test_a_script_bakes_no_shape_in():
    assert agreeing(torch.jit.script(Baked()), [ranged()]).report.comparison.shapes == []


# Control flow ---------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        if bool(x.sum() > 0):
            return self.up(x)
        return self.down(x) - 1


def test_a_scripted_branch_is_an_if_with_both_branches():
    model = torch.jit.script(Branch())
    conversion = agreeing(model, [X])
    assert [n.op for n in conversion.plan.nodes].count("If") == 1
    for x in (X + 3, X - 3):
        assert torch.allclose(value_of(conversion, x=x)["output"], model(x), atol=1e-6)
    assert not torch.allclose(model.up(X + 3), model.down(X + 3) - 1)


class Repeat(nn.Module):
    def forward(self, x, n):
        for i in range(int(n)):
            x = x * 0.5 + i
        return x


def test_a_scripted_loop_is_a_loop_of_any_count():
    conversion = agreeing(torch.jit.script(Repeat()), [X, torch.tensor(3)])
    assert [n.op for n in conversion.plan.nodes].count("Loop") == 1
    for n in (0, 1, 5):
        assert torch.allclose(value_of(conversion, x=X, n=torch.tensor(n))["output"], Repeat()(X, n))


def test_a_scripted_function_in_a_module_keeps_its_branch():
    @torch.jit.script
    def sign(x):
        return x if bool(x.sum() > 0) else -x

    class Outer(nn.Module):
        def forward(self, x):
            return sign(x) * 2

    conversion = agreeing(Outer(), [X])
    for x in (X + 3, X - 3):
        assert torch.equal(value_of(conversion, x=x)["output"], (x if x.sum() > 0 else -x) * 2)


# Where nodes come from ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.fc(x)) * 1.5


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_each_node_keeps_the_path_of_its_module():
    nodes = agreeing(Tree(), [X]).plan.nodes
    assert [(n.op, n.module) for n in nodes if n.op in ("Gemm", "Tanh", "Relu", "Mul")] == [
        ("Gemm", "stem.0"),
        ("Tanh", "stem.1"),
        ("Gemm", "blocks.0.fc"),
        ("Relu", "blocks.0"),
        ("Mul", "blocks.0"),
        ("Gemm", "blocks.1.fc"),
        ("Relu", "blocks.1"),
        ("Mul", "blocks.1"),
    ]


def test_each_node_keeps_its_line():
    line = Block.forward.__code__.co_firstlineno + 1
    [first, second] = [n for n in agreeing(Tree(), [X]).plan.nodes if n.op == "Mul"]
    assert first.source == second.source == f"{__file__}:{line} forward"


def test_weights_keep_the_names_of_the_state_dict():
    model = Tree()
    conversion = agreeing(model, [X])
    named = {t.name for t in conversion.onnx.graph.initializer}
    assert set(model.state_dict()) <= named


# The user's model and PyTorch -----------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(600, 600), nn.Linear(600, 600)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_tied_weights_are_stored_once():
    conversion = agreeing(Tied(), [torch.randn(2, 600)])
    assert conversion.report.sizes["weights"] == 600 * 600 * 4 + 2 * 600 * 4
    assert {t.name for t in conversion.onnx.graph.initializer} == {"first.weight", "first.bias", "second.bias"}


class Mixed(nn.Module):
    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        self.norm, self.drop, self.layer = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8)
        self.layer.bias.requires_grad_(False)
        self.train()
        self.norm.eval()  # frozen by its author, the rest in training

    def forward(self, x):
        y = self.layer(self.drop(self.norm(x)))
        return torch.fft.rfft(y) if self.fails else y


def state(model):
    modes = {name: module.training for name, module in model.named_modules()}
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    return modes, gradients, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_same(one, other):
    return one[:2] == other[:2] and all(torch.equal(one[2][name], other[2][name]) for name in one[2])


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_module_in_training_is_exported_in_eval_mode_and_left_as_it_was(exporter):
    model = Mixed()
    before = state(model)
    conversion = agreeing(model, [X], options=Options(exporter=exporter))
    assert is_same(state(model), before)
    assert model.training
    assert not model.norm.training
    assert not {"Dropout", "RandomUniformLike"} & {n.op for n in conversion.plan.nodes}


def test_a_script_in_training_is_exported_in_eval_mode_and_left_as_it_was():
    model = torch.jit.script(Mixed())
    before = state(model)
    agreeing(model, [X])
    assert is_same(state(model), before)
    assert model.training


@pytest.mark.parametrize("inputs", [[X], [X, X], [X.long()]], ids=["export fails", "call fails", "run fails"])
def test_a_module_in_training_is_left_as_it_was_when_the_export_fails(inputs):
    model = Mixed(fails=True)
    before = state(model)
    with pytest.raises((ExportError, InputError)):
        convert(model, inputs, backend="none")
    assert is_same(state(model), before)


def own_export(tmp_path):
    """The operators of an export that the user makes without us."""
    import onnx

    class Norm(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1, dtype=torch.float32) * 1e5

    path = tmp_path / "own.onnx"
    torch.onnx.export(Norm(), (X.half(),), str(path), dynamo=False, opset_version=20)
    return [n.op_type for n in onnx.load(path).graph.node]


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_an_export_leaves_nothing_behind_in_pytorch(tmp_path, fails):
    before = own_export(tmp_path)
    torch.backends.mha.set_fastpath_enabled(True)
    if fails:
        with pytest.raises(ExportError):
            convert(Mixed(fails=True), [X], backend="none")
    else:
        agreeing(Mixed(), [X])
    assert own_export(tmp_path) == before
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="rms_norm"):
        torch.onnx.export(nn.RMSNorm(8), (X,), str(tmp_path / "rms.onnx"), dynamo=False, opset_version=20)


def test_the_switch_of_the_fast_path_stays_off_where_the_user_turned_it_off():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        agreeing(Mixed(), [X])
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_the_users_own_symbolic_survives_an_export(tmp_path):
    import onnx

    torch.onnx.register_custom_op_symbolic("aten::rms_norm", lambda g, x, *_: g.op("Neg", x), 20)
    try:
        agreeing(nn.RMSNorm(8), [X])
        path = tmp_path / "own.onnx"
        torch.onnx.export(nn.RMSNorm(8), (X,), str(path), dynamo=False, opset_version=20)
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::rms_norm", 20)
    assert [n.op_type for n in onnx.load(path).graph.node] == ["Neg"]


# The user's tensors ---------------------------------------------------------------------------------------------------


class Difference(nn.Module):
    def forward(self, x, y):
        return x - 2 * y


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_one_tensor_given_twice_is_two_inputs(exporter):
    conversion = agreeing(Difference(), [X, X], options=Options(exporter=exporter))
    assert names(conversion)[0] == ["x", "y"]
    found = value_of(conversion, x=X, y=X + 5)["output"]
    assert torch.allclose(found, X - 2 * (X + 5))


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2).add_(1)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_model_that_writes_into_its_input_leaves_the_users_tensor_alone(exporter):
    x = X.clone()
    conversion = agreeing(InPlace(), [x], options=Options(exporter=exporter))
    assert torch.equal(x, X)
    assert torch.equal(next(iter(value_of(conversion, x=X).values())), X * 2 + 1)


class TwoLists(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.up = nn.ModuleList([nn.Linear(4, 4)])
        self.tail = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        for layer in self.down:
            x = layer(x)
        for layer in self.up:
            x = layer(x)
        return self.tail(x)


@pytest.mark.parametrize("make", [lambda m: m, torch.jit.script], ids=["traced", "scripted"])
def test_layers_of_lists_are_found_by_their_weights_where_their_names_leave_it_open(make):
    for _ in range(2):  # the exporter names modules in lists otherwise in later traces of a process
        nodes = convert(make(TwoLists().eval()), [Input((2, 4))], backend="none").plan.nodes
        assert [n.module for n in nodes if n.op == "Gemm"] == ["down.0", "down.1", "up.0", "tail.0"]
