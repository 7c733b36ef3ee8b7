"""Trunk `projected`: a perceptron that reads a fixed random projection of the fingerprint, and the descriptors.

Every site multiplies by the same matrix, which nobody trains or sends (`projection`). The trunk is a twentieth of a
usual perceptron, and no column of its first layer stands for one position of the fingerprint. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.mlp import perceptron_cost, perceptron_tensors
from kmel_p2p.learn.models.projection import fingerprint_bits, scaled, signs

if TYPE_CHECKING:
    from torch import Tensor

    from kmel_p2p.learn.models.projected_body import ProjectedBody


def perceptron_inputs(architecture: Architecture) -> int:
    """What the perceptron reads: the projected fingerprint, then the descriptors."""
    return architecture.projection + architecture.descriptors


@dataclass(frozen=True, slots=True)
class Projected:
    """See `registry.TrunkKind`."""

    name: str = "projected"
    summary: str = "fingerprint through a fixed random projection, and descriptors"
    extra: str = ""
    packages: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset({"members", "projection"})
    by_input: frozenset[str] = frozenset()
    perceptron: bool = True
    compound_gradients: bool = True
    drafted: Mapping[str, Any] = field(default_factory=lambda: {"hidden": (128, 64), "projection": 256})

    def check(self, architecture: Architecture) -> None:
        bits = fingerprint_bits(architecture)
        if architecture.projection >= bits:
            raise ConfigError(
                f"model.projection is {architecture.projection}, and the fingerprint has {bits} positions: choose a "
                "smaller one, as nothing is projected otherwise"
            )

    def tensors(self, architecture: Architecture) -> list[TensorSpec]:
        return perceptron_tensors(architecture, perceptron_inputs(architecture))

    def cost(self, architecture: Architecture) -> int:
        return perceptron_cost(architecture, perceptron_inputs(architecture))

    def body(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> ProjectedBody:
        from kmel_p2p.learn.models.projected_body import ProjectedBody

        return ProjectedBody(architecture, tensors)

    def projection(self, architecture: Architecture) -> NDArray[np.float32]:
        return scaled(fingerprint_bits(architecture), architecture.projection, architecture.seed)

    def molecules(self, smiles: Sequence[str]) -> None:
        return None

    def reference_hash(self, smiles: Sequence[str], model: ModelRule, bits: int) -> str:
        packed = np.packbits(signs(bits, model.projection, model.seed).ravel(), bitorder="little")
        return hashlib.blake2b(packed.tobytes(), digest_size=32, person=b"kmel projection1").hexdigest()


KIND = Projected()
