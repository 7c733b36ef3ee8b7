"""Golomb codes round-trip, take the bits they should, and their parameters are good ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta import golomb
from kmel_p2p.delta.bits import BitReader

PROPERTY = settings(deadline=None, max_examples=80)
NUMBERS = st.integers(0, 17).flatmap(lambda bits: st.lists(st.integers(0, 2**bits), max_size=30))
SEGMENTS = st.lists(NUMBERS, max_size=5)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def test_divisors_increase_from_1_to_65536() -> None:
    assert golomb.DIVISORS[:8].tolist() == [1, 2, 3, 4, 6, 8, 12, 16]
    assert golomb.DIVISORS[-1] == 65536
    assert (np.diff(golomb.DIVISORS) > 0).all()


@PROPERTY
@given(SEGMENTS)
def test_segments_round_trip(segments: list[list[int]]) -> None:
    counts = ints([len(s) for s in segments])
    values = ints([v for s in segments for v in s])
    parameter = golomb.parameters(values, counts)
    reader = BitReader(golomb.pack_golomb(values, counts, parameter))
    assert golomb.read_golomb(reader, counts, parameter).tolist() == values.tolist()
    reader.finish()


@pytest.mark.parametrize("parameter", range(golomb.MAX_PARAMETER + 1))
def test_every_divisor_round_trips(parameter: int) -> None:
    divisor = int(golomb.DIVISORS[parameter])
    # Numbers whose mean asks for the divisor, at the edges of quotients and digits.
    values = ints([0, divisor - 1, divisor, 2 * divisor - 1, 2 * divisor, 3 * divisor // 2] + 30 * [divisor * 10 // 7])
    chosen = golomb.parameters(values, ints([values.size]))
    assert abs(int(chosen[0]) - parameter) <= 4
    for p in {int(chosen[0]), parameter}:
        reader = BitReader(golomb.pack_golomb(values, ints([values.size]), ints([p])))
        if p == chosen[0]:
            assert golomb.read_golomb(reader, ints([values.size]), ints([p])).tolist() == values.tolist()
            reader.finish()
        else:
            with pytest.raises(WireError, match="not the one that its numbers require"):
                golomb.read_golomb(reader, ints([values.size]), ints([p]))


@PROPERTY
@given(SEGMENTS)
def test_size_is_the_stated_cost_and_within_the_worst_case(segments: list[list[int]]) -> None:
    counts = ints([len(s) for s in segments])
    values = ints([v for s in segments for v in s])
    parameter = golomb.parameters(values, counts)
    bits = sum(golomb._cost(ints(s), int(p)) for s, p in zip(segments, parameter, strict=True) if s)
    packed = len(golomb.pack_golomb(values, counts, parameter))
    assert bits / 8 <= packed <= bits / 8 + 4
    assert bits <= golomb.worst_bits(int(counts.sum()), int(values.sum()))
    assert bits <= golomb.worst_bits(int(counts.sum()) + 7, int(values.sum()) + 1000)


@PROPERTY
@given(NUMBERS.filter(bool))
def test_parameter_is_the_cheapest_near_the_one_for_the_mean(values: list[int]) -> None:
    chosen = int(golomb.parameters(ints(values), ints([len(values)]))[0])
    ideal = sum(values) / len(values) * np.log(2) + 1
    middle = int(np.searchsorted(golomb.DIVISORS, ideal + 1e-9, side="right")) - 1
    near = range(max(middle - 3, 0), min(middle, golomb.MAX_PARAMETER) + 1)
    assert golomb._cost(ints(values), chosen) <= min(golomb._cost(ints(values), p) for p in near)


@pytest.mark.parametrize("density", [0.4, 0.1, 1 / 64, 1 / 1000])
def test_geometric_gaps_cost_close_to_their_entropy(density: float) -> None:
    gaps = np.random.default_rng(0).geometric(density, 50_000) - 1
    counts = ints([gaps.size])
    packed = golomb.pack_golomb(gaps, counts, golomb.parameters(gaps, counts))
    entropy = -(density * np.log2(density) + (1 - density) * np.log2(1 - density)) / density
    assert 8 * len(packed) / gaps.size <= entropy * 1.01 + 0.08


def test_largest_parameter_is_respected() -> None:
    assert golomb.parameters(ints([10**9]), ints([1]), 15).tolist() == [15]
    assert golomb.parameters(ints([10**9]), ints([1])).tolist() == [golomb.MAX_PARAMETER]
    assert golomb.parameters(ints([]), ints([0, 0])).tolist() == [0, 0]


def test_parameters_that_do_not_exist_are_refused() -> None:
    with pytest.raises(WireError, match="parameter 32"):
        golomb.read_golomb(BitReader(bytes(100)), ints([1]), ints([32]))
