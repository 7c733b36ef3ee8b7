"""A gated perceptron over fingerprint and descriptors, as an example of a trunk that comes as a package."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn


class GatedTrunk(nn.Module):
    """Layers of linear, norm and gate: each number is multiplied by a sigmoid of another one (Dauphin et al. 2017).

    Args:
        inputs: numbers that describe a compound.
        hidden: widths of the layers.
        dropout: probability that a number is set to zero, while training.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        widths = itertools.pairwise((inputs, *hidden))
        self.layers = nn.ModuleList(nn.Linear(before, 2 * after) for before, after in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """float32[n, hidden[-1]] from float32[n, inputs]."""
        hidden = features
        for layer, norm in zip(self.layers, self.norms, strict=True):
            value, gate = layer(hidden).chunk(2, dim=-1)
            hidden = self.dropout(norm(value * torch.sigmoid(gate)))
        return hidden


def module(shape: Any) -> nn.Module:
    """The network for a charter: `shape` has inputs, descriptors, hidden, dropout and options."""
    return GatedTrunk(shape.inputs, shape.hidden, shape.dropout)
