"""The accuracy budget as a person reads it."""

import io
import math

import pytest
from rich.console import Console

from torch2trt_onnx import trade_table
from torch2trt_onnx.budget import Trade
from torch2trt_onnx.limits import ErrorLimit
from torch2trt_onnx.search import Trial


def shown(trade):
    """The lines that are printed at 80 columns, without colours."""
    console = Console(file=io.StringIO(), width=80)
    trade_table.show(trade, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


TRADE = Trade(
    {"logits": ErrorLimit(0.01), "mask": ErrorLimit(0.2, "cosine")},
    "fp16",
    7,
    23,
    {"Exp_a": "why", "Sub_b": "why"},
    [
        Trial(0, 1.0, {"logits": math.inf, "mask": 0.1}, False),
        Trial(7, 0.0, {"logits": 0.0, "mask": 0.0}, True),
        Trial(3, 0.5, {"logits": 0.0001, "mask": 0.001}, True),
        Trial(1, 0.8, {"logits": 0.1, "mask": 0.001}, False),
        Trial(2, 0.75, {"logits": 0.0099, "mask": 0.01}, True),
    ],
)


TOLD = """\
2 of 7 nodes kept in fp32 for max_error, found in 23 runs

                              logits            mask
 kept   fp16 work   (relative, 0.01)   (cosine, 0.2)
 ────────────────────────────────────────────────────────────
    7        0.0%                  0               0   ok
    3       50.0%             0.0001           0.001   ok
    2       75.0%             0.0099            0.01   taken
    1       80.0%                0.1           0.001   beyond
    0      100.0%                inf             0.1   beyond

largest error by its limit, against the share of the work in fp16
     inf |                                                  x
      10 |                                        x
     3.2 |
       1 |--------------------------------------*------------
    0.32 |
     0.1 |
   0.032 |
    0.01 |                         o
       0 |o
         +---------------------------------------------------
          0%                       50%                   100%
          x beyond a limit   o within all   * taken
"""


def test_a_trade_is_a_table_and_a_curve():
    assert shown(TRADE) == TOLD.splitlines()
    assert all(len(line) <= 80 for line in shown(TRADE))


def test_a_trade_of_one_plan_has_one_row_and_one_mark():
    lines = shown(Trade({"y": ErrorLimit(1)}, "fp16", 5, 1, {}, [Trial(0, 0.9, {"y": 0.5}, True)]))
    assert lines[0] == "0 of 5 nodes kept in fp32 for max_error, found in 1 runs"
    assert sum("taken" in line for line in lines) == 2  # and the legend
    assert [line.index("*") - 10 for line in lines if "|" in line and "*" in line] == [45]  # a column for two percent


def test_a_trade_of_many_outputs_shows_those_that_use_up_most():
    limits = {f"out[{number}]": ErrorLimit(1) for number in range(5)}
    errors = {name: 0.1 * number for number, name in enumerate(limits)}
    trade = Trade(limits, "bf16", 2, 1, {}, [Trial(0, 1.0, errors, True)])
    lines = shown(trade)
    assert lines[2].split() == ["out[4]", "out[3]", "out[2]"]
    assert any(line.strip() == "and 2 more outputs" for line in lines)


@pytest.mark.parametrize("errors", [[0, 1e-30], [1e-9, 1e9], [3, math.inf], [0, 0], [1, 1.1]])
def test_a_curve_is_short_whatever_the_errors(errors):
    trials = [Trial(1 - n, float(n), {"y": error}, error <= 1) for n, error in enumerate(errors)]
    lines = shown(Trade({"y": ErrorLimit(1)}, "fp16", 2, 2, {}, trials))
    rows = [line for line in lines if line[9:10] == "|"]
    assert 2 <= len(rows) <= 14
    assert sum(line[10:].count(mark) for line in rows for mark in "xo*") == 2
    assert sum("-" * 40 in line for line in rows) == 1  # the limit
