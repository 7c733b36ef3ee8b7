"""A site's training compounds with what was measured: shown beside predictions at this site, and nowhere else.

They lie in the file of the neighbours (`neighbours.FILE`), row by row beside the fingerprints, which export leaves out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.train.dataset import Dataset

RELATIONS = {-1: "<", 0: "", 1: ">"}
"""How a bound is written before its value."""

NAMES = ("smiles", "smiles_ends", "labels", "relations")
"""Tensors of `OwnCompounds.tensors`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a site knows of a compound and an assay endpoint.

    Attributes:
        value: native, aggregated over replicates; 0 or 1 for classes.
        relation: `<` or `>` where the value is a bound, else empty.
    """

    value: float
    relation: str = ""


@dataclass(frozen=True, slots=True)
class OwnCompounds:
    """n training compounds and E assay endpoints.

    Attributes:
        smiles: standardised structures.
        labels: float32[n, E], NaN where nothing was measured.
        relations: int8[n, E]; -1: the true value is below the label, 1: above.
    """

    smiles: Sequence[str]
    labels: NDArray[np.float32]
    relations: NDArray[np.int8]

    @classmethod
    def of(cls, dataset: Dataset) -> OwnCompounds | None:
        """Those of the training fold; None where the dataset has no structures."""
        if not dataset.smiles:
            return None
        rows = dataset.train
        return cls([dataset.smiles[row] for row in rows], dataset.labels[rows], dataset.relations[rows])

    def __len__(self) -> int:
        return len(self.smiles)

    def measured(self, row: int, place: int, endpoint: AssayEndpoint) -> Measured | None:
        """Of a compound, for the assay endpoint at `place`; None where nothing was measured."""
        label = float(self.labels[row, place])
        if not np.isfinite(label):
            return None
        native = float(endpoint.native(np.array([label]))[0])
        return Measured(native, RELATIONS.get(int(self.relations[row, place]), ""))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays: the structures as one UTF-8 text, and where each ends in it."""
        texts = [text.encode() for text in self.smiles]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        whole = np.frombuffer(b"".join(texts), np.uint8)
        return dict(zip(NAMES, (whole, ends, self.labels, self.relations), strict=True))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], count: int) -> OwnCompounds | None:
        """What `tensors` gave; None if there is nothing of it, as in a file of an earlier version.

        Args:
            count: compounds that the file has fingerprints of.

        Raises:
            ValueError: they are damaged.
        """
        if "labels" not in tensors:
            return None
        whole, ends, labels, relations = (tensors[name] for name in NAMES)
        types = (np.uint8, np.int64, np.float32, np.int8)
        typed = all(tensor.dtype == kind for tensor, kind in zip((whole, ends, labels, relations), types, strict=True))
        shaped = whole.ndim == 1 and ends.shape == (count,) and labels.ndim == 2 and relations.shape == labels.shape
        fit = typed and shaped and len(labels) == count
        edges = np.concatenate([[0], ends])
        if not fit or (np.diff(edges) < 0).any() or edges[-1] != len(whole):
            raise ValueError("its compounds and measurements do not fit its fingerprints")
        text = whole.tobytes()
        smiles = [text[start:stop].decode() for start, stop in itertools.pairwise(edges)]
        return cls(smiles, labels, relations)
