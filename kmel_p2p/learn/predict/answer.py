"""Which model answers for a compound: the chosen one, or the personalised one where the site's own data say nothing.

A choice is made on validation compounds, which are like a site's own chemistry, where the hybrid gains by averaging
with the local model. Where a compound is clearly less like the training compounds than any validation compound was
(`Neighbours.foreign`), the local model knows least and nothing was tried, and what all sites have learned counts for
more (docs/models.md).

An assay endpoint that a site has no training measurements of has no choice either: only the others know its shared
head, so the federated model answers, and nobody knows its private head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FALLBACK = "personalised"
"""The model that answers for compounds unlike the site's own."""

ONLY_OTHERS = "federated"
"""The model that answers where only the other sites have measurements."""

CHOSEN = "chosen"
"""What a site predicts with, in tables beside the names of the models."""


def answers(
    outputs: Mapping[str, NDArray[np.float64]],
    chosen: Sequence[str],
    foreign: NDArray[np.bool_],
    untrained: Collection[int] = (),
) -> NDArray[np.float64]:
    """What a site predicts, float64[n, number of assay endpoints].

    Args:
        outputs: model -> float64[n, number of assay endpoints]; the chosen ones, and `FALLBACK` where it is there.
        chosen: name of the model for each assay endpoint.
        foreign: bool[n], compounds unlike the site's own.
        untrained: places of the assay endpoints without own training measurements; all compounds are foreign there,
            and the chosen model answers.
    """
    found = np.empty((len(foreign), len(chosen)))
    for place, name in enumerate(chosen):
        found[:, place] = outputs[name][:, place]
    if FALLBACK in outputs:
        own = np.array([place not in untrained for place in range(len(chosen))], bool)
        found[np.ix_(foreign, own)] = outputs[FALLBACK][np.ix_(foreign, own)]
    return found
