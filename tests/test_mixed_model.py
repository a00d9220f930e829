"""A model of every kind of cast at once: what PyTorch runs each module in is what TensorRT's network has."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from torch2trt_onnx import Input, convert
from torch2trt_onnx.precision import ElementType


class Branch(nn.Module):
    """A scripted `if` and loop, both dependent on data."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 16).half()
        self.down = nn.Linear(16, 16)

    def forward(self, x, steps):
        if bool(x.max() > 0.5):  # noqa: SIM108 - a statement, as people write it, becomes an If
            y = self.up(x.half()).float()
        else:
            y = self.down(x)
        for _ in range(int(steps)):
            y = y * 0.5 + x
        return y


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x, mask):
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.out(y.transpose(1, 2).flatten(2))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_a = nn.Conv2d(3, 8, 3, padding=1)
        self.conv_b = nn.Conv2d(8, 8, 3, padding=1).half()
        self.norm = nn.BatchNorm2d(8)
        self.conv_c = nn.Conv2d(8, 16, 3, padding=1)
        self.embed = nn.Embedding(32, 16).half()
        self.attention = Attention().half()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.linear = nn.Linear(16, 16).to(torch.bfloat16)
        self.auto = nn.Linear(16, 16)
        self.layer_norm = nn.LayerNorm(16)
        self.branch = torch.jit.script(Branch())

    def forward(self, image, tokens, mask, steps):
        x = self.conv_a(image)
        x = self.norm(self.conv_b(x.half()))  # fp32 BatchNorm on fp16
        x = self.conv_c(x.float()).mean((2, 3))
        t = self.attention(self.embed(tokens), mask)
        t, _ = self.lstm(t.float())
        y = self.linear((t.mean(1) + x).to(torch.bfloat16)).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.layer_norm(self.auto(y))
        return {"state": self.branch(y.float(), steps), "tokens": t}


WORK = {"Conv", "Gemm", "MatMul", "LSTM", "BatchNormalization", "LayerNormalization", "Gather"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def inputs():
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return [
        Input((2, 3, 8, 8)),
        Input((2, 5), dtype="int64", example=torch.arange(10).reshape(2, 5)),
        Input((2, 5), dtype=torch.bool, example=mask),
        Input((), dtype="int64", example=torch.tensor(3)),
    ]


@pytest.fixture(scope="module")
def conversion(model, inputs):
    return convert(model, inputs, {"fp32", "fp16", "bf16"}, strict=True, backend="rtx")


def types_in_pytorch(model, tensors):
    """Module path -> the type that PyTorch computes it in: that of its result, and of its input for normalisation."""
    seen = {}

    def hook(path):
        def record(_, args, result):
            result = result[0] if isinstance(result, tuple) else result
            seen[path] = ElementType.of(result.dtype).label

        return record

    handles = [
        m.register_forward_hook(hook(p))
        for p, m in model.named_modules()
        if not list(m.children()) and p and not p.startswith("branch")
    ]
    with torch.no_grad():
        model(*tensors)
    for handle in handles:
        handle.remove()
    return seen


def test_each_module_runs_in_the_network_in_the_type_that_pytorch_runs_it_in(model, inputs, conversion):
    tensors = [i.tensor(i.opt_shape, i.dtype or ElementType.of("float32")) for i in inputs]
    expected = types_in_pytorch(model, tensors)
    found = {}
    for node in conversion.report.nodes:
        if node.plan.module in expected and node.plan.op in WORK:
            found.setdefault(node.plan.module, set()).update(filter(None, node.network))
    assert set(found) == set(expected)
    # PyTorch computes fp32 normalisation of a reduced input in fp32, and only stores its result in the reduced type.
    assert (expected.pop("norm"), expected.pop("layer_norm")) == ("fp16", "bf16")
    assert (found.pop("norm"), found.pop("layer_norm")) == ({"fp32"}, {"fp32"})
    assert found == {path: {word} for path, word in expected.items()}


def test_no_node_of_the_network_differs_from_the_plan(conversion):
    assert [n.plan.name for n in conversion.report.nodes if n.differs] == []
    assert all(any(n.network) for n in conversion.report.nodes if n.plan.op in WORK)


def test_the_engine_proves_the_precision_of_each_node(conversion):
    assert conversion.report.unproven() == []
    assert all(n.verdict for n in conversion.report.nodes if n.plan.precision)


def test_masked_attention_is_fp16_from_end_to_end(conversion):
    inside = [n for n in conversion.report.nodes if n.plan.module == "attention" and n.plan.precision]
    assert {"MatMul", "Softmax", "Where"} <= {n.plan.op for n in inside}
    assert {n.plan.precision for n in inside} == {"fp16"}


def test_the_branches_keep_their_types_inside_the_if(conversion):
    inside = {
        n.plan.precision: set(n.network)
        for n in conversion.report.nodes
        if n.plan.module.startswith("branch.") and n.plan.op in WORK
    }
    assert inside == {"fp16": {"fp16"}, "fp32": {"fp32"}}


def test_nothing_of_it_needs_a_warning(conversion):
    assert conversion.report.warnings == []


def test_the_numbers_agree_with_eager_pytorch(conversion):
    assert conversion.report.comparison.ok, conversion.report.comparison
    assert [o.name for o in conversion.report.comparison.outputs] == ["state", "output_tokens"]
