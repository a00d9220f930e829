"""`max_error`: what it takes, what it says is wrong, and what is measured."""

import json

import numpy as np
import pytest

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.limits import ErrorLimit, Limits

INF, NAN = np.inf, np.nan


def largest(found, expected):
    """The user's own measure."""
    return np.abs(found - expected).max()


class Scaled:
    def __call__(self, found, expected):
        return 3


def error(metric, found, expected, kind=np.float32):
    return ErrorLimit(1, metric).error("y", np.array(found, kind), np.array(expected, kind))


RELATIVE = {
    "the largest difference by the largest number, wherever each is": (
        [[1, 2], [3, 8.5]],
        [[1, 2.25], [3, 8]],
        0.5 / 8,
    ),
    "no difference": ([1, 2], [1, 2], 0),
    "what is not 0 where all should be": ([0, 1e-9], [0, 0], INF),
    "zeros as they should be": ([0, 0], [0, 0], 0),
    "an infinity of its own": ([1, INF], [1, 2], INF),
    "a NaN of its own": ([1, NAN], [1, 2], INF),
    "a number where there should be an infinity": ([1, 2], [1, INF], INF),
    "the other infinity": ([1, -INF], [1, INF], INF),
    "infinities and NaNs as they should be, and the rest is measured": ([1, INF, NAN, 4.5], [1, INF, NAN, 4], 0.5 / 4),
    "nothing": ([], [], 0),
    "another shape": ([1, 2], [[1, 2]], INF),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in RELATIVE.items()])
def test_the_relative_error(case):
    found, expected, wanted = case
    assert error("relative", found, expected) == pytest.approx(wanted)


COSINE = {
    "one direction, whatever the lengths": ([2, 4], [1, 2], 0),
    "a right angle": ([0, 1], [3, 0], 1),
    "the opposite": ([-1, -2], [1, 2], 2),
    "sixty degrees": ([1, 0], [0.5, 0.75**0.5], 0.5),
    "a small angle, which subtracting from 1 would lose": ([1, 1e-9], [1, 0], 5e-19),
    "all zeros": ([0, 0], [0, 0], 0),
    "all zeros where there should be none": ([0, 0], [1, 0], 1),
    "an infinity of its own": ([INF, 1], [1, 1], INF),
    "one vector of all that there is": ([[1, 0], [0, 1]], [[1, 0], [0, 0]], 1 - 0.5**0.5),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in COSINE.items()])
def test_the_cosine_error(case):
    found, expected, wanted = case
    assert error("cosine", found, expected, np.float64) == pytest.approx(wanted, rel=1e-9, abs=1e-25)


@pytest.mark.parametrize("metric", ["relative", "cosine"])
def test_of_integers_and_bools_the_share_that_differs(metric):
    assert error(metric, [1, 2, 3, 4], [1, 2, 9, 9], np.int64) == 0.5
    assert error(metric, [True, True, False], [True, False, False], np.bool_) == pytest.approx(1 / 3)
    assert error(metric, [], [], np.int32) == 0


def test_halves_are_measured_beyond_their_own_range():
    assert error("relative", [60000], [-60000], np.float16) == 2


def test_a_function_is_given_the_arrays_as_they_are_and_returns_any_number():
    assert error(largest, [1, 5], [1, 2]) == 3
    assert error(lambda a, b: a.dtype == b.dtype == np.float16, [1], [1], np.float16) == 1
    assert error(lambda a, b: np.float32(0.25), [1], [1]) == 0.25
    assert error(lambda a, b: INF, [1], [1]) == INF


def test_a_number_limits_every_output_and_a_mapping_those_that_it_names():
    every = Limits.of(1e-2).by_output(["a", "b"])
    assert every == {"a": ErrorLimit(1e-2), "b": ErrorLimit(1e-2)}
    named = Limits.of({"b": ErrorLimit(1e-3, "cosine"), "a": 2}).by_output(["a", "b", "c"])
    assert named == {"a": ErrorLimit(2.0, "relative"), "b": ErrorLimit(1e-3, "cosine")}
    assert Limits.of(np.float32(0.5)) == Limits.of(ErrorLimit(0.5)) == Limits(ErrorLimit(0.5))
    assert Limits.of(Limits.of(1)) == Limits.of(1)


