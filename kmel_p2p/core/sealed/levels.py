"""From what a site still has to send to levels of one step, and how the step follows the sums.

The step is a power of two for the whole trunk, so a sum of levels is a sum of fixed-point numbers, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError

SCALE_BITS = 40
"""The trunk is kept as int64 times 2**-40."""
MIN_EXPONENT, MAX_EXPONENT = -40, 0
"""The step is 2**exponent."""

_FINER = ((1, 4, -2), (1, 1, -1))
_COARSER = ((4, 1, 2), (5, 2, 1))
"""(numerator, denominator, change): the mean magnitude of a site's levels below or above which the step changes."""


def first_exponent(learning_rate: float, steps: int, members: int) -> int:
    """The exponent of the first sum: an optimiser moves a value by about learning rate times root of steps, and a site
    weighs about one part in `members`; half of that is the step."""
    guess = learning_rate * math.sqrt(steps) / members / 2
    return min(MAX_EXPONENT, max(MIN_EXPONENT, round(math.log2(guess)) if guess > 0 else MIN_EXPONENT))


def next_exponent(exponent: int, total: NDArray[np.int64], sites: int, levels: int) -> int:
    """The exponent after a sum of levels of so many sites; the same at every site, for it is integers alone.

    Levels that are mostly 0 say too little, those at the limit leave too much for later. The marks are for 7 levels.
    """
    spread = int(np.abs(total).sum()) * 7
    whole = max(1, total.size) * sites * levels
    change = next((change for above, below, change in _FINER if spread * below < above * whole), 0)
    change = change or next((change for above, below, change in _COARSER if spread * below > above * whole), 0)
    return min(MAX_EXPONENT, max(MIN_EXPONENT, exponent + change))


def quantise(
    residual: NDArray[np.float32], positions: NDArray[np.int64], exponent: int, levels: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The levels at those positions, int64[n], and what is left of the residual when their sum counts, float32[d].

    Raises:
        LocalError: a value is not finite.
    """
    values = residual[positions].astype(np.float64)
    if not np.isfinite(values).all():
        raise LocalError("the delta has a value that is not finite; training diverged")
    q = np.clip(np.rint(values * 2.0**-exponent), -levels, levels).astype(np.int64)
    left = residual.copy()
    left[positions] = (values - q * 2.0**exponent).astype(np.float32)
    return q, left


def made_levels(trained: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Levels that the trainer made itself, noise included, int64[d]: under differential privacy nothing is left of them
    for later, because a residual would carry compounds into sums that are charged for others.

    Raises:
        LocalError: one is beyond the limit, or not finite.
    """
    if not np.isfinite(trained).all() or np.abs(trained).max(initial=0) > limit:
        raise LocalError(f"the trainer's noised sum has a value that is not within {limit} of zero")
    return np.rint(trained).astype(np.int64)


def add_sum(
    accumulator: NDArray[np.int64], positions: NDArray[np.int64], total: NDArray[np.int64], exponent: int
) -> None:
    """Add a sum of levels to the trunk, int64[d] times 2**-40, in place. Subtracting the same leaves no trace."""
    accumulator[positions] += total << (exponent + SCALE_BITS)


def share_of(size: int, others: Sequence[int], cap: float) -> float:
    """The weight of a site in its group: its part of all measurements, at most `cap` times the equal part.

    What the cap cuts from large sites is divided among the others, so that the weights of a group add up to 1.

    Args:
        size, others: measurements of the site and of the other members, about; 0 counts as 1.
        cap: the charter's `weight_cap`.
    """
    sizes = [max(1, size), *(max(1, each) for each in others)]
    most = max(cap, 1.0) / len(sizes)
    left, total = 1.0, float(sum(sizes))
    order = sorted(range(len(sizes)), key=lambda at: -sizes[at])
    for at in order:
        part = left * sizes[at] / total
        if part <= most:
            return left * sizes[0] / total if sizes[0] <= sizes[at] else most
        left, total = left - most, total - sizes[at]
    return most
