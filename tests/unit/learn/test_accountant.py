"""Epsilon of noised sums: as dp-accounting gives it, as theory has it for one step, and an upper bound always."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from kmel_p2p.agreement.drafted import usual_delta
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.privacy.accountant import SPENT, Steps, epsilon_of, noise_for
from kmel_p2p.learn.privacy.plan import MEASURED, plans

GOOGLE = {
    (2.0, 0.252, 200, 1e-4): 8.477598,
    (4.0, 0.252, 200, 1e-4): 3.440025,
    (8.0, 0.252, 200, 1e-4): 1.509497,
    (1.0, 0.0064, 1500, 1e-5): 1.371409,
    (2.0, 0.147, 400, 1e-4): 6.699341,
    (1.0, 1.0, 1, 1e-5): 4.377178,
    (3.0, 1.0, 10, 1e-6): 5.189037,
    (0.8, 0.01, 1000, 1e-5): 3.141018,
}
"""(noise, rate, steps, delta) -> epsilon of dp-accounting 0.6.0 (PLD, Poisson sampling, a record added or removed)."""


@pytest.mark.parametrize(("given_", "expected"), GOOGLE.items(), ids=str)
def test_it_agrees_with_dp_accounting(given_: tuple[float, float, int, float], expected: float) -> None:
    noise, rate, count, delta = given_
    assert expected - 2e-4 <= epsilon_of(Steps(noise, rate, count), delta) <= expected + 0.015


@given(st.floats(0.5, 20), st.floats(1e-7, 1e-2), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float, delta: float, count: int) -> None:
    """Balle and Wang (ICML 2018), theorem 8; many steps are one with less noise."""
    found = epsilon_of(Steps(noise, 1.0, count), delta)
    single = noise / math.sqrt(count)

    def spent(epsilon: float) -> float:
        parts = norm.cdf(1 / (2 * single) - epsilon * single), norm.cdf(-1 / (2 * single) - epsilon * single)
        return float(parts[0] - math.exp(min(epsilon, 700)) * parts[1])

    assert spent(found) <= delta * 1.0001
    assert found <= 0.02 or spent(found - 0.02) > delta


@given(st.floats(0.7, 4), st.floats(0.01, 0.9), st.integers(1, 60))
@settings(max_examples=15, deadline=None)
def test_more_noise_fewer_steps_and_rarer_draws_cost_less(noise: float, rate: float, count: int) -> None:
    usual = epsilon_of(Steps(noise, rate, count), 1e-5)
    for better in (Steps(noise * 1.2, rate, count), Steps(noise, rate * 0.8, count)):
        assert epsilon_of(better, 1e-5) <= usual + 1e-6 + 0.01
    assert epsilon_of(Steps(noise, rate, count + 5), 1e-5) >= usual - 0.01


@pytest.mark.parametrize(("epsilon", "rate", "count"), [(4.0, 0.1, 100), (0.5, 0.02, 300), (8.5, 0.252, 200)])
def test_noise_is_found_that_spends_the_budget(epsilon: float, rate: float, count: int) -> None:
    noise = noise_for(epsilon, 1e-4, rate, count)
    assert SPENT * epsilon <= epsilon_of(Steps(noise, rate, count), 1e-4) <= epsilon
    if epsilon == 8.5:
        assert noise == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("wrong", [(0.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.1, 0), (float("nan"), 0.1, 1)])
def test_what_cannot_be_accounted_for_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be accounted for"):
        Steps(*wrong)
    with pytest.raises(ConfigError, match="delta is 1"):
        epsilon_of(Steps(1.0, 0.1, 1), 1.0)


def test_a_plan_keeps_the_budget_and_larger_sums_cost_less() -> None:
    few, many = plans(1000, 4.0, 1e-5, 4, [20]), plans(1000, 4.0, 1e-5, 8, [20])
    (one,) = few
    assert one.epsilon <= 4.0
    assert one.batch == round(1000 * one.rate)
    assert epsilon_of(Steps(one.noise, one.rate, 20), 1e-5) == pytest.approx(one.epsilon)
    assert many[0].strain == pytest.approx(one.strain / 2)
    assert many[0].cost_pct < one.cost_pct <= MEASURED[-1][1]
    (tight,) = plans(60, 0.1, 1e-4, 1, [20])
    assert tight.beyond


def test_the_usual_delta_is_well_below_one_in_the_compounds() -> None:
    assert usual_delta(3000) == 1e-5
    assert usual_delta(1000) == 1e-4
    with pytest.raises(ConfigError, match="delta between 0 and 1 in the number of compounds"):
        plans(1000, 1.0, 1e-3, 4)
    with pytest.raises(ConfigError, match="given 1000 compounds, 4 sites, epsilon nan"):
        plans(1000, float("nan"), 1e-5, 4)
