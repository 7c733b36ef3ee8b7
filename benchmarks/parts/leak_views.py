"""What a member sees of a federation, and what it can compute from that about a compound, without any label.

Views: `A`, one author's entries; `S`, the sums of each round without one member's own part, as that member sees them
where only sums exist; `F`, the final trunk. Each gives some statistics for every compound, all from the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kmel_p2p.learn.audit.first_layer_view import FirstLayerView, weakest_energies

VIEWS = ("A", "S", "F")
RIDGES = (1e-3, 1e-2, 1e-1)
"""Shares of the mean eigenvalue that are added to all, before a compound's distance from what moved is taken."""

SPARSE = 0.05
"""Share of values that are not zero, below which a sparse product is faster."""

STATISTICS = ("weakest positions", "fingerprint", "descriptors", "all inputs", *(f"distance {r:g}" for r in RIDGES))


@dataclass
class View:
    """What is kept of the changes that one view shows.

    Attributes:
        energies: float64[bits], added up over changes.
        after: `energies` after each of the first changes.
    """

    reader: FirstLayerView
    energies: NDArray[np.float64]
    after: list[NDArray[np.float64]] = field(default_factory=list)
    _sum: NDArray[np.float32] | None = None
    _gram: NDArray[np.float64] | None = None
    _inverses: dict[float, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def empty(cls, reader: FirstLayerView) -> View:
        return cls(reader, np.zeros(reader.bits))

    def add(self, change: NDArray[np.floating]) -> None:
        """One more change of the trunk, float64[d]."""
        weights = self.reader.weights(change).astype(np.float32)
        self.energies = self.energies + self.reader.energies(weights)
        self.after.append(self.energies)
        # Entries carry one value in sixty.
        few = np.count_nonzero(weights) < SPARSE * weights.size
        squared = _squared(sparse.csr_array(weights)) if few else (weights.T @ weights).astype(np.float64)
        self._gram = squared if self._gram is None else self._gram + squared
        self._inverses.clear()
        self._sum = weights.copy() if self._sum is None else self._sum + weights

    def statistics(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64[n, `STATISTICS`] for compounds with features float32[n, width]; higher: rather trained on."""
        assert self._gram is not None, "a view of something"
        inputs, occurs = self.reader.inputs(features).astype(np.float64), features[:, : self.reader.bits] > 0
        part = inputs.shape[1] - (features.shape[1] - self.reader.bits)
        scale = np.trace(self._gram) / len(self._gram)
        length = np.einsum("ij,ij->i", inputs, inputs)
        found = [
            weakest_energies(self.energies, occurs) / scale,
            _answer(self._gram[:part, :part], inputs[:, :part]) / scale,
            _answer(self._gram[part:, part:], inputs[:, part:]) / scale,
            _answer(self._gram, inputs) / (scale * length),
            *(1 / (_answer(self._inverse(ridge * scale), inputs) * scale / length) for ridge in RIDGES),
        ]
        stacked: NDArray[np.float64] = np.log(np.stack(found, axis=1) + 1e-9)
        return stacked

    def _inverse(self, added: float) -> NDArray[np.float64]:
        if added not in self._inverses:
            assert self._gram is not None, "a view of something"
            solid = self._gram + added * np.eye(len(self._gram))
            self._inverses[added] = np.asarray(np.linalg.inv(solid), np.float64)
        return self._inverses[added]

    def response(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the whole change answers to each compound, float32[n, neurons]: its direction tells, too, because all
        federations start from one trunk."""
        assert self._sum is not None, "a view of something"
        return np.asarray(self.reader.inputs(features) @ self._sum.T)


def _squared(weights: sparse.csr_array) -> NDArray[np.float64]:
    return np.asarray((weights.T @ weights).toarray(), np.float64)


def _answer(matrix: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", rows @ matrix, rows))


class Watcher:
    """Collects the views of one federation; hand `entry` and `round_over` to `inprocess.federate`.

    Args:
        member: the site whose own part it takes out of sums.
        authors: sites of which every entry is looked at; empty where there are only sums.
    """

    def __init__(self, reader: FirstLayerView, size: int, member: int, authors: Sequence[int]) -> None:
        self.authors = {site: View.empty(reader) for site in authors}
        self.sums, self.final = View.empty(reader), View.empty(reader)
        self._member, self._round = member, np.zeros(size)

    def entry(self, site: int, change: NDArray[np.floating]) -> None:
        if site in self.authors:
            self.authors[site].add(change)
        if site != self._member:
            self._round += change

    def round_over(self, number: int) -> None:
        self.sums.add(self._round)
        self._round[:] = 0

    def ended(self, change: NDArray[np.floating]) -> None:
        """The final trunk less the initial one, float64[d]."""
        self.final.add(change)
