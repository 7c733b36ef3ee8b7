"""The body of trunk `projected`: see `projected` and `registry.TrunkBody`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.first_layer import SparseRows
from kmel_p2p.learn.models.perceptron import Perceptron
from kmel_p2p.learn.models.projection import fingerprint_bits, scaled


class ProjectedBody(Perceptron):
    """A perceptron over the projected fingerprint and the descriptors."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(architecture, tensors)
        self._bits = fingerprint_bits(architecture)
        self._projection = torch.from_numpy(scaled(self._bits, architecture.projection, architecture.seed)).to(device())

    def read(self, rows: NDArray[np.float32]) -> Tensor:
        """float32[n, projection + descriptors]."""
        # A GPU multiplies faster than it gathers.
        sparse = SparseRows.of(rows, self._bits) if device().type == "cpu" else None
        if sparse is None:
            dense = torch.from_numpy(np.ascontiguousarray(rows)).to(device())
            return torch.cat([dense[:, : self._bits] @ self._projection, dense[:, self._bits :]], dim=1)
        projected = functional.embedding_bag(
            torch.from_numpy(sparse.positions),
            self._projection,
            torch.from_numpy(sparse.begins),
            mode="sum",
            per_sample_weights=torch.from_numpy(sparse.values),
        )
        return torch.cat([projected, sparse.descriptors], dim=1)
