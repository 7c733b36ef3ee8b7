"""What learners read of compounds: features, and activations and outputs of networks; and how alike compounds are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.stack.kernels import SMALLEST, counts_of, min_max, rbf, usual_distance
from kmel_p2p.learn.stack.stored import Tensors, below, damaged, require, under

DESCRIPTORS = "descriptors"
"""Name of the scale of descriptors among those of networks' activations."""


class Reader(Protocol):
    """A network, or several that answer as one."""

    @property
    def architecture(self) -> Architecture: ...

    def activations(self, inputs: NDArray[np.float32], /) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """See `Network.activations`."""


class LearnerInputs:
    """Some compounds as learners read them. Every network is asked once.

    Attributes:
        features: float32[n, width], fingerprint and descriptors.
        networks: by name.
    """

    def __init__(
        self,
        inputs: NDArray[np.float32],
        networks: Mapping[str, Reader],
        bits: int,
        withheld: Collection[int] = (),
    ) -> None:
        """
        Args:
            inputs: rows of network inputs (`dataset.Inputs.rows`).
            networks: by name.
            bits: width of the fingerprint.
            withheld: places of assay endpoints whose outputs trees read as 0.
        """
        self._inputs, self.networks, self._bits = inputs, networks, bits
        self._withheld = list(withheld)
        width = next(iter(networks.values())).architecture.inputs
        self.features = np.asarray(inputs)[:, :width]
        self._read: dict[str, tuple[NDArray[np.float32], NDArray[np.float64]]] = {}

    def __len__(self) -> int:
        return len(self.features)

    def outputs(self, network: str) -> NDArray[np.float64]:
        """float64[n, E]."""
        return self._of(network)[1]

    def activations(self, network: str) -> NDArray[np.float32]:
        """float32[n, hidden[-1]]."""
        return self._of(network)[0]

    def _of(self, network: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        if network not in self._read:
            self._read[network] = self.networks[network].activations(self._inputs)
        return self._read[network]

    def columns(self, network: str) -> NDArray[np.float32]:
        """float32[n, ...] for trees: features, then activations and outputs of a network; "" for features alone."""
        if not network:
            return self.features
        outputs = self.outputs(network).astype(np.float32)
        outputs[:, self._withheld] = 0
        return np.concatenate([self.features, self.activations(network), outputs], axis=1)

    def counts(self) -> NDArray[np.uint8]:
        """uint8[n, bits] of the fingerprint."""
        return counts_of(self.features[:, : self._bits])

    def descriptors(self) -> NDArray[np.float32]:
        """float32[n, number of descriptors]."""
        return self.features[:, self._bits :]


@dataclass(frozen=True, slots=True)
class Known:
    """Training compounds that the Gaussian processes of a site compare with. They reveal structures: they stay here.

    Attributes:
        counts: uint8[m, bits].
        descriptors: float32[m, number of descriptors].
        activations: network -> float32[m, hidden[-1]].
        scales: scale of `kernels.rbf` for `DESCRIPTORS` and each network.
    """

    counts: NDArray[np.uint8]
    descriptors: NDArray[np.float32]
    activations: Mapping[str, NDArray[np.float32]]
    scales: Mapping[str, float]

    @classmethod
    def of(cls, parts: Iterable[LearnerInputs], networks: Collection[str]) -> Known:
        """All compounds of some parts, of which one is held at a time."""
        kept = [
            (part.counts(), part.descriptors().copy(), {network: part.activations(network) for network in networks})
            for part in parts
        ]
        counts = np.concatenate([part[0] for part in kept])
        descriptors = np.concatenate([part[1] for part in kept])
        activations = {network: np.concatenate([part[2][network] for part in kept]) for network in networks}
        scales = {network: usual_distance(found.astype(np.float64)) for network, found in activations.items()}
        scales[DESCRIPTORS] = usual_distance(descriptors.astype(np.float64))
        return cls(counts, descriptors, activations, scales)

    def __len__(self) -> int:
        return len(self.counts)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        return {
            "counts": self.counts,
            "descriptors": self.descriptors,
            **under("activations", self.activations),
            **under("scales", {name: np.array([scale]) for name, scale in self.scales.items()}),
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, bits: int, width: int, hidden: int, where: str) -> Known:
        """What `tensors` gave.

        Args:
            bits, width: of the fingerprint, and of all features.
            hidden: activations of a network.

        Raises:
            ConfigError: they are damaged.
        """
        counts = require(tensors, "counts", np.uint8, (None, bits), where)
        descriptors = require(tensors, "descriptors", np.float32, (len(counts), width - bits), where)
        found, scales = below(tensors, "activations"), below(tensors, "scales")
        if scales.keys() != {*found, DESCRIPTORS}:
            raise damaged(where, "scales and activations are of different networks")
        activations = {name: require(found, name, np.float32, (len(counts), hidden), where) for name in found}
        plain = {name: float(require(scales, name, np.float64, (1,), where)[0]) for name in scales}
        if min(plain.values()) < SMALLEST:
            raise damaged(where, "a scale is not positive")
        return cls(counts, descriptors, activations, plain)


class Similar:
    """Similarities of some compounds with some of those known, for one assay endpoint; each is computed once."""

    def __init__(self, readings: LearnerInputs, known: Known, rows: NDArray[np.int64]) -> None:
        """
        Args:
            rows: int64[m] of `known`.
        """
        self._readings, self._known, self._rows = readings, known, rows
        self._parts: dict[str, NDArray[np.float64]] = {}

    def to(self, network: str) -> list[NDArray[np.float64]]:
        """float64[n, m] each: by counts, by descriptors, and by activations of a network unless it is ""."""
        names = ["", DESCRIPTORS, *([network] if network else [])]
        for name in names:
            if name not in self._parts:
                self._parts[name] = self._part(name)
        return [self._parts[name] for name in names]

    def _part(self, name: str) -> NDArray[np.float64]:
        known, rows = self._known, self._rows
        if not name:
            return min_max(self._readings.counts(), known.counts[rows])
        if name == DESCRIPTORS:
            own, others = self._readings.descriptors(), known.descriptors[rows]
        else:
            own, others = self._readings.activations(name), known.activations[name][rows]
        return rbf(own.astype(np.float64), others.astype(np.float64), known.scales[name])
