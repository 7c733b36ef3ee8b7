"""Wide tables: from a file of a site to `Measurements`, with an account of every value.

Nothing is dropped in silence. A row or cell that cannot be used becomes a `Reject` with file, line, column, what was
found and why; replicates are merged by rule and counted; found = used + rejected + aggregated always.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kmel_p2p.chem.cache import StructureCache
from kmel_p2p.chem.cells import CellError, Reading, is_missing, read_class, read_number
from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.measurements import Measurements
from kmel_p2p.chem.policy import FeaturePolicy
from kmel_p2p.chem.rejects import Counts, Reject
from kmel_p2p.chem.replicates import merge_classification, merge_regression
from kmel_p2p.chem.source import WideSource
from kmel_p2p.chem.structures import Progress, describe_all, ignore_progress
from kmel_p2p.chem.table import StructureTable
from kmel_p2p.chem.units import Convert, converter
from kmel_p2p.core.errors import ConfigError, DataError

MAX_CELL = 200
"""Characters of a refused value that go into the reject file."""


def ingest_wide(
    source: WideSource,
    endpoints: Sequence[AssayEndpoint],
    policy: FeaturePolicy,
    *,
    cache: StructureCache | None = None,
    workers: int = 1,
    progress: Progress = ignore_progress,
    excluded: Collection[str] = (),
) -> Measurements:
    """Read a wide CSV file.

    Args:
        endpoints: the charter's; columns of the result are in this order.
        excluded: compound identities that must not be used here (those of the test file).

    Raises:
        ConfigError: the settings do not fit file or charter (a column or unit is missing, a name is unknown).
        DataError: the file is missing, empty, no text, or has no usable row.
    """
    plan = _plan(source, endpoints)
    rows = _Rows(source, plan)
    described = describe_all([row.smiles for row in rows.kept], policy, cache=cache, workers=workers, progress=progress)
    table = described.table
    groups: dict[str, list[_Row]] = {}
    representative: dict[str, int] = {}
    for row, at in zip(rows.kept, described.row_of, strict=True):
        reason = table.reasons[at]
        if not reason and table.identities[at] in excluded:
            reason = "the compound is in the test file too; it is used for scoring only"
        if reason:
            rows.reject_row(row, source.smiles_column, row.smiles, reason)
            continue
        groups.setdefault(table.identities[at], []).append(row)
        representative.setdefault(table.identities[at], int(at))
    return _merge(rows, endpoints, groups, table, representative)


@dataclass(frozen=True, slots=True)
class _ColumnPlan:
    """How to read one column."""

    place: int
    """Of the assay endpoint in the charter's order."""
    endpoint: AssayEndpoint
    column: str
    convert: Convert


@dataclass(slots=True)
class _Row:
    """One row whose cells could be read: labels by place of the assay endpoint."""

    line: int
    smiles: str
    readings: dict[int, tuple[float, int, str]] = field(default_factory=dict)
    """Place -> (label, relation, cell as written)."""


def _plan(source: WideSource, endpoints: Sequence[AssayEndpoint]) -> list[_ColumnPlan]:
    places = {endpoint.name: place for place, endpoint in enumerate(endpoints)}
    plan = []
    for name, column in source.columns.items():
        if name not in places:
            near = difflib.get_close_matches(name, places, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(places)}"
            raise ConfigError(f"data.columns.{name}: the charter has no such assay endpoint; {hint}")
        endpoint = endpoints[places[name]]
        where = f"{source.path}: column {column.column!r} ({name})"
        unit = column.unit if endpoint.kind == "regression" else ""
        convert = converter(unit, endpoint.unit if endpoint.kind == "regression" else "", where)
        plan.append(_ColumnPlan(places[name], endpoint, column.column, convert))
    return plan


