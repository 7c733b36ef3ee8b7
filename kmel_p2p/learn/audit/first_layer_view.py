"""What a change of a trunk's first layer shows about the compounds that it was trained on.

A weight that stands for one position of the fingerprint moves only where that position occurs. So the positions whose
weights an entry carries are positions of its author's compounds; and a compound all of whose positions moved a lot was
probably among them. Nothing is needed for that but the entry and the charter: no label, no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.registry import kind_of

WEAKEST = 0.25
"""Share of a compound's positions that it is judged by: those that moved least. A compound that was not trained on
shares most of its positions with some that were, but hardly all."""

_BLOCK = 1024


class FirstLayerView:
    """The first layer of one charter's trunk, as anybody with the charter reads a change of it.

    Attributes:
        bits: positions of the fingerprint.
        sparse: whether weights stand for single positions, so that those that are zero say something.

    Raises:
        LocalError: the trunk does not read fingerprints.
    """

    def __init__(self, architecture: Architecture) -> None:
        kind = kind_of(architecture)
        if not kind.perceptron:
            raise LocalError(
                f"trunk {kind.name} reads {kind.summary}: no weight of it stands for a position of the fingerprint, "
                "and what its entries show is not measured"
            )
        self.bits = architecture.inputs - architecture.descriptors
        self._projection = kind.projection(architecture)
        self.sparse = self._projection is None
        layout = trunk_layout(architecture)
        (spec,) = (spec for spec in layout.specs if spec.name == "trunk.0.weight")
        self._place, self._inputs = layout.slices[spec.name], spec.shape[-1]

    def weights(self, change: NDArray[np.floating]) -> NDArray[np.floating]:
        """The part of a change of the trunk (float[d]) that is the first layer: float[neurons of all members, inputs].

        A view.
        """
        return change[self._place].reshape(-1, self._inputs)

    def inputs(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the first layer reads of features float32[n, width of the features]."""
        if self._projection is None:
            return features
        fingerprints, descriptors = features[:, : self.bits], features[:, self.bits :]
        read: NDArray[np.float32] = np.concatenate([fingerprints @ self._projection, descriptors], axis=1)
        return read

    def energies(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """How much each position of the fingerprint moved: squared norm of its column, float64[bits].

        Through a projection, of what the change would answer to that position alone.
        """
        columns = weights[:, : self.bits] if self._projection is None else weights[:, : self._projection.shape[1]]
        if self._projection is not None:
            columns = columns @ self._projection.T
        found: NDArray[np.float64] = np.einsum("ij,ij->j", columns, columns, dtype=np.float64)
        return found


def weakest_energies(energies: NDArray[np.float64], occurs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores of compounds, float64[n]: the mean energy of the weakest quarter of their positions; higher: rather seen.

    Args:
        energies: float64[bits], of `FirstLayerView.energies`, added up over the entries that were seen.
        occurs: bool[n, bits], which positions occur in each compound. One without any has score 0.
    """
    scores = np.zeros(len(occurs))
    for start in range(0, len(occurs), _BLOCK):
        rows = occurs[start : start + _BLOCK]
        ordered = np.sort(np.where(rows, energies, np.inf), axis=1)
        judged = np.ceil(WEAKEST * rows.sum(axis=1)).astype(np.int64)
        within = np.arange(ordered.shape[1]) < judged[:, None]
        sums = np.where(within, ordered, 0.0).sum(axis=1)
        scores[start : start + _BLOCK] = sums / np.maximum(judged, 1)
    return scores
