"""Sparse deltas: exact norms, exact values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.delta import SparseDelta

UNITS = st.lists(st.integers(-(2**44) + 1, 2**44 - 1).filter(bool), max_size=40)


def delta_of(units: list[int]) -> SparseDelta:
    return SparseDelta(np.arange(len(units), dtype=np.int64) * 3, np.array(units, np.int64))


@settings(deadline=None, max_examples=80)
@given(UNITS)
def test_norm_squared_is_exact(units: list[int]) -> None:
    delta = delta_of(units)
    assert delta.norm_squared == sum(u * u for u in units)
    assert delta.norm == pytest.approx(math.sqrt(sum(u * u for u in units)) * 2.0**-24)


def test_norm_squared_is_exact_for_many_extreme_units() -> None:
    count = 2**19 + 3
    assert delta_of([2**44 - 1] * count).norm_squared == count * (2**44 - 1) ** 2


@pytest.mark.parametrize("largest", [2**31 - 1, 2**31, 2**31 + 1])
def test_norm_squared_is_exact_where_products_stop_fitting_one_word(largest: int) -> None:
    # Two squares of 2**31 make 2**63, which int64 cannot hold.
    assert delta_of([largest, -largest]).norm_squared == 2 * largest**2


def test_dense_places_values() -> None:
    delta = SparseDelta(np.array([1, 4]), np.array([2**24, -(2**20)]))
    assert delta.dense(6).tolist() == [0.0, 1.0, 0.0, 0.0, -0.0625, 0.0]
    with pytest.raises(Bug, match="position 4"):
        delta.dense(4)


@pytest.mark.parametrize(
    ("positions", "units"),
    [([1, 1], [1, 1]), ([2, 1], [1, 1]), ([-1, 2], [1, 1]), ([1, 2], [1, 0]), ([1], [2**44]), ([1, 2], [1])],
)
def test_broken_invariants_are_bugs(positions: list[int], units: list[int]) -> None:
    with pytest.raises(Bug):
        SparseDelta(np.array(positions), np.array(units))
