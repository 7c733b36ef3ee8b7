"""What a site's own entries show of its own compounds: `kmel-peer audit leak`.

A site knows the truth that an attacker guesses at, so it can say how right a guess would be. Compounds of its
validation, calibration and test folds, which no entry was trained on, stand for those that an attacker would take for
its own by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.audit.first_layer_view import FirstLayerView, weakest_energies
from kmel_p2p.learn.audit.ranking import auroc, found_at
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.train.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Shown:
    """What one entry, or several together, show to whoever reads them.

    Attributes:
        bits: fingerprint positions that carry a value.
        right: those of them that occur in the site's training compounds.
        own_share: share of the positions of its training compounds that are shown; None where weights stand for no
            single position (trunk `projected`).
        compounds: training compounds of which every position is shown; None likewise.
        picked_auroc: how well training compounds rank above the site's other compounds (0.5: not at all).
        picked_at_1pct: share of the training compounds found when one in a hundred others is taken for one.
    """

    bits: int | None
    right: int | None
    own_share: float | None
    compounds: int | None
    picked_auroc: float | None
    picked_at_1pct: float | None


class LeakAudit:
    """Looks at entries of one site.

    Attributes:
        own_bits: fingerprint positions that occur in the site's training compounds.
        compounds: its training compounds.
        others: its other compounds, which rank against them.

    Raises:
        LocalError: the trunk does not read fingerprints.
    """

    def __init__(self, architecture: Architecture, dataset: Dataset) -> None:
        self._view = FirstLayerView(architecture)
        self._members = dataset.inputs.bits(dataset.train)
        other = np.concatenate([dataset.valid, dataset.calibration, dataset.test])
        self._others = dataset.inputs.bits(other)
        self._own = self._members.any(axis=0)
        self.own_bits, self.compounds, self.others = int(self._own.sum()), len(self._members), len(other)

    def energies(self, change: NDArray[np.floating]) -> NDArray[np.float64]:
        """What is kept of one entry, float64[bits].

        Args:
            change: float[d], the decoded payload.
        """
        return self._view.energies(self._view.weights(change))

    def shown(self, energies: Iterable[NDArray[np.float64]]) -> Shown:
        """What entries with these energies show together."""
        total = np.sum(np.stack(list(energies)), axis=0)
        members, others = weakest_energies(total, self._members), weakest_energies(total, self._others)
        area, found = (_number(score(members, others)) for score in (auroc, found_at))
        if not self._view.sparse:
            return Shown(None, None, None, None, area, found)
        seen = total > 0
        right = int(np.count_nonzero(seen & self._own))
        whole = int(np.count_nonzero(~(self._members & ~seen).any(axis=1)))
        share = right / self.own_bits if self.own_bits else 0.0
        return Shown(int(np.count_nonzero(seen)), right, share, whole, area, found)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