class _Rows:
    """Reads the file; keeps what can be read, rejects the rest."""

    def __init__(self, source: WideSource, plan: list[_ColumnPlan]) -> None:
        self.rejects: list[Reject] = []
        self.counts = {column.place: Counts() for column in plan}
        self.unnamed = Counts()
        """Rows that hold no measurement at all, one each."""
        self.kept: list[_Row] = []
        self.rows_in = 0
        self._file = source.path.name
        self._source = source
        self._plan = plan
        for line, cells in self._records():
            self.rows_in += 1
            self._read(line, cells)
        if not self.rows_in:
            raise DataError(f"{source.path}: the file has a header but no row of data")

    def reject_row(self, row: _Row, column: str, value: str, reason: str) -> None:
        """Refuse everything a row holds."""
        for place in row.readings:
            self.counts[place].rejected += 1
        self._add(row.line, column, value, reason, len(row.readings))

    def reject_cell(self, row: _Row, place: int, reason: str) -> None:
        """Refuse one measurement of a row."""
        column = next(c.column for c in self._plan if c.place == place)
        self.counts[place].rejected += 1
        self._add(row.line, column, row.readings[place][2], reason, 1)

    def _add(self, line: int, column: str, value: str, reason: str, measurements: int) -> None:
        shown = value if len(value) <= MAX_CELL else value[:MAX_CELL] + "..."
        self.rejects.append(Reject(self._file, line, column, shown, reason, measurements))

    def _read(self, line: int, cells: list[str] | str) -> None:
        if isinstance(cells, str):
            self._refuse_unnamed(line, "", cells)
            return
        row = _Row(line, cells[self._smiles_at].strip())
        found = 0
        for column, at in zip(self._plan, self._columns_at, strict=True):
            cell = cells[at]
            if is_missing(cell):
                continue
            found += 1
            counts = self.counts[column.place]
            counts.found += 1
            try:
                label, relation = _label(column, cell)
            except CellError as error:
                counts.rejected += 1
                self._add(line, column.column, cell, str(error), 1)
                continue
            row.readings[column.place] = (label, relation, cell)
        if not found:
            self._refuse_unnamed(line, ", ".join(c.column for c in self._plan), "no measurement in this row")
        elif row.readings:
            self.kept.append(row)

    def _refuse_unnamed(self, line: int, column: str, reason: str) -> None:
        self.unnamed.found += 1
        self.unnamed.rejected += 1
        self._add(line, column, "", reason, 1)

    def _records(self) -> Iterator[tuple[int, list[str] | str]]:
        """(line where the record starts, its cells, or why it has none that can be told apart)."""
        header: list[str] | None = None
        for line, cells in read_records(self._source.path):
            if header is None:
                header = [name.strip() for name in cells]
                self._smiles_at = self._find(header, self._source.smiles_column, "data.smiles_column")
                self._columns_at = [
                    self._find(header, c.column, f"data.columns.{c.endpoint.name}.column") for c in self._plan
                ]
                continue
            if len(cells) != len(header):
                yield line, f"{len(cells)} cells where the header has {len(header)}"
            else:
                yield line, cells
        if header is None:
            raise DataError(f"{self._source.path}: the file is empty")

    def _find(self, header: list[str], name: str, key: str) -> int:
        if header.count(name) == 1:
            return header.index(name)
        if name in header:
            raise ConfigError(f"{self._source.path}: column {name!r} ({key}) occurs {header.count(name)} times")
        near = difflib.get_close_matches(name, header, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the file has: {', '.join(header)[:500]}"
        raise ConfigError(f"{self._source.path}: no column {name!r} ({key}); {hint}")


def read_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record of a CSV file that is not blank; the header is the first.

    Raises:
        DataError: names the file and, where known, the line.
    """
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (data.path)") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} near line {line}); export it as UTF-8 CSV") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {line} cannot be read as CSV: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _label(column: _ColumnPlan, cell: str) -> tuple[float, int]:
    """Label and relation of a cell.

    Raises:
        CellError: with the reason.
    """
    endpoint = column.endpoint
    if endpoint.kind == "classification":
        return read_class(cell).value, 0
    reading: Reading = read_number(cell)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        native = column.convert(np.array([reading.value]))
    reason = endpoint.refusal(float(native[0]))
    if reason:
        raise CellError(reason)
    return float(endpoint.label(native)[0]), reading.relation


def _merge(
    rows: _Rows,
    endpoints: Sequence[AssayEndpoint],
    groups: dict[str, list[_Row]],
    table: StructureTable,
    representative: dict[str, int],
) -> Measurements:
    """One row per compound; replicates become one measurement."""
    shape = (len(groups), len(endpoints))
    labels = np.full(shape, np.nan, np.float32)
    relations, replicates = np.zeros(shape, np.int8), np.zeros(shape, np.int32)
    spread = np.zeros(shape, np.float32)
    for at, members in enumerate(groups.values()):
        for place in sorted({place for row in members for place in row.readings}):
            holders = [row for row in members if place in row.readings]
            values = [row.readings[place][0] for row in holders]
            if endpoints[place].kind == "classification":
                merged = merge_classification(values)
            else:
                merged = merge_regression(values, [row.readings[place][1] for row in holders])
            if merged is None:
                lines = ", ".join(str(row.line) for row in holders)
                for row in holders:
                    rows.reject_cell(row, place, f"replicates of one compound contradict each other (lines {lines})")
                continue
            labels[at, place], relations[at, place], spread[at, place] = merged.label, merged.relation, merged.spread
            replicates[at, place] = len(holders)
            rows.counts[place].used += 1
            rows.counts[place].aggregated += len(holders) - 1
    usable = np.flatnonzero(np.isfinite(labels).any(axis=1))
    shown = np.fromiter(representative.values(), np.int64, len(groups))
    counts = tuple(rows.counts.get(place, Counts()) for place in range(len(endpoints)))
    total = sum(counts, rows.unnamed)
    total.require_balance()
    return Measurements(
        endpoints=tuple(endpoints),
        structures=table.take(shown[usable]),
        labels=labels[usable],
        relations=relations[usable],
        replicates=replicates[usable],
        spread=spread[usable],
        rows_in=rows.rows_in,
        counts=counts,
        total=total,
        rejects=tuple(rows.rejects),
    )
