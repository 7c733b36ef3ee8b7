"""Never worse: what the federation has a part in answers only where held-out compounds do not contradict it.

Outputs on held-out compounds come from weights that were fitted to other compounds. Losses are compared pair by pair,
as in `learn.evaluate.comparison`.

With 60 held-out compounds the limit matters little: on seeds 100 and 101 of the silos, any from 0.25 to 2 standard
errors gives -2.8 to -2.9 % against the best local stack, 0 gives -2.7 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.losses import difference

MIN_HELD_OUT = 20
"""With fewer held-out values, training values decide as well (`out_of_fold`). With fewer of both together, nothing
speaks for the federation, and the best local side answers."""

CONTRADICTED = 1.0
"""Standard errors by which the stack may be worse on held-out compounds and still answer."""

CONTRADICTED_ELSEWHERE = 2.0
"""The same for compounds unlike the held-out ones, which say less about them."""


def answers(federated: NDArray[np.float64], local: NDArray[np.float64], limit: float) -> bool:
    """Whether the federated side answers.

    Args:
        federated, local: loss of each held-out compound, float64[n], in the same order.
        limit: standard errors of the mean difference.
    """
    if len(federated) < MIN_HELD_OUT or not np.isfinite(federated).all():
        return False
    if not np.isfinite(local).all():
        return True
    mean, error = difference(federated, local)
    return mean <= limit * error
