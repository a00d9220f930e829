"""The torch.export route: what it takes, what it refuses, and what its graphs know of their origin."""

import sys
import warnings

import pytest
import torch
from torch import nn

from torch2trt_onnx import Input, Options, convert
from torch2trt_onnx.errors import ConversionWarning, ExportError

DYNAMO = Options(exporter="dynamo")
X = torch.linspace(-2, 2, 16).reshape(2, 8)


def agreeing(model, inputs, **options):
    """The conversion, whose numbers are those of eager PyTorch."""
    conversion = convert(model, inputs, **{"backend": "none", "options": DYNAMO, **options})
    comparison = conversion.report.comparison
    assert comparison.made, comparison.reference
    assert comparison.ok, (comparison.outputs, comparison.shapes)
    assert not any(node.differs for node in conversion.report.nodes)
    return conversion


def precisions(conversion, *operators):
    found = [node.precision for node in conversion.plan.nodes if node.op in operators]
    assert found, f"no {operators} among {[node.op for node in conversion.plan.nodes]}"
    return found


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


def test_nodes_keep_their_module_and_line_and_weights_their_names():
    conversion = agreeing(Tree(), [X])
    modules = {(n.op, n.module) for n in conversion.plan.nodes}
    assert {("Gemm", "stem.0"), ("Tanh", "stem.1"), ("Gemm", "blocks.0.fc"), ("Mul", "blocks.1")} <= modules
    line = Block.forward.__code__.co_firstlineno + 1
    assert {n.source for n in conversion.plan.nodes if n.op == "Mul"} == {f"{__file__}:{line} forward"}
    assert set(Tree().state_dict()) <= {t.name for t in conversion.onnx.graph.initializer}


def test_dynamic_shapes_hold_from_min_to_max():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    ranged = Input(min_shape=(1, 3, 4, 4), opt_shape=(2, 3, 8, 8), max_shape=(4, 3, 16, 12), name="image")
    conversion = agreeing(model, [ranged])
    [info] = conversion.onnx.graph.input
    assert info.name == "image"
    assert [bool(d.dim_param) for d in info.type.tensor_type.shape.dim] == [True, False, True, True]


class MixedPrecision(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8).half(), nn.Linear(8, 8).bfloat16()

    def forward(self, x):
        x = self.second(self.first(x).half())
        return self.third(x.to(torch.bfloat16)).float()


def test_each_layer_runs_in_the_precision_of_its_weights():
    conversion = agreeing(MixedPrecision(), [X], backend="rtx")
    assert precisions(conversion, "Gemm") == ["fp32", "fp16", "bf16"]
    assert [o.dtype for o in conversion.report.comparison.outputs] == ["float32"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rms_norm_returns_the_type_of_its_input(dtype):
    norm = nn.RMSNorm(8, eps=1e-3).to(dtype)
    nn.init.normal_(norm.weight)
    conversion = agreeing(norm, [X.to(dtype)])
    assert [o.dtype for o in conversion.report.comparison.outputs] == [str(dtype).removeprefix("torch.")]


@pytest.mark.parametrize(("dtype", "word"), [(torch.float32, "fp32"), (torch.float16, "fp16")])
def test_multihead_attention_runs_in_its_own_type(dtype, word):
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval().to(dtype)
    x = torch.randn(2, 5, 8).to(dtype)
    assert set(precisions(agreeing(model, [x, x, x]), "MatMul", "Softmax")) == {word}


class Signature(nn.Module):
    def forward(self, x, *, scale, bias=None):
        return {"y": x * scale, "same": x, "parts": [x + 1, None]}


def test_keywords_and_dicts_are_flat_here_too():
    conversion = agreeing(Signature(), ((X,), {"scale": 2.0}))
    graph = conversion.onnx.graph
    assert [i.name for i in graph.input] == ["x"]
    assert [o.name for o in graph.output] == ["y", "same", "parts_0"]


class Repeated(nn.Module):
    def forward(self, x):
        y = x * 2
        return y, y, x


def test_repeated_outputs_have_a_name_each():
    conversion = agreeing(Repeated(), [X])
    assert [o.name for o in conversion.onnx.graph.output] == ["output_0", "output_1", "output_2"]
    assert [i.name for i in conversion.onnx.graph.input] == ["x"]


@pytest.mark.parametrize("wrap", [torch.jit.script, lambda m: nn.Sequential(torch.jit.script(m))])
def test_a_script_is_refused_with_what_to_do(wrap):
    with pytest.raises(ExportError) as caught:
        convert(wrap(Block()), [X], backend="none", options=DYNAMO)
    assert "exporter='torchscript'" in caught.value.fix


def test_a_branch_on_data_is_refused_with_what_to_do():
    class Branch(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError) as caught:
        convert(Branch(), [X], backend="none", options=DYNAMO)
    assert "those functions scripted" in caught.value.fix


def test_a_missing_onnxscript_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="needs onnxscript"):
        convert(Block(), [X], backend="none", options=DYNAMO)


# ExportedProgram ------------------------------------------------------------------------------------------------------


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x, unused, y):
        return self.fc(x) + y


def test_an_exported_program_takes_the_names_that_its_inputs_are_given():
    program = torch.export.export(Tree(), (X,))
    conversion = agreeing(program, [Input((2, 8), name="given")], options=Options())
    assert [i.name for i in conversion.onnx.graph.input] == ["given"]
    assert {"stem.0", "blocks.1.fc"} <= {n.module for n in conversion.plan.nodes}
    assert "blocks.1.fc.weight" in {t.name for t in conversion.onnx.graph.initializer}


def test_an_unused_input_of_an_exported_program_is_kept_or_told():
    program = torch.export.export(Unused(), (X, X + 1, X[:, :4].clone()))
    conversion = agreeing(program, [X, X + 1, X[:, :4]], options=Options())
    graph = conversion.onnx.graph
    assert {*(i.name for i in graph.input), *conversion.report.lost_inputs} == {"x", "unused", "y"}
    assert {"x", "y"} <= {name for node in graph.node for name in node.input}


def test_an_unused_input_of_a_module_is_kept_or_told():
    conversion = agreeing(Unused(), [X, X, X[:, :4]])
    kept = {i.name for i in conversion.onnx.graph.input}
    assert kept | set(conversion.report.lost_inputs) == {"x", "unused", "y"}


def test_a_dynamic_exported_program_holds_from_min_to_max():
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Tree(), (X,), dynamic_shapes=({0: batch},))
    agreeing(program, [Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(8, 8))], options=Options())


def test_a_static_exported_program_is_not_stretched():
    program = torch.export.export(Tree(), (X,))
    ranged = Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(8, 8))
    with pytest.warns(ConversionWarning):
        conversion = convert(program, [ranged], backend="none")
    assert not conversion.report.comparison.ok


@pytest.mark.parametrize("make", [Tree, lambda: torch.export.export(Tree(), (X,))], ids=["module", "program"])
def test_pytorchs_own_notices_do_not_reach_the_user(capfd, make):
    model = make()
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreeing(model, [X])
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_onnx_does_not_have_is_named():
    class Clipped(nn.Module):
        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, 0.02, 0, -127, 127)

    with pytest.raises(ExportError) as caught:
        convert(Clipped(), [X], backend="none", options=DYNAMO)
    assert "(-127, 127)" in caught.value.why
    assert "exporter='torchscript'" in caught.value.fix
    assert "\x1b" not in str(caught.value)
