"""Epsilon of many noised sums over randomly drawn compounds: privacy loss distributions, composed exactly.

One step takes part with every compound independently with probability q, adds up their gradients, each clipped to norm
C, and adds normal noise of standard deviation sigma C (Abadi et al., CCS 2016). Two data sets are adjacent if one has
one compound more, with all its replicates and assay endpoints. The privacy loss of a step is put on a grid, always
rounded up; steps are composed by convolution (Koskela et al., AISTATS 2020; Gopi et al., NeurIPS 2021), whose tails are
bounded by Chernoff and counted as if they told everything. So what is found is an upper bound, by some thousandths of
the true epsilon. Tests compare it with Google's dp-accounting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.stats import norm

from kmel_p2p.agreement.errors import ConfigError

TAIL = 1e-4
"""Share of delta that each cut tail may cost."""
SHIFT = 0.01
"""What rounding up adds to epsilon at most, and half of it usually; more only where `MOST` points do not suffice."""
SPENT = 0.995
"""Share of epsilon that `noise_for` spends at least, where it can."""
MOST = 1 << 21
RATES = np.geomspace(1e-2, 1e3, 26)
"""Exponents tried in Chernoff's bound; any gives a valid one."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Noised sums of one kind.

    Attributes:
        noise: sigma, the noise's standard deviation in units of the clipping norm.
        rate: q, the probability that a step takes part with a compound.
        count: how many steps.

    Raises:
        ConfigError: a value is out of range.
    """

    noise: float
    rate: float
    count: int

    def __post_init__(self) -> None:
        if not 0.05 <= self.noise <= 1e6 or not 0 < self.rate <= 1 or not 1 <= self.count <= 10_000_000:
            raise ConfigError(
                f"noise {self.noise:g}, rate {self.rate:g} and {self.count} steps cannot be accounted for; noise must "
                "be 0.05 or more, the rate above 0 and at most 1, and there must be 1 to 10,000,000 steps"
            )


def epsilon_of(steps: Steps, delta: float) -> float:
    """The smallest epsilon that is certain for this delta.

    Raises:
        ConfigError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ConfigError(
            f"delta is {delta:g}; it must lie between 0 and 1, and well below 1 in the number of compounds"
        )
    return max(_epsilon(steps, delta, added=added) for added in (False, True))


def noise_for(epsilon: float, delta: float, rate: float, count: int) -> float:
    """Noise that keeps epsilon and spends nearly all of it (`SPENT`).

    Raises:
        ConfigError: no noise of the range does, or a value is out of range.
    """
    low, high = 0.05, max(0.2, rate * math.sqrt(2 * count * math.log(1 / delta)) / epsilon)
    above, below = math.inf, epsilon_of(Steps(high, rate, count), delta)
    while below > epsilon:
        low, above, high = high, below, 2 * high
        if high > 1e6:
            raise ConfigError(f"no noise keeps epsilon at {epsilon:g} with delta {delta:g} over {count} steps")
        below = epsilon_of(Steps(high, rate, count), delta)
    while below < SPENT * epsilon and high / low > 1.001:
        # Epsilon falls about as a power of the noise.
        power = math.log(above / below) / math.log(high / low) if math.isfinite(above) else 1.0
        guess = high * (below / epsilon) ** (1 / power) * 1.001
        guess = min(max(guess, low * (high / low) ** 0.05), high * (low / high) ** 0.05)
        found = epsilon_of(Steps(guess, rate, count), delta)
        if found > epsilon:
            low, above = guess, found
        else:
            high, below = guess, found
    return high


def _epsilon(steps: Steps, delta: float, *, added: bool) -> float:
    tail = TAIL * delta
    low, high = _range(steps, tail / steps.count, added=added)
    width = max(SHIFT / steps.count, (high - low) / MOST)
    for _ in range(2):
        # The window of the composed loss is known only from the distribution on a grid.
        first, masses = _losses(steps, low, high, width, added=added)
        bottom, top = _window(first, masses, width, steps.count, tail)
        needed = (top - bottom) / width
        if needed <= MOST:
            break
        width *= needed / MOST * 1.01
    lost = 1 - masses.sum()
    composed = _composed(first, masses, width, steps.count, bottom, top)
    spent = 2 * tail + steps.count * max(0.0, lost)
    return _solve(bottom, composed, width, delta - spent)


