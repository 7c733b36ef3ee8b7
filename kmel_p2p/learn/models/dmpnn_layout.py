"""Parameters of trunk `dmpnn`: message passing along the bonds, then a perceptron. Imports no torch."""

from __future__ import annotations

import math

from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.mlp import perceptron_cost, perceptron_tensors

ATOM_FEATURES, BOND_FEATURES = 72, 14
"""Numbers that chemprop 2's default featuriser gives for an atom and for a bond."""

GRAPH_TENSORS = ("W_i.weight", "W_h.weight", "W_o.weight", "W_o.bias")
"""Parameters of chemprop's bond message passing, in the order of the layout."""

TYPICAL_ATOMS, TYPICAL_BONDS = 25, 54
"""Heavy atoms and directed bonds of a drug-like molecule, for the cost."""


def graph_tensors(architecture: Architecture) -> list[TensorSpec]:
    """Message passing (bond to message, message to message, atom and messages to atom), then the perceptron."""
    width = architecture.message_width
    shapes = ((width, ATOM_FEATURES + BOND_FEATURES), (width, width), (width, ATOM_FEATURES + width), (width,))
    passing = [
        TensorSpec(f"trunk.graph.{name}", shape, 1 / math.sqrt(shape[1]) if len(shape) == 2 else 0.0)
        for name, shape in zip(GRAPH_TENSORS, shapes, strict=True)
    ]
    return passing + perceptron_tensors(architecture, width + architecture.descriptors)


def graph_cost(architecture: Architecture) -> int:
    """Multiplications for one typical compound."""
    width = architecture.message_width
    first = TYPICAL_BONDS * (ATOM_FEATURES + BOND_FEATURES) * width
    messages = (architecture.depth - 1) * TYPICAL_BONDS * width * width
    atoms = TYPICAL_ATOMS * (ATOM_FEATURES + width) * width
    return first + messages + atoms + perceptron_cost(architecture, width + architecture.descriptors)
