"""Sum and mass of one site."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.errors import Bug, LocalError
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.pushsum.holding import MAX_MASS, OWN_DISTANCE, VALUE_BITS, Holding, within_distance
from kmel_p2p.core.pushsum.rules import size_weight

BASE = np.linspace(-2, 2, 50, dtype=np.float32)
CHANGE = np.linspace(-0.1, 0.2, 50, dtype=np.float32)


def test_the_trunk_is_the_initial_one_until_something_moved() -> None:
    held = Holding(BASE)
    np.testing.assert_array_equal(held.trunk(), BASE)
    held.mint(2**20)
    np.testing.assert_array_equal(held.trunk(), BASE)
    held.replace(held.moved(CHANGE))
    np.testing.assert_allclose(held.trunk(), BASE + CHANGE, rtol=0, atol=3e-7)
    out = np.empty_like(BASE)
    assert held.trunk(out) is out
    with pytest.raises(LocalError):
        held.trunk(np.empty(3, np.float32))


def test_minting_later_does_not_move_the_trunk() -> None:
    held = Holding(BASE)
    held.put(np.arange(50) * 2**22, 2**20)
    before = held.trunk().copy()
    held.mint(3 * 2**20)
    np.testing.assert_array_equal(held.trunk(), before)
    assert held.mass == 2**22


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * OWN_DISTANCE])
def test_a_drift_that_is_no_number_or_too_far_alters_nothing(bad: float) -> None:
    held = Holding(BASE)
    held.mint(2**15)
    held.replace(held.moved(CHANGE))
    before = held.sums.copy()
    change = CHANGE.copy()
    change[-1] = bad
    with pytest.raises(LocalError, match="moved a trunk value"):
        held.moved(change)
    np.testing.assert_array_equal(held.sums, before)


@given(st.integers(1, 2**34), st.integers(1, 2**34), st.integers(-1000, 1000))
@settings(deadline=None, max_examples=60)
def test_too_old_trunks_count_by_mass_alone(own: int, received: int, value: int) -> None:
    sums = np.full(50, (value * received) << 2, np.int64)
    fresh = value * 2.0 ** (2 - VALUE_BITS)
    replaced = Holding(np.zeros(50, np.float32), np.full(50, own * 7777, np.int64), own)
    replaced.put_replacing(sums, received)
    np.testing.assert_allclose(replaced.trunk(), fresh, rtol=1e-6, atol=1e-3)
    revalued = Holding(np.zeros(50, np.float32), np.full(50, own * 7777, np.int64), own)
    revalued.put_revalued(received)
    np.testing.assert_allclose(revalued.trunk(), 7777 * 2.0**-VALUE_BITS, rtol=1e-3)
    assert replaced.mass == revalued.mass == own + received


def test_bounds_are_kept() -> None:
    held = Holding(BASE)
    with pytest.raises(Bug):
        held.replace(held.moved(CHANGE))
    held.mint(MAX_MASS)
    assert not held.has_room(1)
    for call in (lambda: held.put(held.sums, 1), lambda: held.mint(1), lambda: held.take(held.sums, MAX_MASS)):
        with pytest.raises(Bug):
            call()
    assert within_distance(np.array([64 << VALUE_BITS]), 1)
    assert not within_distance(np.array([-(64 << VALUE_BITS) - 1]), 1)
    assert not within_distance(np.array([-(2**63)]), MAX_MASS)


def test_weights_follow_the_size_class_up_to_the_cap() -> None:
    assert size_weight(10, (), 2.0) == 2**20
    assert size_weight(10, (10, 10, 9), 2.0) == 2**20
    assert size_weight(0, (), 2.0) == 2**10
    # (2**14 + 3 * 2**10) / 4 * 2, in units of 2**-10.
    assert size_weight(14, (10, 10, 10), 2.0) == 3 * 2**20, "twice the mean of (3, 1, 1, 1)"
    assert size_weight(60, (), 1.0) == size_weight(24, (), 1.0) < MAX_MASS / 2**9


@pytest.mark.parametrize(
    "wrong", [{"momentum": 0.95}, {"momentum": -0.1}, {"outer_step": 0.0}, {"outer_step": 1.1}, {"age_limit": 1}]
)
def test_rules_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
        PushSumRule.model_validate(wrong)


def test_a_site_in_step_with_the_others_never_counts_as_old() -> None:
    assert "averaging.age_limit is 4" in PushSumRule(age_limit=4).pace_problem(PaceRule(max_lead=4))
    assert not PushSumRule(age_limit=5).pace_problem(PaceRule(max_lead=4))
