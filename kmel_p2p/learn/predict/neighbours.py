"""Whether a compound resembles those a site trained on: similarity to the nearest one, compared with what is usual.

The fingerprints of the training compounds lie in a file of their own in the site's model directory, with structures and
measured values (`own_compounds`). Export leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.predict.own_compounds import OwnCompounds
from kmel_p2p.learn.tensor_file import write_state
from kmel_p2p.learn.train.dataset import Dataset, Inputs

FILE = "neighbours_STAYS.safetensors"
QUERY_VALUES, KNOWN_VALUES = 1 << 20, 1 << 23
"""Fingerprint positions of queries and training compounds compared at once: 512 and 4,096 compounds of 2,048 bits."""

FOREIGN = 0.8
"""A compound is foreign if its similarity is below this share of the least similar validation compound's."""

OUTSIDE, EDGE = 0.05, 0.25
"""Quantiles of the validation compounds' similarity. Below the first, a compound is outside; below the second, at the
edge."""

MIN_USUAL = 10
"""Validation compounds needed for the quantiles."""

MAX_HELD_OUT = 1000
"""Similarities of held-out compounds that are kept, evenly among the sorted ones."""


def _nothing() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Training compounds of a site, as sets of Morgan environments.

    Attributes:
        packed: uint8[n, ceil(width / 8)], eight environments per byte.
        width: of the fingerprint.
        usual: similarities below which a compound is foreign, outside, at the edge; None with too few compounds.
        held_out: similarities of held-out compounds, at most `MAX_HELD_OUT`, ascending; empty where they are not known.
        compounds: the same compounds with structures and measured values; None in a file of an earlier version.
    """

    packed: NDArray[np.uint8]
    width: int
    usual: tuple[float, float, float] | None = None
    held_out: NDArray[np.float64] = field(default_factory=_nothing)
    compounds: OwnCompounds | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Neighbours:
        """Neighbours from the training fold. Held-out compounds, whose scaffolds differ, define what is usual."""
        packed = _packed(dataset.inputs, dataset.train)
        own = cls(packed, dataset.inputs.width, compounds=OwnCompounds.of(dataset))
        held_out = np.union1d(dataset.valid, dataset.calibration)
        if len(held_out) < MIN_USUAL or not len(own):
            return own
        similarity = np.sort(own.nearest(dataset.inputs.bits(held_out)))
        outside, edge = np.quantile(similarity, [OUTSIDE, EDGE])
        evenly = np.linspace(0, len(similarity) - 1, min(len(similarity), MAX_HELD_OUT)).round().astype(np.int64)
        usual = FOREIGN * float(similarity[0]), float(outside), float(edge)
        return replace(own, usual=usual, held_out=similarity[evenly])

    @classmethod
    def of_bits(cls, bits: NDArray[np.bool_], usual: tuple[float, float, float] | None = None) -> Neighbours:
        """Neighbours with fingerprints bool[n, width]."""
        return cls(np.packbits(bits, axis=1), bits.shape[1], usual)

    def __len__(self) -> int:
        return len(self.packed)

    def nearest(self, queries: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Tanimoto similarity to the nearest training compound, float64[len(queries)]; 0 without any.

        Works in blocks of both sides: about 80 MB beside the queries, for any number of compounds.
        """
        found = np.zeros(len(queries))
        asked = max(1, QUERY_VALUES // self.width)
        for _, own in self._blocks():
            for start in range(0, len(queries), asked):
                nearest = _tanimoto(queries[start : start + asked], own).max(axis=1)
                found[start : start + asked] = np.maximum(found[start : start + asked], nearest)
        return found

    def similarities(self, query: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Tanimoto similarity of one compound, bool[width], to every training compound, float64[n]."""
        found = np.zeros(len(self))
        for start, own in self._blocks():
            found[start : start + len(own)] = _tanimoto(query[None, :], own)[0]
        return found

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[some rows, width]) of all training compounds."""
        rows = max(1, KNOWN_VALUES // self.width)
        for start in range(0, len(self), rows):
            yield start, np.unpackbits(self.packed[start : start + rows], axis=1, count=self.width).astype(np.float32)

    def foreign(self, queries: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which queries are clearly less like the training compounds than any validation compound was, bool[n].

        None of them if what is usual is not known.
        """
        return self.are_foreign(self.nearest(queries))

    def unusual(self, queries: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which queries are less like the training compounds than three in four validation compounds were, bool[n].

        None of them if what is usual is not known.
        """
        return self.are_unusual(self.nearest(queries))

    def are_unusual(self, similarity: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The same for similarities to the nearest training compound, float64[n]."""
        return similarity < (self.usual[2] if self.usual is not None else 0.0)

    def are_foreign(self, similarity: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The same for similarities to the nearest training compound, float64[n]."""
        return similarity < (self.usual[0] if self.usual is not None else 0.0)

    def applicability(self, similarity: float) -> str:
        """`inside`, `edge` or `outside` of what the model was validated on; empty if that is not known."""
        if self.usual is None:
            return ""
        return "outside" if similarity < self.usual[1] else "edge" if similarity < self.usual[2] else "inside"

    def write(self, folder: Path) -> None:
        """Raises:
        ConfigError: not writable.
        """
        usual = list(self.usual) if self.usual else []
        tensors: dict[str, NDArray[Any]] = {
            "packed": self.packed,
            "usual": np.array(usual, np.float64),
            "held_out": self.held_out,
            **({} if self.compounds is None else self.compounds.tensors()),
        }
        write_state(folder / FILE, tensors, {"width": self.width}, mode=0o600)


def _tanimoto(queries: NDArray[np.bool_], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n, m] for bool[n, width] and float32[m, width]."""
    block = queries.astype(np.float32)
    common = block @ own.T
    union = block.sum(axis=1)[:, None] + own.sum(axis=1)[None, :] - common
    similar: NDArray[np.float32] = common / np.maximum(union, 1)
    return similar


def _packed(inputs: Inputs, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8[len(rows), ceil(width / 8)]."""
    step = max(1, KNOWN_VALUES // inputs.width)
    blocks = [np.packbits(inputs.bits(rows[at : at + step]), axis=1) for at in range(0, len(rows), step)]
    return np.concatenate(blocks) if blocks else np.empty((0, -(-inputs.width // 8)), np.uint8)


def read_neighbours(folder: Path, width: int, endpoints: int) -> Neighbours | None:
    """The neighbours in a model directory; None if there are none, as in an exported one.

    Args:
        width: of the fingerprint.
        endpoints: how many assay endpoints the model has.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        packed, usual, held_out = tensors["packed"], tensors["usual"], tensors.get("held_out", _nothing())
        compounds = OwnCompounds.from_tensors(tensors, len(packed))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; remove it to predict without similarities") from None
    if (
        packed.dtype != np.uint8
        or packed.ndim != 2
        or packed.shape[1] != -(-width // 8)
        or usual.shape not in ((0,), (3,))
        or held_out.dtype != np.float64
        or held_out.ndim != 1
        or (compounds is not None and compounds.labels.shape[1] != endpoints)
    ):
        raise ConfigError(f"{path}: belongs to another model; remove it to predict without similarities")
    known = (float(usual[0]), float(usual[1]), float(usual[2])) if len(usual) else None
    return Neighbours(packed, width, known, held_out, compounds)
