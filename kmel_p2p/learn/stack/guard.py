"""Never worse: the federation's stack answers only where held-out compounds do not contradict it.

Both sides' outputs on held-out compounds come from weights that were fitted to other compounds. Their losses are
compared pair by pair, as in `learn.evaluate.comparison`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.stack.sides import BEST_LOCAL, STACK

MIN_HELD_OUT = 20
"""With fewer held-out values, nothing speaks for the federation, and the site's own side answers."""

CONTRADICTED = 0.0
"""Standard errors by which the stack may be worse on held-out compounds and still answer."""


def answering(stack: NDArray[np.float64], local: NDArray[np.float64]) -> str:
    """The side that answers.

    Args:
        stack, local: loss of each held-out compound, float64[n], in the same order.
    """
    if len(stack) < MIN_HELD_OUT or not np.isfinite(stack).all():
        return BEST_LOCAL
    if not np.isfinite(local).all():
        return STACK
    mean, error = difference(stack, local)
    return STACK if mean <= CONTRADICTED * error else BEST_LOCAL


def difference(stack: NDArray[np.float64], local: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of stack - local, and its standard error.

    Args:
        stack, local: as in `answering`; at least two compounds.
    """
    apart = stack - local
    return float(apart.mean()), float(apart.std(ddof=1)) / len(apart) ** 0.5
