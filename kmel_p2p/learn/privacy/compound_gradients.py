"""The gradient of every compound by itself: what clipping bounds before anything is added up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import MultiTaskLoss

BLOCK_BYTES = 64 << 20
"""Of gradients that are held at a time."""


class CompoundGradients:
    """Gradients of the loss of single compounds with respect to the trunk.

    A compound's loss is the weighted mean over its assay endpoints (`optimise.MultiTaskLoss`), without dropout, so it
    depends on that compound alone.

    Args:
        network: of a kind of trunk with `TrunkKind.compound_gradients`.
    """

    def __init__(self, network: Network, dataset: Dataset) -> None:
        self._network, self._dataset = network, dataset
        loss = MultiTaskLoss(dataset.endpoints)

        def of_one(trunk: dict[str, Tensor], inputs: Tensor, labels: Tensor, relations: Tensor) -> Tensor:
            return loss(network.outputs_with(trunk, inputs[None])[0], labels[None], relations[None])

        self._each: Any = vmap(grad_and_value(of_one), in_dims=(None, 0, 0, 0))
        self.size = network.trunk.numel()
        """Values of the trunk."""
        self.block = max(1, BLOCK_BYTES // (4 * network.trunk.numel()))
        """Compounds at a time."""

    def of(self, rows: Any) -> tuple[Tensor, Tensor]:
        """float32[n, d] in the order of the trunk, and the losses, float32[n]. At most `block` rows."""
        data, trunk = self._dataset, self._network.trunk_tensors()
        inputs = self._network.read(data.inputs.rows(rows))
        labels, relations = torch.from_numpy(data.labels[rows]), torch.from_numpy(data.relations[rows])
        found, losses = self._each(trunk, inputs, labels, relations)
        return torch.cat([found[name].reshape(len(rows), -1) for name in trunk], dim=1).detach(), losses.detach()
