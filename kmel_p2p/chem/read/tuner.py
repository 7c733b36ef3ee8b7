"""Tables of MELLODDY-TUNER: T1 (measurements), T2 (structures) and T0 (assays, with thresholds that make classes)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.cells import CellError, is_missing, read_class, read_number
from kmel_p2p.chem.read.records import UNMAPPED, Mapped, RawCell, RawRecord, find_column, find_marks, related_cell
from kmel_p2p.chem.read.table_file import table_rows


def read_tuner(source: Source, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of T1 with structures of T2.

    Raises:
        ConfigError: a column is missing. DataError: a file cannot be read, or T2 gives a compound two structures.
    """
    assert source.structures is not None  # the settings' own check
    structures = {
        key: row[0] for key, row in _table(source.structures, source, "input_compound_id", ("smiles",)).items()
    }
    known = set(_table(source.assays, source, "input_assay_id", ())) if source.assays else None
    rules: dict[str, list[Mapped]] = {}
    for rule in mapped:
        rules.setdefault(rule.column.column, []).append(rule)
    header, rows = table_rows(source.path, source)
    at = _TunerColumns.of(header, source.path)
    project_at, date_at = find_marks(header, source)
    for line, cells in rows:
        if len(cells) != len(header):
            yield RawRecord(line, fault=f"{len(cells)} cells where the header has {len(header)}")
            continue
        assay, compound = cells[at.assay].strip(), cells[at.compound].strip()
        fault, column = "", "input_assay_id"
        if known is not None and assay not in known:
            fault = f"the assay is not in {source.assays.name if source.assays else ''}"
        elif assay not in rules:
            fault = UNMAPPED
        elif compound not in structures:
            fault, column = f"the compound is not in {source.structures.name}", "input_compound_id"
        if fault:
            yield RawRecord(line, fault=fault, fault_column=column, fault_value=cells[header.index(column)])
            continue
        yield RawRecord(
            line,
            structures[compound],
            "smiles",
            tuple(_tuner_cell(rule, cells[at.qualifier], cells[at.value].strip()) for rule in rules[assay]),
            cells[project_at] if project_at is not None else "",
            date=cells[date_at] if date_at is not None else "",
        )


def _tuner_cell(rule: Mapped, qualifier: str, value: str) -> RawCell:
    if is_missing(value, rule.missing):
        return RawCell(rule.place, "standard_value", value, rule.column.unit, "no value in this row")
    return related_cell(rule, "standard_value", value, "standard_qualifier", qualifier, rule.column.unit)


@dataclass(frozen=True, slots=True)
class _TunerColumns:
    """Places of T1's columns."""

    assay: int
    compound: int
    qualifier: int
    value: int

    @classmethod
    def of(cls, header: list[str], path: Path) -> _TunerColumns:
        names = ("input_assay_id", "input_compound_id", "standard_qualifier", "standard_value")
        return cls(*(find_column(header, name, "MELLODDY-TUNER T1", path) for name in names))


def _table(path: Path, source: Source, key: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Content of some columns by key."""
    header, rows = table_rows(path, source)
    key_at = find_column(header, key, "MELLODDY-TUNER", path)
    places = [find_column(header, name, "MELLODDY-TUNER", path) for name in columns]
    found: dict[str, list[str]] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}: line {line} has {len(cells)} cells where the header has {len(header)}")
        name, content = cells[key_at].strip(), [cells[at].strip() for at in places]
        if found.setdefault(name, content) != content:
            raise DataError(f"{path}: line {line} names {key} {name!r} a second time, with other content")
    return found


THRESHOLDS = tuple(f"expert_threshold_{number}" for number in range(1, 6))


def with_expert_thresholds(source: Source, mapped: Sequence[Mapped]) -> tuple[Mapped, ...]:
    """The mapping, completed from T0: a class without a threshold of its own takes T0's.

    `Column.expert_threshold` says which of the five; `direction` says which side is class 1 (`low`: below; `high` or
    empty: above, as TUNER takes it). Assays that T0 calls binary hold classes already.

    Raises:
        ConfigError: T0 has no such threshold, or what it holds is no number or direction; names file, assay and column.
    """
    if source.assays is None:
        return tuple(mapped)
    header, rows = table_rows(source.assays, source)
    if "input_assay_id" not in header:
        raise ConfigError(f"{source.assays}: no column 'input_assay_id'; is it MELLODDY-TUNER's T0?")
    assays = {}
    for _, cells in rows:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        assays[row["input_assay_id"]] = row
    return tuple(
        _completed(rule, assays.get(rule.column.column), str(source.assays), source.decimal) for rule in mapped
    )


def _completed(rule: Mapped, assay: dict[str, str] | None, file: str, decimal: str) -> Mapped:
    column = rule.column
    if rule.endpoint.kind != "classification" or column.threshold is not None or assay is None:
        return rule
    where = f"{file}: assay {column.column!r}"
    try:
        if not is_missing(binary := assay.get("is_binary", "")) and read_class(binary).value:
            return rule
    except CellError as error:
        raise ConfigError(f"{where}: is_binary is {binary!r}: {error}") from None
    name = THRESHOLDS[column.expert_threshold - 1]
    text = assay.get(name, "")
    if is_missing(text):
        raise ConfigError(
            f"{where}: {name} is empty; set data.columns.{rule.endpoint.name}.threshold, or expert_threshold to one "
            "that T0 gives"
        )
    direction = assay.get("direction", "").lower()
    if direction not in ("", "high", "low"):
        raise ConfigError(f"{where}: direction is {direction!r}; it must be high, low or empty")
    try:
        threshold = read_number(text, decimal).value
    except CellError as error:
        raise ConfigError(f"{where}: {name} is {text!r}: {error}") from None
    classes = column.model_copy(update={"threshold": threshold, "positive": "below" if direction == "low" else "above"})
    return dataclasses.replace(rule, column=classes)
