"""Wide tables and SDF files: one record per compound, one column or property per assay endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.cells import is_missing
from kmel_p2p.chem.read.records import (
    UNMAPPED,
    Mapped,
    RawCell,
    RawRecord,
    find_column,
    find_marks,
    related_cell,
    same_text,
)
from kmel_p2p.chem.read.sdf import SdfRecord, sdf_records
from kmel_p2p.chem.read.table_file import table_rows, text_file

STRUCTURE_PROPERTY = "structure"
"""What the structure of an SDF record is called in `rejects.csv`."""


def read_wide(source: Source, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of a CSV or Parquet table or of a sheet.

    Raises:
        ConfigError: a column is missing. DataError: the file cannot be read.
    """
    header, rows = table_rows(source.path, source)
    smiles_at = find_column(header, source.smiles_column, "data.smiles_column", source.path, source)
    for rule in mapped:
        for name, key in _named(rule):
            find_column(header, name, key, source.path, source)
    project_at, date_at = find_marks(header, source)
    for line, cells in rows:
        if len(cells) != len(header):
            yield RawRecord(line, fault=f"{len(cells)} cells where the header has {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        found = _cells(row, mapped)
        if not found:
            yield _unmapped(line, row, mapped)
            continue
        project, date = (cells[at] if at is not None else "" for at in (project_at, date_at))
        yield RawRecord(line, cells[smiles_at].strip(), source.smiles_column, found, project, date=date)


def _named(rule: Mapped) -> Iterator[tuple[str, str]]:
    """(column or property, setting that names it) of everything an assay endpoint needs."""
    key, column = f"data.columns.{rule.endpoint.name}", rule.column
    yield column.column, f"{key}.column"
    for name, setting in ((column.relation_column, "relation_column"), (column.unit_column, "unit_column")):
        if name:
            yield name, f"{key}.{setting}"
    for name in column.match:
        yield name, f"{key}.match"


def _cells(row: Mapping[str, str], mapped: Sequence[Mapped]) -> tuple[RawCell, ...]:
    """The measurements of a row; assay endpoints that it does not `match` have none there."""
    return tuple(_cell(row, rule) for rule in mapped if _is_meant(row, rule))


def _unmapped(line: int, row: Mapping[str, str], mapped: Sequence[Mapped]) -> RawRecord:
    """A row that no assay endpoint's `match` fits, with what the columns in question hold."""
    names = list(dict.fromkeys(name for rule in mapped for name in rule.column.match))
    shown = ", ".join(f"{name}={row.get(name, '')}" for name in names)
    return RawRecord(line, fault=UNMAPPED, fault_column=", ".join(names), fault_value=shown)


def _is_meant(row: Mapping[str, str], rule: Mapped) -> bool:
    return all(same_text(row.get(name, "")) == same_text(value) for name, value in rule.column.match.items())


def _cell(row: Mapping[str, str], rule: Mapped) -> RawCell:
    column = rule.column
    text, unit = row.get(column.column, ""), column.unit
    if is_missing(text, rule.missing):
        return RawCell(rule.place, column.column, text, unit)
    if column.unit_column:
        unit = row.get(column.unit_column, "").strip() or unit
    if not column.relation_column:
        return RawCell(rule.place, column.column, text, unit)
    relation = row.get(column.relation_column, "")
    return related_cell(rule, column.column, text.strip(), column.relation_column, relation, unit)


def read_sdf(source: Source, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of an SDF file; a property that no record has is an error, one that some lack is not measured there.

    Raises:
        ConfigError, DataError: as `read_wide`.
    """
    missing = {name: key for rule in mapped for name, key in _named(rule)}
    if source.embargo.project_column:
        missing[source.embargo.project_column] = "data.embargo.project_column"
    if source.time.column:
        missing[source.time.column] = "data.time.column"
    seen: set[str] = set()
    with text_file(source.path, source.encoding) as lines:
        for record in sdf_records(lines):
            seen.update(record.properties)
            yield _sdf_record(record, source, mapped)
    for name, key in missing.items():
        if not seen:
            raise DataError(f"{source.path}: no record with a structure and properties; is it an SDF file?")
        if name not in seen:
            raise ConfigError(
                f"{source.path}: no record has a property {name!r} ({key}); there are: {', '.join(sorted(seen))[:500]}"
            )


def _sdf_record(record: SdfRecord, source: Source, mapped: Sequence[Mapped]) -> RawRecord:
    properties = record.properties
    if record.reason:
        lost = _cells(properties, mapped)
        return RawRecord(record.line, cells=lost, fault=record.reason, fault_column=STRUCTURE_PROPERTY,
                         fault_value=record.title)  # fmt: skip
    found = _cells(properties, mapped)
    if not found:
        return _unmapped(record.line, properties, mapped)
    project, date = (properties.get(name, "") for name in (source.embargo.project_column, source.time.column))
    return RawRecord(record.line, record.smiles, STRUCTURE_PROPERTY, found, project, date=date)