def _range(steps: Steps, tail: float, *, added: bool) -> tuple[float, float]:
    """Losses of one step that are looked at; the rest has less probability than `tail`."""
    z = -float(norm.ppf(tail))
    if added:
        # Minus the loss at outcomes of the data set without the compound.
        return -_loss(steps, steps.noise * z), -_loss(steps, -steps.noise * z)
    return _loss(steps, -steps.noise * z), _loss(steps, 1 + steps.noise * z)


def _loss(steps: Steps, outcome: float) -> float:
    """log of the densities' ratio, with over without the compound, at an outcome in units of the clipping norm."""
    exponent = (2 * outcome - 1) / (2 * steps.noise**2)
    return float(np.logaddexp(math.log1p(-steps.rate) if steps.rate < 1 else -np.inf, math.log(steps.rate) + exponent))


def _outcomes(steps: Steps, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `_loss`; minus infinity where no outcome has so small a loss."""
    least = math.log1p(-steps.rate) if steps.rate < 1 else -math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        above = losses + np.log1p(-np.exp(np.minimum(least - losses, 0.0)))
    found = steps.noise**2 * (above - math.log(steps.rate)) + 0.5
    return np.where(losses > least, found, -np.inf)


def _losses(steps: Steps, low: float, high: float, width: float, *, added: bool) -> tuple[int, NDArray[np.float64]]:
    """One step's loss on the grid, rounded up: number of the first point, and the probability of each.

    What lies below `low` counts there, what lies above `high` is left out.
    """
    first, last = math.floor(low / width), math.ceil(high / width)
    points: NDArray[np.float64] = np.arange(first, last + 1, dtype=np.float64) * width
    if added:
        below = norm.sf(_outcomes(steps, -points) / steps.noise)
    else:
        outcomes = _outcomes(steps, points)
        below = (1 - steps.rate) * norm.cdf(outcomes / steps.noise)
        below += steps.rate * norm.cdf((outcomes - 1) / steps.noise)
    return first, np.diff(below, prepend=0.0)


def _window(first: int, masses: NDArray[np.float64], width: float, count: int, tail: float) -> tuple[float, float]:
    """Bounds of the sum of `count` losses that each cut at most `tail` of its probability (Chernoff)."""
    losses = (first + np.arange(len(masses))) * width
    logs = np.log(np.maximum(masses, 1e-300))
    highest, lowest = math.inf, -math.inf
    for rate in RATES:
        for sign in (1, -1):
            exponents = logs + sign * rate * losses
            peak = exponents.max()
            cumulant = peak + math.log(np.exp(exponents - peak).sum())
            bound = (count * cumulant - math.log(tail)) / rate
            if sign > 0:
                highest = min(highest, bound)
            else:
                lowest = max(lowest, -bound)
    return max(lowest, count * losses[0]), min(highest, count * losses[-1])


def _composed(
    first: int, masses: NDArray[np.float64], width: float, count: int, bottom: float, top: float
) -> NDArray[np.float64]:
    """Probabilities of the sum on the grid from `bottom` (rounded down) on; what lies beyond wraps around."""
    start = math.floor(bottom / width)
    size = next_fast_len(max(math.ceil(top / width) - start + 1, len(masses)), real=True)
    composed: NDArray[np.float64] = irfft(rfft(masses, size) ** count, size)
    # Point 0 of the transform is `count * first`.
    return np.asarray(np.maximum(np.roll(composed, (count * first - start) % size), 0.0), np.float64)


def _solve(bottom: float, composed: NDArray[np.float64], width: float, delta: float) -> float:
    """Smallest epsilon of the grid with sum over losses l of p(l) (1 - exp(epsilon - l)) <= delta."""
    losses = (math.floor(bottom / width) + np.arange(len(composed))) * width
    positive = losses > 0
    losses, masses = losses[positive], composed[positive]
    if not len(losses):
        return 0.0
    above = np.cumsum(masses[::-1])[::-1]
    # Scaled against overflow of the exponents.
    shrunk = np.cumsum((masses * np.exp(-(losses - losses[0])))[::-1])[::-1]
    found = above - shrunk * np.exp(np.minimum(losses - losses[0], 700.0))
    fits = np.flatnonzero(found <= delta)
    return math.inf if not len(fits) else float(losses[fits[0]])
