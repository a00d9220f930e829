"""ONNX's backend tests through the passes and through `convert`: about 2,000 models of all operators, opsets and types.

`onnx_backend.py` runs them, in a process of its own that crashes of ONNX Runtime do not end, and says what came of each. Here it is
judged: what may be refused and what may differ stands below, and everything else is a failure that is listed with its case.
"""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import onnx_backend
import pytest

# About 2,000 cases. No stride shares a factor with another, and none is even: a case and its expansion stand side by side.
SOME = {"passes": 3, "folding": 11, "convert": 13, "fp16": 17}
ALL = {"passes": 1, "folding": 1, "convert": 1, "fp16": 1}

REFUSED = {
    "passes": ["the bits of an fp64 number"],
    "folding": ["the bits of an fp64 number"],
    "convert": [
        "the bits of an fp64 number",
        r"the shape \(.*\b0\b.*\) has a dimension below 1",
        r"the shape of input '.*' is dynamic",
        r"TensorRT takes no (string|complex64|complex128|u?int2|uint4|uint16|uint32|uint64|float4e2m1|float8\w+) tensors",
        r"torch\.uint(16|32|64) is not an element type",
        "TensorRT takes tensors only",
    ],
}
"""The reasons that are right, of the errors of each mode."""
REFUSED["fp16"] = [*REFUSED["convert"], "PrecisionError"]

RIGHT = {"same", "skipped"}
EXCUSED = {
    # Its splits are fp64 numbers that no fp32 number equals, and its data lie on them.
    ("convert", "test_ai_onnx_ml_tree_ensemble_single_tree"): "different",
}
"""(mode, case) -> a result that is right all the same."""


def outcomes(path, strides):
    """What came of the cases; each mode takes every n-th."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    program = [sys.executable, onnx_backend.__file__, str(path), *(f"{mode}:{n}" for mode, n in strides.items())]
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    subprocess.run(program, check=True, env=environment, cwd=Path(__file__).parents[1])
    return onnx_backend.read(path)


def judge(found, capsys):
    """Print the counts, and fail with every case that went wrong."""
    counts = defaultdict(Counter)
    reasons = defaultdict(Counter)
    wrong = []
    for outcome in found:
        counts[outcome.mode][outcome.result] += 1
        reasons[outcome.mode, outcome.result][short(outcome.why)] += 1
        if not is_right(outcome):
            wrong.append(f"{outcome.mode} {outcome.result}: {outcome.case}: {outcome.why}")
    with capsys.disabled():
        for mode, results in counts.items():
            print(
                f"\n{mode}: {results.total()} run, {', '.join(f'{n} {result}' for result, n in results.most_common())}"
            )
            for result in results:
                for why, count in reasons[mode, result].most_common(12):
                    print(f"  {count:5} {result}: {why}")
    assert not wrong, "\n".join(wrong)
    return counts


def is_right(outcome):
    if outcome.result == "refused":
        return any(re.search(reason, outcome.why) for reason in REFUSED[outcome.mode])
    # fp16 may round more than the tolerance of convert allows for: what counts here is that the graph is valid.
    if outcome.result in RIGHT or (outcome.mode == "fp16" and outcome.result == "loose"):
        return True
    return outcome.result == EXCUSED.get((outcome.mode, outcome.case))


def short(why):
    """A reason without what is special to the case."""
    kernel = re.search(r"implementation for (\w+)|kernel for (\w+)|: ([\w.]+:\w+)\(-1\) is not a registered", why)
    if kernel:
        return "ONNX Runtime has no kernel"
    return re.sub(r"'[^']*'|\d+|Name:.*|\|.*", "*", why)[:100]


def test_some_of_onnx_s_backend_tests_give_the_same_numbers_behind_our_passes(tmp_path, capsys):
    counts = judge(outcomes(tmp_path / "outcomes", SOME), capsys)
    for mode, stride in SOME.items():
        assert counts[mode].total() > 2000 / stride - 1
        assert counts[mode]["same"] > counts[mode].total() / 4


@pytest.mark.slow
def test_all_of_onnx_s_backend_tests_give_the_same_numbers_behind_our_passes(tmp_path, capsys):
    counts = judge(outcomes(tmp_path / "outcomes", ALL), capsys)
    assert counts["passes"]["same"] > 1800
    assert counts["folding"]["same"] > 1700
    assert counts["convert"]["same"] > 1500
    assert counts["fp16"]["same"] > 700


def test_a_crash_of_onnx_runtime_names_its_case_and_ends_nothing_else(tmp_path):
    """The smallest integer divided by -1 ends the process; the case behind it is run all the same."""
    path = tmp_path / "outcomes"
    program = f"""
import os, pathlib, onnx_backend as b
from graphs import parse
import numpy as np
def dies(case, expected):
    return os.abort() if case.name == "dies" else ("same", "")
plain = parse("g (float[1] x) => (float[1] y) {{ y = Relu(x) }}")
divides = parse("g (int32[1] x) => (int32[1] y) <int32[1] m = {{-1}}> {{ y = Div(x, m) }}")
one, least = np.ones(1, np.float32), np.array([-(2**31)], np.int32)
cases = [b.Case("first", plain, [one]), b.Case("divides", divides, [least]), b.Case("dies", plain, [one]), b.Case("last", plain, [one])]
b.run_all(pathlib.Path({str(path)!r}), cases, {{"dies": 1}}, {{"dies": dies}})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(__file__).parents[1])
    found = [(o.case, o.mode, o.result, o.why) for o in onnx_backend.read(path)]
    assert found == [
        ("first", "dies", "same", ""),
        ("divides", "source", "skipped", "the process dies of SIGFPE"),
        ("dies", "dies", "crashed", "the process dies of SIGABRT"),
        ("last", "dies", "same", ""),
    ]
