"""A plan for sealed rounds with record-level differential privacy: steps, batch, noise, and what they cost in error.

In each sealed round every site draws a batch at random, clips the gradient of each compound, and adds its share of the
noise before the sum is sealed. So one step costs epsilon once for all sites, and the noise is divided among the
compounds of all batches. What decides how much accuracy is left is the noise in the mean gradient, of which more steps
average out more (Ponomareva et al., JAIR 2023, section 5.2): `strain`. Under one epsilon it hardly depends on the
number of steps, so take as many as training needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.privacy.accountant import Steps, epsilon_of, noise_for

STEPS = (100, 200, 400)
"""Rounds that are compared."""
RATES = (0.05, 0.1, 0.25, 0.5)
"""Shares of a site's compounds in a step that are compared."""

MEASURED_STEPS = 200
MEASURED = ((0.0, 0.0), (2 / 256, 20.0), (4 / 256, 32.0), (8 / 256, 52.0))
"""(strain, how much higher the RMSE is than without noise, %): solubility, 1,017 compounds at four sites, 200 steps of
a quarter of them, trunk 32-16 (docs/privacy.md). At strain 0 gradients are clipped alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to spend a budget.

    Attributes:
        steps: sealed rounds of one step each.
        batch: compounds of a site in a step, on average.
        rate: the probability of each compound to be in it.
        noise: standard deviation of the sum's noise, in units of the clipping norm.
        epsilon, delta: what all steps together cost.
        strain: noise in the mean gradient, in units of the clipping norm, as if of `MEASURED_STEPS` steps.
        cost_pct: by how much the RMSE would rise if this federation were like the measured one.
        beyond: whether the strain is larger than any that was measured, so that the cost is a lower bound.
    """

    steps: int
    batch: int
    rate: float
    noise: float
    epsilon: float
    delta: float
    strain: float
    cost_pct: float
    beyond: bool


strain_of = attrgetter("strain")


def plans(
    compounds: int, epsilon: float, delta: float, sites: int, steps: Sequence[int] = STEPS, colluders: int = 0
) -> list[Plan]:
    """The best plan for each number of steps, the least strain first.

    Args:
        compounds: that a site trains on; the smallest site's, because its compounds are drawn most often.
        epsilon, delta: the budget of one compound over the whole run.
        sites: whose noised sums are added up in a round.
        colluders: sites among them whose noise does not count (`PrivacyRule.colluders`).

    Raises:
        ConfigError: a value is out of range, or no noise keeps the budget.
    """
    if compounds < 50 or sites <= colluders or not 0 < delta < 1 / compounds or not 0 < epsilon < math.inf:
        raise ConfigError(
            "a plan needs 50 compounds or more, more sites than colluders, epsilon above 0, and delta between 0 and 1 "
            f"in the number of compounds; given {compounds} compounds, {sites} sites, epsilon {epsilon:g}, delta "
            f"{delta:g}"
        )
    best = (
        min((_plan(compounds, epsilon, delta, (sites, colluders), count, rate) for rate in RATES), key=strain_of)
        for count in steps
    )
    return sorted(best, key=strain_of)


def _plan(compounds: int, epsilon: float, delta: float, group: tuple[int, int], count: int, rate: float) -> Plan:
    noise = noise_for(epsilon, delta, rate, count)
    batch = max(1, round(rate * compounds))
    sites, colluders = group
    # The noise of those who might take theirs off comes on top.
    whole = noise * math.sqrt(sites / (sites - colluders))
    strain = whole / (batch * sites) * math.sqrt(MEASURED_STEPS / count)
    known, costs = zip(*MEASURED, strict=True)
    return Plan(
        steps=count,
        batch=batch,
        rate=rate,
        noise=noise,
        epsilon=epsilon_of(Steps(noise, rate, count), delta),
        delta=delta,
        strain=strain,
        cost_pct=float(np.interp(strain, known, costs)),
        beyond=strain > known[-1],
    )
