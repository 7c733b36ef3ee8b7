"""Which model answers for a compound: the chosen one, or the personalised one where the site's own data say nothing.

A choice is made on validation compounds, which are like a site's own chemistry, where the hybrid gains by averaging
with the local model. Where a compound is clearly less like the training compounds than any validation compound was
(`Neighbours.foreign`), the local model knows least and nothing was tried, and what all sites have learned counts for
more (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FALLBACK = "personalised"
"""The model that answers for compounds unlike the site's own."""

CHOSEN = "chosen"
"""What a site predicts with, in tables beside the names of the models."""


def answers(
    outputs: Mapping[str, NDArray[np.float64]], chosen: Sequence[str], foreign: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """What a site predicts, float64[n, number of assay endpoints].

    Args:
        outputs: model -> float64[n, number of assay endpoints]; the chosen ones, and `FALLBACK` where it is there.
        chosen: name of the model for each assay endpoint.
        foreign: bool[n], compounds unlike the site's own.
    """
    found = np.empty((len(foreign), len(chosen)))
    for place, name in enumerate(chosen):
        found[:, place] = outputs[name][:, place]
    if FALLBACK in outputs:
        found[foreign] = outputs[FALLBACK][foreign]
    return found
