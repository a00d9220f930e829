"""`policy="auto"` and its accuracy budget, `max_error`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowering import computed, error_of, kept, run
from test_semantics import runs
from torch import nn

from torch2trt_onnx import Conversion, ErrorLimit, Input
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX


class Difference(nn.Module):
    """A difference of numbers near each other, which fp16 loses, in the first of two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, near):
        return self.b(torch.tanh(self.a(x - near))), self.a(x / 1000)


FAR = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) + 100
NEAR = FAR - torch.rand(4, 16, generator=torch.Generator().manual_seed(2)) / 4


class TestBudget:
    @pytest.fixture
    def model(self):
        return Difference().eval()

    @pytest.fixture
    def expected(self, model):
        with torch.no_grad():
            return [t.numpy() for t in model(FAR, NEAR)]

    def test_without_one_the_difference_is_lost(self, model, expected):
        conversion, _ = run(model, inputs=[FAR, NEAR])
        assert runs(conversion, "Sub") == ["fp16"] and conversion.report.trade is None
        errors = list(map(error_of, computed(conversion, FAR, NEAR), expected))
        assert errors[0] > 0.02 and errors[1] < 1e-3

    @pytest.mark.parametrize("calibration", [None, [{"x": FAR, "near": NEAR}]], ids=["the example", "real data"])
    def test_it_holds_against_pytorch_and_says_what_it_cost(self, model, expected, calibration):
        inputs = [Input((4, 16), name="x", example=FAR), Input((4, 16), name="near", example=NEAR)]
        conversion, _ = run(model, inputs=inputs, max_error=1e-3, calibration=calibration)
        assert runs(conversion, "Sub", "Gemm") == ["fp32", "fp16", "fp16", "fp16"]
        assert kept(conversion) == {"OverBudget": ["/Sub"]}
        trade = conversion.report.trade
        assert list(trade.kept) == ["/Sub"]
        assert trade.kept["/Sub"].startswith("alone in fp16 it gives 'output_0' a relative error of 0.0")
        (node,) = (n for n in conversion.plan.nodes if n.op == "Sub")
        assert node.reason.startswith(trade.kept["/Sub"])
        first, taken = trade.trials[0], trade.trials[-1]
        assert (first.kept, first.ok, first.share) == (0, False, 1.0)
        assert (taken.kept, taken.ok) == (1, True) and 0.9 < taken.share < 1
        errors = list(map(error_of, computed(conversion, FAR, NEAR), expected))
        assert max(errors) <= 1e-3
        assert list(taken.errors.values()) == pytest.approx(errors, rel=1e-2)
        assert first.errors["output_0"] > 0.02
        assert first.errors["output_1"] < 1e-3

    def test_each_output_may_have_its_own_and_one_without_costs_nothing(self, model):
        free, _ = run(model, inputs=[FAR, NEAR], max_error={"output_1": 1e-3})
        assert (free.report.trade.kept, runs(free, "Sub")) == ({}, ["fp16"])
        assert list(free.report.trade.limits) == ["output_1"]
        bound, _ = run(model, inputs=[FAR, NEAR], max_error={"output_0": 1e-3, "output_1": 1})
        assert list(bound.report.trade.kept) == ["/Sub"]

    def test_by_the_cosine(self, model):
        conversion, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(1e-4, "cosine"))
        assert list(conversion.report.trade.kept) == ["/Sub"]
        assert "a cosine error of 0.00" in conversion.report.trade.kept["/Sub"]
        loose, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(0.1, "cosine"))
        assert loose.report.trade.kept == {}

    def test_by_a_function_of_the_user_s(self, model, tmp_path):
        def wrong(found, wanted):
            return np.mean(np.abs(found - wanted) > 0.01)

        conversion, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(0.1, wrong))
        trade = conversion.report.trade
        assert list(trade.kept) == ["/Sub"] and "wrong error of 0." in trade.kept["/Sub"]
        assert trade.trials[0].errors["output_0"] > 0.1
        assert trade.trials[-1].errors == {"output_0": 0, "output_1": 0}
        loaded = Conversion.load(conversion.save(tmp_path / "out")).report.trade
        assert loaded.to_json() == trade.to_json()
        assert loaded.limits["output_0"].measure.endswith("wrong")

    def test_narrowing_has_one_too(self, model, expected):
        conversion, told = run(model, {"fp16"}, [FAR, NEAR], max_error=1e-3)
        assert runs(conversion, "Sub") == ["fp32"]
        assert "Sub '/Sub' is fp32 (not fp16: alone in fp16 it gives 'output_0' a relative error of" in told
        assert max(map(error_of, computed(conversion, FAR, NEAR), expected)) <= 1e-3

    def test_rules_are_not_overruled_by_it(self, model):
        with pytest.raises(PrecisionError, match="cannot be held, even with all nodes in fp32 that may be") as error:
            run(model, inputs=[FAR, NEAR], max_error=1e-3, rules=[{"op": "Sub", "precision": "fp16"}])
        assert "not kept in fp32 whatever the error: fp16 Sub '/Sub'" in str(error.value)

    def test_one_that_leaves_nothing_in_fp16_is_an_error_that_names_each_node(self, model):
        with pytest.raises(PrecisionError, match="not one node") as error:
            run(model, inputs=[FAR, NEAR], max_error=1e-7)
        assert all(f"'{name}': alone in fp16 it gives" in str(error.value) for name in ("/Sub", "/Tanh", "/b/Gemm"))

    def test_strictly_fp16_alone_leaves_nothing_to_keep(self, model):
        with pytest.raises(PrecisionError, match="strict"):
            run(model, {"fp16"}, [FAR, NEAR], max_error=1e-3, strict=True)

    def test_there_is_none_without_data(self, model):
        with pytest.raises(PrecisionError, match="max_error needs data"):
            run(model, inputs=[FAR, NEAR], max_error=1e-3, calibration=False)


def told(node, key):
    return node.metadata.get(f"{PREFIX}{key}", "")
