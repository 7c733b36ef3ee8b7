"""Whether a trunk's weights stand for single positions of the fingerprint, so that what moved shows what occurred.

`audit.first_layer_view` knows the first layer of this program's perceptrons. Of a module nothing is known, so every
dimension of every tensor that is long enough to count positions is tried, and the one that shows most is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.audit.first_layer_view import weakest_energies
from kmel_p2p.learn.audit.ranking import auroc
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Inputs

RANKED = 40
"""Structures from which on ranking members above others says something: half of them are trained on."""


@dataclass(frozen=True, slots=True)
class Positions:
    """What the gradient of a few compounds shows of their fingerprints, by the tensor that shows most.

    Attributes:
        tensor, dimension: whose slices stand for positions.
        shown: positions whose slice moved.
        right: share of those that occur in the compounds.
        found: share of the compounds' positions that are among them.
        picked_auroc: how well the compounds rank above as many others; None with too few structures.
    """

    tensor: str
    dimension: int
    shown: int
    right: float
    found: float
    picked_auroc: float | None


def positions_shown(network: Network, layout: Layout, inputs: Inputs, occurs: NDArray[np.bool_]) -> Positions | None:
    """What a gradient of the first half of the compounds shows of them; None: no tensor counts positions.

    Args:
        network: with the trunk that a run starts from.
        occurs: bool[n, bits], which positions occur in each compound.
    """
    members, others = np.array_split(np.arange(len(occurs)), 2)
    wanted: NDArray[np.bool_] = np.any(occurs[members], axis=0)
    best: Positions | None = None
    for name, tensor in layout.split(_gradient(network, inputs.rows(members))).items():
        if not name.startswith("trunk."):
            continue
        for dimension in (at for at, size in enumerate(tensor.shape) if size >= len(wanted)):
            by_position = np.moveaxis(tensor, dimension, 0)[: len(wanted)].reshape(len(wanted), -1)
            energies = np.einsum("ij,ij->i", by_position, by_position, dtype=np.float64)
            moved = energies > 0
            shown, hit = int(moved.sum()), int((moved & wanted).sum())
            if not shown:
                continue
            picked = None
            if len(occurs) >= RANKED:
                picked = auroc(*(weakest_energies(energies, occurs[rows]) for rows in (members, others)))
            found = Positions(name, dimension, shown, hit / shown, hit / max(1, int(wanted.sum())), picked)
            if best is None or (found.right, found.found) > (best.right, best.found):
                best = found
    return best


def _gradient(network: Network, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    network.clear_gradients()
    loss = (network.forward(network.read(rows)) - torch.ones(1)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert network.trunk.grad is not None
    return network.laid_out(network.trunk.grad)
