"""The search for the nodes to keep in fp32, on errors that are made up."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from torch2trt_onnx.search import Problem, Search


def searched(errors, count, limit=1.0, fixed=()):
    """The nodes that are kept of so many, and the search; each has its number as work, but for the first."""
    runs, estimates = [], []

    def measure(reduced):
        runs.append(frozenset(reduced))
        return {"y": float(errors(runs[-1]))}

    def estimate(reduced):
        estimates.append(frozenset(reduced))
        return {"y": float(errors(estimates[-1]))}

    def share(reduced):
        return len(reduced) / count

    def rest(reduced):
        return count - len(reduced)

    free = [node for node in range(count) if node not in fixed]
    search = Search(
        Problem(measure, estimate, {"y": limit}, free, frozenset(fixed), share, rest, lambda node: node + 1)
    )
    kept = search.find()
    assert len(estimates) == len(set(estimates)) and len(runs) == len(set(runs))
    return kept, search, [*runs, *estimates]


BOUND = 2 + 4 + 2 * (64 + 6) + 16
"""All and nothing; the curve's; two rounds of one by one and bisection; and what is given back."""


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.data())
def test_exactly_the_harmful_nodes_are_kept_in_a_bounded_number_of_runs(count, data):
    harmful = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=min(count, 5)))
    kept, _search, runs = searched(lambda reduced: 2 * len(reduced & harmful) + len(reduced) / (2 * count), count)
    assert kept == harmful or count > 12 * 64  # else their groups have more nodes than the second round tells apart
    assert harmful <= kept
    assert len(runs) <= BOUND


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.integers(1, 300), st.integers(0, 9999), st.floats(0.01, 1.5), st.sampled_from([0, 0.3, 3]))
def test_whatever_the_errors_are_what_is_kept_was_run_and_holds(count, seed, limit, noise):
    random = np.random.default_rng(seed)
    weight, known = random.exponential(2 / count, count), {}

    def errors(reduced):
        if reduced not in known:
            known[reduced] = sum(weight[list(reduced)]) * (1 + noise * random.random())
        return known[reduced]

    kept, search, runs = searched(errors, count, limit)
    reduced = frozenset(range(count)) - kept
    assert errors(reduced) <= limit
    assert len(runs) <= BOUND and reduced in runs
    *_others, taken = search.curve(kept)
    assert taken.kept == len(kept) and taken.ok
    assert not kept or not search.curve(kept)[0].ok


def test_what_may_not_be_kept_is_in_every_plan():
    kept, search, runs = searched(lambda reduced: 2 * ({3, 5} <= reduced) + 0.5 * (3 in reduced), 10, fixed={3})
    assert kept == {5}
    assert search.trial(frozenset({5})).errors == {"y": 0.5}
    kept, search, runs = searched(lambda reduced: 2 * (3 in reduced), 10, fixed={3})
    assert kept is None and len(runs) == 2
    assert search.trial(frozenset(range(10)) - {3}).errors == {"y": 2}


def test_of_two_that_do_the_same_harm_the_one_with_less_work_is_kept():
    assert searched(lambda reduced: 0.6 * len(reduced & {2, 7}), 10)[0] == {2}


def test_what_turns_out_not_to_be_needed_is_given_back_and_first_what_has_most_work():
    def errors(
        reduced,
    ):  # in the order of their own harm, 3, 5 and 8 have to be kept; but then 3 and 5 are too much together only
        return max(
            0.9 * (3 in reduced),
            0.8 * (5 in reduced),
            0.7 * (8 in reduced),
            2 * ({0, 8} <= reduced),
            2 * ({3, 5} <= reduced),
        )

    kept, search, _ = searched(errors, 10)
    assert kept == {3, 8}
    assert [trial.kept for trial in search.curve(kept)] == [0, 10, 2, 4, 6, 8, 3, 2]  # without those in vain
