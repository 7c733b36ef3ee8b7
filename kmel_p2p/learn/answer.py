"""Which model answers for a compound: the chosen one, or the personalised one where the site's own data say nothing.

A choice is made on validation compounds, which are like a site's own chemistry, where the hybrid gains by averaging
with the local model. Where a compound is less like every training compound than nearly all validation compounds were
(`Neighbours.is_outside`), the local model knows least, and what all sites have learned counts for more: on the
chemistry of other silos the personalised model was 19 % better than the local one, the hybrid 14 %
(docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FOREIGN = "personalised"
"""The model that answers for compounds unlike the site's own."""

CHOSEN = "chosen"
"""What a site predicts with, in tables beside the names of the models."""


def answers(
    outputs: Mapping[str, NDArray[np.float64]], chosen: Sequence[str], outside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """What a site predicts, float64[n, number of assay endpoints].

    Args:
        outputs: model -> float64[n, number of assay endpoints]; the chosen ones, and `FOREIGN` where it is there.
        chosen: name of the model for each assay endpoint.
        outside: bool[n], compounds unlike the site's own.
    """
    found = np.empty((len(outside), len(chosen)))
    for place, name in enumerate(chosen):
        found[:, place] = outputs[name][:, place]
    if FOREIGN in outputs:
        found[outside] = outputs[FOREIGN][outside]
    return found
