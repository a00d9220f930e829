"""The minimum cut against all choices there are."""

import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torch2trt_onnx.borders import NARROW, NEITHER, WIDE, Flow, cheapest, cost


@st.composite
def problems(draw):
    count = draw(st.integers(1, 7))
    place = st.sampled_from([*range(count), *range(count), WIDE, NARROW])
    flows = []
    for _ in range(draw(st.integers(1, 9))):
        maker = draw(st.one_of(place, place, place, st.just(NEITHER)))
        readers = tuple(draw(st.lists(place, max_size=3)))
        bound = ()
        if maker >= 0 and draw(st.booleans()):
            bound = (*readers, WIDE) if draw(st.booleans()) else readers
        flows.append(Flow(draw(st.sampled_from([1, 2, 3, 5, 8])), maker, readers, draw(st.integers(0, 1)), bound))
    return count, flows


@settings(derandomize=True, database=None, deadline=None, max_examples=600)
@given(problems())
def test_no_choice_moves_fewer_bytes_than_the_minimum_cut(problem):
    count, flows = problem
    least = min(cost(flows, choice) for choice in itertools.product([False, True], repeat=count))
    assume(math.isfinite(least))
    assert cost(flows, cheapest(count, flows)) == least


def test_a_cast_that_three_readers_share_is_paid_once():
    # 0 is made wide, and 1 to 3 are narrow: one Cast of 100 elements reads 400 bytes and writes 200.
    flow = Flow(100, WIDE, (0, 1, 2))
    assert cost([flow], [True, True, True]) == 100 * (4 + 3 * 2 + 6)
    assert cost([flow], [False, True, True]) == 100 * (4 + 4 + 2 * 2 + 6)


def test_a_chain_between_two_narrow_ends_is_narrow_and_between_two_wide_ones_wide():
    for end, expected in ((NARROW, True), (WIDE, False)):
        chain = [Flow(10, end, (0,)), Flow(10, 0, (1,)), Flow(10, 1, (end,))]
        assert cheapest(2, chain) == [expected] * 2


def test_a_chain_is_narrowed_where_its_tensors_are_smallest():
    # wide -> 0 -> 1 -> narrow: 1000 elements, then 10, then 1000.
    assert cheapest(2, [Flow(1000, WIDE, (0,)), Flow(10, 0, (1,)), Flow(1000, 1, (NARROW,))]) == [False, True]


def test_a_place_whose_reader_would_see_a_rounding_stays_wide():
    flows = [Flow(10, NARROW, (0,)), Flow(10, 0, (NARROW, WIDE))]
    assert cheapest(1, flows) == [True]
    assert cheapest(1, [flows[0], Flow(10, 0, (NARROW, WIDE), bound=(NARROW, WIDE))]) == [False]


def test_sizes_beyond_32_bits_are_taken():
    large = 1 << 40
    assert cheapest(1, [Flow(large, NARROW, (0,)), Flow(3, 0, (WIDE,))]) == [True]
    assert cheapest(1, [Flow(3, NARROW, (0,)), Flow(large, 0, (WIDE,))]) == [False]
