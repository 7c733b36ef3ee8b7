"""The measurements of a site, ready for training: one row per compound, one column per assay endpoint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.dataset.rejects import Counts, Reject
from kmel_p2p.chem.structures.table import StructureTable


@dataclass(frozen=True, slots=True)
class Measurements:
    """n compounds by E assay endpoints.

    Attributes:
        endpoints: the E assay endpoints, in charter order.
        structures: n standardised structures with features.
        labels: float32[n, E]; NaN where nothing was measured.
        relations: int8[n, E]; -1 where the true value is below the label, 1 above, 0 equal.
        replicates: int32[n, E]; measurements merged into the label.
        spread: float32[n, E]; standard deviation of the replicates, in labels.
        late: bool[n]; new by the date column (`source.TimeSection`), all False without one.
        rows_in: rows of the input.
        counts: per assay endpoint, in order; the sum also holds rows that named none.
        total: all counts together.
        rejects: refused rows.
        readings: per assay endpoint, what its cells held before merging.
        embargo_unmatched: what the embargo lists name and no row held; a name misspelt keeps nothing back.
    """

    endpoints: tuple[AssayEndpoint, ...]
    structures: StructureTable
    labels: NDArray[np.float32]
    relations: NDArray[np.int8]
    replicates: NDArray[np.int32]
    spread: NDArray[np.float32]
    late: NDArray[np.bool_]
    rows_in: int
    counts: tuple[Counts, ...]
    total: Counts
    rejects: tuple[Reject, ...]
    readings: tuple[Readings, ...]
    embargo_unmatched: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.structures)

    def folds(self, split: SplitRule) -> NDArray[np.int8]:
        """Fold of every compound, int8[n]: by its series; those that are new by their date are for testing too.

        Dates only ever move a compound out of training, so what the charter's key holds out stays held out everywhere.
        """
        folds = split.folds(self.structures.series)
        folds[self.late] = Fold.TEST
        return folds

    def dataset_hash(self) -> str:
        """BLAKE2b-256 (hex) of structures, labels, relations and what dates hold out, in an order of their own."""
        order = sorted(range(len(self)), key=lambda row: self.structures.identities[row])
        state = hashlib.blake2b(digest_size=32, person=b"kmel dataset 1")
        for row in order:
            state.update(f"{self.structures.identities[row]} {self.structures.smiles[row]}\n".encode())
        if self.late.any():
            state.update(self.late[order].tobytes())
        state.update(self.labels[order].astype("<f4").tobytes() + self.relations[order].tobytes())
        return state.hexdigest()
