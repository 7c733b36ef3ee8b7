"""What a part of the trunk does to a site's own loss: the trunk as it is against the trunk less that part.

The loss is the trimmed mean over held-out compounds, in labels, as in training: one compound on which both are far off
must not hide what happens to all others, and what happens to a few must not show. Nothing of this leaves the site but
coarse classes in signed votes (docs/threats.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.losses import compound_losses, trimmed_difference
from kmel_p2p.learn.evaluate.scores import outputs_in_blocks, scorable
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.session import EndpointEffect

MAX_COMPOUNDS = 256
"""Held-out compounds that are looked at: enough to see what does harm, few enough to be cheap."""

LARGEST = 1e6
"""A loss above it counts as this: of a trunk that somebody blew up it is all that one needs to know."""


def looked_at(dataset: Dataset, seed: int) -> Dataset:
    """The dataset with the held-out compounds to look at in its validation fold, the same ones for the same seed."""
    held_out = np.concatenate([dataset.valid, dataset.calibration])
    if len(held_out) > MAX_COMPOUNDS:
        held_out = np.random.default_rng(seed).permutation(held_out)[:MAX_COMPOUNDS]
    return replace(dataset, valid=np.sort(held_out))


class EffectMeter:
    """Measures parts of one trunk on one dataset (`looked_at`). The network's trunk is changed by it."""

    def __init__(self, dataset: Dataset, network: Network) -> None:
        self._dataset, self._network = dataset, network

    def load_private(self, private: NDArray[np.float32]) -> None:
        """Go on with these private heads, float32[p]."""
        self._network.load_private(private)

    def losses(self, trunk: NDArray[np.float32]) -> Mapping[int, NDArray[np.float64]]:
        """Loss of each compound by place of the assay endpoint, where at least two compounds have a value."""
        dataset = self._dataset
        self._network.load(trunk)
        outputs = outputs_in_blocks(dataset, dataset.valid, self._network.predict)
        found = {}
        for place, endpoint in enumerate(dataset.endpoints):
            rows = scorable(dataset, dataset.valid, place)
            if np.count_nonzero(rows) >= 2:
                loss = compound_losses(endpoint, outputs[rows, place], dataset.labels[dataset.valid[rows], place])
                found[place] = np.minimum(np.nan_to_num(loss, nan=LARGEST), LARGEST)
        return found

    def effects(
        self, whole: Mapping[int, NDArray[np.float64]], without: NDArray[np.float32]
    ) -> dict[int, EndpointEffect]:
        """Of the part that `without` lacks, by place of the assay endpoint.

        Args:
            whole: `losses` of the whole trunk.
            without: the trunk less the part, float32[d].
        """
        found = {}
        for place, less in self.losses(without).items():
            loss, without_part, error = trimmed_difference(whole[place], less)
            found[place] = EndpointEffect(len(less), loss, without_part, error)
        return found
