"""What each author's part of a stretch of the trunk's way did to a site's own loss: see `core.ledger.worth.stretch`.

The loss is the mean over held-out compounds, in labels, as in training. Its gradient half-way along the stretch is
computed once per group of compounds, whatever the number of authors; a part's worth is minus the product of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import MultiTaskLoss
from kmel_p2p.learn.worker.session import FEWEST_COMPOUNDS, EndpointWorth

GROUPS = 6
"""Into which the held-out compounds of an assay endpoint are divided: how far the groups differ says how sure the mean
is. Each group costs a pass of its own, over its own compounds."""

Part = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions and values of what an author added, int64[n] and float32[n]; a position may occur repeatedly."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Compounds of one assay endpoint, as the network reads them: the same every time."""

    place: int
    rows: NDArray[np.int64]
    inputs: Any


class WorthMeter:
    """Measures stretches on one dataset, whose validation fold holds the compounds to look at (`effect.looked_at`).

    The network's trunk is changed by it.
    """

    def __init__(self, dataset: Dataset, network: Network, seed: int) -> None:
        self._dataset, self._network = dataset, network
        self._loss = MultiTaskLoss(dataset.endpoints)
        self._groups: list[_Group] = []
        for place, endpoint in enumerate(dataset.endpoints):
            if not endpoint.weight > 0:
                continue  # nobody trains it
            rows = dataset.valid[scorable(dataset, dataset.valid, place)]
            if len(rows) >= FEWEST_COMPOUNDS:
                # The same groups every time: what each of them says is added up over the run.
                shuffled = np.random.default_rng([seed, place]).permutation(rows)
                for part in np.array_split(shuffled, GROUPS):
                    self._groups.append(_Group(place, part, network.read(dataset.inputs.rows(part))))

    def load_private(self, private: NDArray[np.float32]) -> None:
        """Go on with these private heads, float32[p]."""
        self._network.load_private(private)

    def worth(self, half_way: NDArray[np.float32], parts: Sequence[Part]) -> Mapping[int, EndpointWorth]:
        """By place of the assay endpoint; those whose loss or gradient is not finite are left out.

        Args:
            half_way: the trunk, float32[d].
        """
        if not parts:
            return {}
        self._network.load(half_way)
        # All parts at once, and where they lie in the network: the gradient has as many values as the trunk.
        positions = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        at = torch.from_numpy(self._network.order.places_of(positions))
        ends = np.cumsum([len(part[0]) for part in parts])[:-1]
        found: dict[int, list[tuple[int, float, list[float]]]] = {}
        for group in self._groups:
            loss, gradient = self._gradient(group, at)
            pieces = np.split(gradient, ends)
            values = [float(-(piece @ added)) for piece, (_, added) in zip(pieces, parts, strict=True)]
            found.setdefault(group.place, []).append((len(group.rows), loss, values))
        return {
            place: EndpointWorth(
                compounds=sum(count for count, _, _ in groups),
                loss=float(np.average([loss for _, loss, _ in groups], weights=[count for count, _, _ in groups])),
                worth=tuple(tuple(values) for _, _, values in groups),
            )
            for place, groups in found.items()
            if np.isfinite([[loss, *values] for _, loss, values in groups]).all()
        }

    def _gradient(self, group: _Group, at: torch.Tensor) -> tuple[float, NDArray[np.float32]]:
        """Mean loss of a group's compounds for its assay endpoint, and its gradient by these values of the trunk.

        Args:
            at: places in the network's own order, int64[n].

        Returns:
            the gradient as float32[n].
        """
        data, network = self._dataset, self._network
        labels = np.full((len(group.rows), len(data.endpoints)), np.nan, np.float32)
        labels[:, group.place] = data.labels[group.rows, group.place]
        outputs = network.forward(group.inputs)
        relations = torch.zeros(labels.shape, dtype=torch.int8)
        network.clear_gradients()
        loss = self._loss(outputs.float(), torch.from_numpy(labels), relations)
        loss.backward()  # type: ignore[no-untyped-call]
        assert network.trunk.grad is not None
        gradient: NDArray[np.float32] = network.trunk.grad[at.to(network.trunk.grad.device)].cpu().numpy()
        return float(loss.detach()), gradient