WORDS = {
    "a number": (["1e-2"], {"a": ErrorLimit(0.01), "b:c": ErrorLimit(0.01), "cosine": ErrorLimit(0.01)}),
    "a measure": (["cosine:1e-2"], dict.fromkeys(["a", "b:c", "cosine"], ErrorLimit(0.01, "cosine"))),
    "an output": (["a:3"], {"a": ErrorLimit(3)}),
    "an output and a measure": (["a:cosine:1e-3"], {"a": ErrorLimit(1e-3, "cosine")}),
    "an output with a colon": (["b:c:1e-3"], {"b:c": ErrorLimit(1e-3)}),
    "an output that is called like a measure": (["cosine:relative:2"], {"cosine": ErrorLimit(2)}),
    "one output, and all others": (
        ["1", "a:cosine:2"],
        {"a": ErrorLimit(2, "cosine"), "b:c": ErrorLimit(1), "cosine": ErrorLimit(1)},
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in WORDS.items()])
def test_a_command_line_says_the_same(case):
    words, expected = case
    assert Limits.parse(words).by_output(["a", "b:c", "cosine"]) == expected


def broken(found, expected):
    raise KeyError("no such thing")


WRONG = {
    "a limit of zero": (lambda: Limits.of(0), "max_error is 0", "positive number"),
    "a negative limit": (lambda: Limits.of({"y": -1e-2}), "max_error is -0.01", "positive number"),
    "an infinite limit": (lambda: ErrorLimit(INF), "max_error is inf", "positive number"),
    "NaN": (lambda: ErrorLimit(NAN), "max_error is nan", "positive number"),
    "a word": (lambda: Limits.of("1e-2"), "max_error is '1e-2'", "positive number"),
    "a truth": (lambda: Limits.of(True), "max_error is True", "positive number"),
    "another measure": (
        lambda: ErrorLimit(1, "psnr"),
        "'psnr' is no measure of error",
        "relative, cosine, or a function",
    ),
    "an empty mapping": (lambda: Limits.of({}), "limits no output", "name one"),
    "outputs that are not there": (
        lambda: Limits.of({"y": 1, "logit": 1, "z": 1}).by_output(["logits", "y"]),
        "no output 'logit', 'z'",
        "its outputs are logits, y",
    ),
    "a number that is none": (
        lambda: Limits.parse(["y:abc"]),
        "'abc' is no limit",
        "--max-error y:abc",
        "logits:cosine:1e-3",
    ),
    "a negative number": (lambda: Limits.parse(["y:-1"]), "'-1' is no limit", "--max-error y:-1"),
    "nothing": (lambda: Limits.parse([""]), "'' is no limit", "1e-2"),
    "an output twice": (lambda: Limits.parse(["y:1", "y:cosine:2"]), "twice for the output 'y'", "y:cosine:2"),
    "every output twice": (lambda: Limits.parse(["1", "2"]), "twice for every output", "leave one out"),
    "a function that fails": (
        lambda: error(broken, [1], [1]),
        "test_limits.broken fails",
        "output 'y'",
        "KeyError: 'no such thing'",
        "found and expected",
    ),
    "a function that returns no number": (lambda: error(lambda a, b: "far", [1], [1]), "<lambda> fails", "ValueError"),
    "a function that returns NaN": (lambda: error(lambda a, b: NAN, [1], [1]), "returns NaN", "output 'y'", "infinity"),
    "a function that was saved": (
        lambda: ErrorLimit.from_json(ErrorLimit(1, largest).to_json()).error("y", np.ones(1), np.ones(1)),
        "test_limits.largest was saved by its name only",
        "give the function again",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in WRONG.items()])
def test_what_is_wrong_is_said(case):
    call, *words = case
    with pytest.raises(InputError) as raised:
        call()
    assert words[0] in raised.value.what
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_limits_survive_json_and_functions_do_by_name():
    limits = Limits(
        ErrorLimit(1e-2, "cosine"), {"y": ErrorLimit(2), "z": ErrorLimit(3, largest), "w": ErrorLimit(4, Scaled())}
    )
    data = json.loads(json.dumps(limits.to_json()))
    assert data["named"]["z"] == {"limit": 3.0, "metric": "test_limits.largest"}
    assert data["named"]["w"]["metric"] == "test_limits.Scaled"
    back = Limits.from_json(data)
    assert (back.every, back.named["y"]) == (limits.every, limits.named["y"])
    assert back.to_json() == data
    assert Limits.from_json(Limits.of(1).to_json()) == Limits.of(1)


def test_a_limit_says_itself_in_words():
    assert str(ErrorLimit(1e-2)) == "relative error up to 0.01"
    assert str(ErrorLimit(1, largest)) == "test_limits.largest error up to 1"
