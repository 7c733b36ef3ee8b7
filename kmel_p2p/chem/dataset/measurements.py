"""The measurements of a site, ready for training, and the account of every value that was found."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.shown import cell
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.files import write_whole


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """One refused row (or one cell of it).

    Attributes:
        file: name of the input file.
        row: line of the file where the row starts; the header is line 1.
        column: the column at fault.
        value: what was found there.
        reason: why it cannot be used.
        measurements: how many values of the row are lost.
    """

    file: str
    row: int
    column: str
    value: str
    reason: str
    measurements: int = 1


@dataclass(slots=True)
class Counts:
    """Where every measurement went: found = used + rejected + aggregated.

    A measurement is a non-empty cell of an assay endpoint's column; a row without any counts as one, so that it
    cannot disappear. `aggregated` ones are replicates that were merged into another measurement of the same compound.
    """

    found: int = 0
    used: int = 0
    rejected: int = 0
    aggregated: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.found + other.found,
            self.used + other.used,
            self.rejected + other.rejected,
            self.aggregated + other.aggregated,
        )

    def require_balance(self) -> None:
        """Raises:
        Bug: a measurement got lost or was counted twice.
        """
        if self.found != self.used + self.rejected + self.aggregated:
            raise Bug(f"measurements do not add up: {self}")


def write_rejects(path: Path, rejects: Iterable[RejectedRow]) -> None:
    """Replace the file `path` (rejects.csv) by this list, in order of file, row and column.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "row", "column", "value", "reason", "measurements"])
    for row in sorted(rejects, key=lambda reject: (reject.file, reject.row, reject.column)):
        writer.writerow(map(cell, (row.file, row.row, row.column, row.value, row.reason, row.measurements)))
    write_whole(path, text.getvalue().encode(), mode=0o600)


@dataclass(slots=True)
class ChangedRows:
    """Rows whose structures standardising changed in one way.

    Attributes:
        rows: how many.
        examples: the first ones: (line of the file, SMILES as written, standardised SMILES, what was removed).
    """

    rows: int = 0
    examples: list[tuple[int, str, str, str]] = field(default_factory=list)

    def add(self, line: int, written: str, standardised: str, detail: str) -> None:
        """Count a row, and keep it if it is among the first."""
        self.rows += 1
        if len(self.examples) < SHOWN_CHANGES:
            self.examples.append((line, written, standardised, detail))


SHOWN_CHANGES = 3
"""Examples kept of each kind of change."""


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
        changes: kind of change (`structures.parent.Kind`) -> the used rows that it was made to.
        embargo_withheld: entry of the embargo lists, in words -> rows that it withheld.
        added: how many of the assay endpoints, up to the last, came with later campaigns.
        dates: the first and the last one of rows that could be read; None where there are none.
        embargo_unmatched: what the embargo lists name but no row holds; a misspelt name withholds nothing.
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
    rejects: tuple[RejectedRow, ...]
    readings: tuple[Readings, ...]
    changes: Mapping[str, ChangedRows] = field(default_factory=dict)
    embargo_withheld: Mapping[str, int] = field(default_factory=dict)
    embargo_unmatched: tuple[str, ...] = ()
    dates: tuple[datetime.date, datetime.date] | None = None
    added: int = 0

    def __len__(self) -> int:
        return len(self.structures)

    def folds(self, split: SplitRule) -> NDArray[np.int8]:
        """Fold of every compound, int8[n]: by its series; those that are new by date are for testing, too.

        Dates only ever move a compound out of training, so what the charter's key holds out stays held out everywhere.
        """
        folds = split.folds(self.structures.series)
        folds[self.late] = Fold.TEST
        return folds

    def dataset_hash(self) -> str:
        """BLAKE2b-256 (hex) of structures, labels, relations and what dates hold out, in any order of rows.

        An assay endpoint that came with a later campaign and is not measured here does not change it: what was approved
        before it came is approved still.
        """
        order = sorted(range(len(self)), key=lambda row: self.structures.identities[row])
        state = hashlib.blake2b(digest_size=32, person=b"kmel dataset 1")
        for row in order:
            state.update(f"{self.structures.identities[row]} {self.structures.smiles[row]}\n".encode())
        if self.late.any():
            state.update(self.late[order].tobytes())
        founding = len(self.endpoints) - self.added
        measured = [place for place in range(founding, len(self.endpoints)) if np.isfinite(self.labels[:, place]).any()]
        for place in measured:
            state.update(f"{self.endpoints[place].name}\n".encode())
        kept = np.ix_(order, [*range(founding), *measured])
        state.update(self.labels[kept].astype("<f4").tobytes() + self.relations[kept].tobytes())
        return state.hexdigest()
