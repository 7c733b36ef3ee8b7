"""From a site's file to `Measurements`, with an account of every value.

Nothing disappears silently. A row or cell that cannot be used becomes a `RejectedRow` with file, line, column, content
and reason. Replicates are merged by rule and counted. Always, found = used + rejected + aggregated.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kmel_p2p.agreement.columns import EXCEL_DAYS, EXCEL_DAYS_1904, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.embargo import Embargo, load_embargo
from kmel_p2p.chem.dataset.labels import CellReader, Readings
from kmel_p2p.chem.dataset.measurements import ChangedRows, Counts, Measurements, RejectedRow
from kmel_p2p.chem.read.cells import (
    ABOVE,
    BELOW,
    EQUAL,
    CellError,
    read_border,
    read_date,
)
from kmel_p2p.chem.read.kmelloddy import read_kmelloddy
from kmel_p2p.chem.read.records import Mapped, RawCell, RawRecord, map_columns
from kmel_p2p.chem.read.tuner import read_tuner, with_expert_thresholds
from kmel_p2p.chem.read.wide_table import read_sdf, read_wide
from kmel_p2p.chem.read.workbook import counts_from_1904, is_workbook
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import Described, Progress, describe_all, ignore_progress
from kmel_p2p.chem.structures.table import StructureTable


@dataclass(frozen=True, slots=True)
class Merged:
    """One measurement made of several.

    Attributes:
        label: merged value, in labels.
        relation: of the true value to `label`.
        spread: standard deviation of the uncensored ones, in labels; 0 for fewer than two.
    """

    label: float
    relation: int
    spread: float


def merge_regression(labels: Sequence[float], relations: Sequence[int]) -> Merged | None:
    """Median of the uncensored values; without any, the tightest bound.

    Bounds beside uncensored values are left out: the number says more. Two bounds that leave no or any room between
    them (">3" and "<2", or ">1" and "<5") make no single one-sided value.

    Returns:
        None when the bounds contradict each other or enclose a range.
    """
    values, kinds = np.asarray(labels, float), np.asarray(relations)
    exact = values[kinds == EQUAL]
    if exact.size:
        return Merged(float(np.median(exact)), EQUAL, float(exact.std(ddof=1)) if exact.size > 1 else 0.0)
    lower, upper = values[kinds == ABOVE], values[kinds == BELOW]
    if lower.size and upper.size:
        return None
    if lower.size:
        return Merged(float(lower.max()), ABOVE, 0.0)
    return Merged(float(upper.min()), BELOW, 0.0)


def merge_classification(labels: Sequence[float]) -> Merged | None:
    """The majority class.

    Returns:
        None when as many say one as the other.
    """
    share = float(np.mean(labels))
    if share == 0.5:
        return None
    return Merged(float(share > 0.5), EQUAL, 0.0)


IN_TEST_FILE = "the compound is in the test file too"
"""How the reason begins for which such a row is not trained on."""

MAX_CELL = 200
"""Characters of a refused value that go into the reject file."""


def ingest(
    source: Source,
    endpoints: Sequence[AssayEndpoint],
    policy: FeatureRule,
    *,
    cache: StructureCache | None = None,
    workers: int = 1,
    progress: Progress = ignore_progress,
    excluded: Collection[str] = (),
    added: int = 0,
) -> Measurements:
    """Read a file of measurements.

    Args:
        endpoints: the charter's and those of later campaigns; columns of the result are in this order.
        excluded: compound identities that must not be used here (those of the test file).
        added: how many of the assay endpoints, up to the last, came with later campaigns.

    Raises:
        ConfigError: the settings do not fit file or charter (a column or unit is missing, a name is unknown).
        DataError: the file is missing, empty or no text; or an embargo list cannot be understood.
    """
    embargo = load_embargo(source.embargo, policy)
    mapped = map_columns(source, endpoints)
    if source.format == "tuner":
        mapped = with_expert_thresholds(source, mapped)
    describe = functools.partial(describe_all, policy=policy, cache=cache, workers=workers, progress=progress)
    rows = _Rows(source, mapped, embargo, _cell_reader(source, mapped, policy, describe))
    described = describe([row.smiles for row in rows.kept])
    table = described.table
    groups: dict[str, list[_Row]] = {}
    representative: dict[str, int] = {}
    changes: dict[str, ChangedRows] = {}
    for row, at in zip(rows.kept, described.row_of, strict=True):
        reason = embargo.refusal(row.smiles, table.smiles[at], table.scaffolds[at]) or table.reasons[at]
        if not reason and table.identities[at] in excluded:
            reason = f"{IN_TEST_FILE}; it is used for scoring only"
        if reason:
            rows.reject_row(row, row.smiles_column, row.smiles, reason)
            continue
        details: dict[str, list[str]] = {}
        for change in filter(None, table.changes[at].split("; ")):
            kind, _, detail = change.partition(": ")
            details.setdefault(kind, []).append(detail)
        for kind, removed in details.items():
            changes.setdefault(kind, ChangedRows()).add(row.line, row.smiles, table.smiles[at], ", ".join(removed))
        groups.setdefault(table.identities[at], []).append(row)
        representative.setdefault(table.identities[at], int(at))
    return dataclasses.replace(
        _merge(rows, endpoints, groups, table, representative),
        changes=changes,
        added=added,
        embargo_withheld=dict(embargo.withheld),
        embargo_unmatched=embargo.unmatched(),
        dates=(min(dates), max(dates)) if (dates := [row.date for row in rows.kept if row.date]) else None,
    )


def check_settings(source: Source, endpoints: Sequence[AssayEndpoint], policy: FeatureRule) -> None:
    """Refuse what `ingest` refuses of the settings alone, such as a unit, without reading the file.

    Raises:
        ConfigError: they do not fit the assay endpoints.
    """
    mapped = map_columns(source, endpoints)
    if source.format != "tuner":  # whose file of thresholds says more
        _reader_of(source, mapped, policy)


def _reader_of(source: Source, mapped: Sequence[Mapped], policy: FeatureRule) -> CellReader:
    # Long tables name a unit per row, so a wrong one is that row's fault; elsewhere it is a setting's.
    return CellReader(mapped, str(source.path), source.format != "kmelloddy", policy, source.decimal)


def _cell_reader(
    source: Source, mapped: Sequence[Mapped], policy: FeatureRule, describe: Callable[[list[str]], Described]
) -> CellReader:
    """A reader that knows the masses it will need: from all cores and the cache, not one by one while it reads."""
    reader = _reader_of(source, mapped, policy)
    if reader.may_need_masses():
        by_place = {rule.place: rule for rule in mapped}
        weighed = {
            record.smiles: None
            for record in records(source, mapped)
            if any(
                not by_place[cell.place].says_missing(cell.text) and reader.needs_mass(cell) for cell in record.cells
            )
        }
        if weighed:
            reader.learn_masses(describe(list(weighed)).table)
    return reader


def records(source: Source, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Raw records of any kind of file."""
    return _READERS[source.format](source, mapped)


