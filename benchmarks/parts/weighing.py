"""A site measures what each author's entries were worth along the way, with the daemon's own meter, book and pace."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds import Stretch, StretchPart
from kmel_p2p.learn.evaluate.worth import WorthMeter
from kmel_p2p.site.trainer.contribution_book import ContributionBook
from kmel_p2p.site.trainer.contributions import IN_ADVANCE, SHARE
from kmel_p2p.site.trainer.pace import Share


def key_of(site: int) -> SiteKey:
    """Of a site by its number."""
    return SiteKey(bytes([site]) * 32)


class Weighing:
    """Of one site.

    Attributes:
        book: what it found.
        pace: how much time that may take, and took.
    """

    def __init__(self, meter: WorthMeter, at_least_s: float = 0.0) -> None:
        """`at_least_s`: what it may take in any case; the daemon's is `contributions.AT_LEAST_S`."""
        self.book = ContributionBook()
        self.pace = Share(SHARE, IN_ADVANCE, at_least_s)
        self._meter = meter
        self._since = 0

    def weigh(
        self,
        private: NDArray[np.float32],
        entry: int,
        steps: Sequence[Mapping[int, NDArray[np.floating]]],
        trunks: Sequence[NDArray[np.float32]],
        weights: Mapping[int, float],
    ) -> None:
        """Measure the stretch since the last one, if there is time for it.

        Args:
            private: the site's private heads, float32[p].
            entry: newest of every author.
            steps: of each round up to `entry`: author -> what its entry added to the trunk, float[d].
            trunks: before the first round and after each, float32[d].
            weights: author -> of one entry.
        """
        if not self.pace.allows():
            return
        parts = []
        for at in sorted(steps[-1]):
            moved = np.sum([step[at] for step in steps[self._since : entry]], axis=0)
            positions = np.flatnonzero(moved)
            weight = weights[at] * (entry - self._since)
            parts.append(StretchPart(key_of(at), self._since + 1, entry, weight, 0, 0, 0, positions,
                                     moved[positions].astype(np.float32)))  # fmt: skip
        until = {part.author: entry for part in parts}
        half_way = (trunks[self._since] + trunks[entry]) / np.float32(2)
        began = time.process_time()
        self._meter.load_private(private)
        found = self._meter.worth(half_way, [(part.positions, part.values) for part in parts])
        self.pace.spent(time.process_time() - began)
        self.book.add(Stretch(until, half_way, tuple(parts)), found)
        self._since = entry
