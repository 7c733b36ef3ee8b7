"""What was not used, why, and the proof that nothing got lost on the way."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.files import write_whole


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused row (or one cell of it).

    Attributes:
        file: name of the input file.
        row: line of the file where the row starts; the header is line 1.
        column: the column at fault.
        value: what was found there.
        reason: why it cannot be used.
        measurements: how many values of the row are lost by it.
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
    cannot vanish. `aggregated` ones are replicates that were merged into another measurement of the same compound.
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


@dataclass(slots=True)
class Rejects:
    """Collects refused rows and writes `rejects.csv`."""

    rows: list[Reject] = field(default_factory=list)

    def add(self, reject: Reject) -> None:
        self.rows.append(reject)

    @property
    def measurements(self) -> int:
        """Values lost by all of them."""
        return sum(row.measurements for row in self.rows)

    def summary(self, limit: int = 5) -> list[tuple[str, int]]:
        """The most frequent columns at fault and how many rows each cost, for the screen."""
        return Counter(row.column for row in self.rows).most_common(limit)

    def write(self, path: Path) -> None:
        """Replace `path` by the list.

        Raises:
            ConfigError: the disk is full or not writable.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["file", "row", "column", "value", "reason", "measurements"])
        writer.writerows(self._cells())
        write_whole(path, text.getvalue().encode(), mode=0o600)

    def _cells(self) -> Iterable[tuple[str, int, str, str, str, int]]:
        for row in sorted(self.rows, key=lambda reject: (reject.file, reject.row, reject.column)):
            yield row.file, row.row, row.column, row.value, row.reason, row.measurements