_READERS: Mapping[str, Callable[[Source, Sequence[Mapped]], Iterator[RawRecord]]] = {
    "wide": read_wide,
    "sdf": read_sdf,
    "kmelloddy": read_kmelloddy,
    "tuner": read_tuner,
}


@dataclass(slots=True)
class _Row:
    """One row whose cells could be read: labels by place of the assay endpoint."""

    line: int
    smiles: str
    smiles_column: str
    readings: dict[int, tuple[float, int, RawCell]] = field(default_factory=dict)
    """Place -> (label, relation, cell as written)."""
    date: datetime.date | None = None


class _Rows:
    """Reads the file; keeps what can be read, rejects the rest."""

    def __init__(self, source: Source, mapped: Sequence[Mapped], embargo: Embargo, reader: CellReader) -> None:
        self.rejects: list[RejectedRow] = []
        self.counts = {column.place: Counts() for column in mapped}
        self.unnamed = Counts()
        """Rows that hold no measurement of an assay endpoint, one each."""
        self.kept: list[_Row] = []
        self.rows_in = 0
        self._file = source.path.name
        self._mapped = {rule.place: rule for rule in mapped}
        self._embargo = embargo
        self._date_column, self._date_form = source.time.column, _date_form(source)
        self.test_from = read_border(source.time.test_from, "data.time.test_from") if source.time.column else None
        self.reader = reader
        for record in records(source, mapped):
            self.rows_in += 1
            self._read(record)
        if not self.rows_in:
            raise DataError(f"{source.path}: the file has a header but no row of data")

    def reject_row(self, row: _Row, column: str, value: str, reason: str) -> None:
        """Refuse everything a row holds."""
        for place in row.readings:
            self.counts[place].rejected += 1
        self._add(row.line, column, value, reason, len(row.readings))

    def reject_cell(self, row: _Row, place: int, reason: str) -> None:
        """Refuse one measurement of a row."""
        cell = row.readings[place][2]
        self.counts[place].rejected += 1
        self._add(row.line, cell.column, cell.text, reason, 1)

    def _add(self, line: int, column: str, value: str, reason: str, measurements: int) -> None:
        shown = value if len(value) <= MAX_CELL else value[:MAX_CELL] + "..."
        self.rejects.append(RejectedRow(self._file, line, column, shown, reason, measurements))

    def _read(self, record: RawRecord) -> None:
        if record.fault:
            self._refuse_record(record)
            return
        row = _Row(record.line, record.smiles, record.smiles_column)
        found = 0
        for cell in record.cells:
            if not cell.fault and self._is_missing(cell):
                continue
            found += 1
            self.counts[cell.place].found += 1
            try:
                label, relation = self.reader.read(cell, record.smiles)
            except CellError as error:
                self.counts[cell.place].rejected += 1
                self._add(record.line, cell.column, cell.text, str(error), 1)
                continue
            row.readings[cell.place] = (label, relation, cell)
        if not found:
            columns = ", ".join(cell.column for cell in record.cells)
            self._refuse_unnamed(record.line, columns, "", "no measurement in this row")
        elif row.readings:
            self._keep(row, record)

    def _refuse_record(self, record: RawRecord) -> None:
        """Nothing of it can be used; measurements that can be told count for their assay endpoint."""
        lost = [cell for cell in record.cells if not self._is_missing(cell)]
        for cell in lost:
            self.counts[cell.place].found += 1
            self.counts[cell.place].rejected += 1
        if lost:
            self._add(record.line, record.fault_column, record.fault_value, record.fault, len(lost))
        else:
            self._refuse_unnamed(record.line, record.fault_column, record.fault_value, record.fault)

    def _is_missing(self, cell: RawCell) -> bool:
        return self._mapped[cell.place].says_missing(cell.text)

    def _keep(self, row: _Row, record: RawRecord) -> None:
        """Keep a row unless its project or date is against it."""
        kept_back = self._embargo.project_refusal(record.project)
        if kept_back:
            self.reject_row(row, "project", record.project, kept_back)
            return
        try:
            row.date = read_date(record.date, self._date_form) if self.test_from else None
        except CellError as error:
            self.reject_row(row, self._date_column, record.date, str(error))
            return
        self.kept.append(row)

    def is_late(self, rows: Sequence[_Row]) -> bool:
        """Whether the first dated row of a compound is new; without any date it is not."""
        dates = [row.date for row in rows if row.date is not None]
        return self.test_from is not None and bool(dates) and min(dates) >= self.test_from

    def _refuse_unnamed(self, line: int, column: str, value: str, reason: str) -> None:
        self.unnamed.found += 1
        self.unnamed.rejected += 1
        self._add(line, column, value, reason, 1)


def _date_form(source: Source) -> str:
    """How dates are written; numbers of days in a workbook begin where the workbook says."""
    form = source.time.format
    in_workbook = form == EXCEL_DAYS and is_workbook(source.path)
    return EXCEL_DAYS_1904 if in_workbook and counts_from_1904(source.path) else form


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
    late = np.array([rows.is_late(members) for members in groups.values()], np.bool_)
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
        late=late[usable],
        rows_in=rows.rows_in,
        counts=counts,
        total=total,
        rejects=tuple(rows.rejects),
        readings=tuple(rows.reader.readings.get(place, Readings()) for place in range(len(endpoints))),
    )
