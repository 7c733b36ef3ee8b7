"""Long tables, one measurement per row: the K-MELLODDY standard format v4.6 (github.com/HITS-AI/k-melloddy).

 Names are compared whole, never by substring (`CYP1A2` is not in `CYP2A12`),
but without case and with blanks and underscores alike, because tables in circulation use both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.read.cells import CellError, read_relation
from kmel_p2p.chem.read.records import (
    UNMAPPED,
    Mapped,
    RawCell,
    RawRecord,
    find_column,
    find_marks,
    joined_cell,
    same_text,
)
from kmel_p2p.chem.read.table_file import table_rows

VALUE_COLUMN = "Measurement_Value"
DESCRIBING = ("Test", "Test_Type", "Test_Subject", "Measurement_Type", "Measurement_Condition")
"""Columns that say what was measured; shown for rows that no assay endpoint is mapped to."""

_LIST = re.compile(r"^\[\s*([^,\]]+?)\s*,\s*([^,\]]+?)\s*\]$")


def read_kmelloddy(source: Source, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of a K-MELLODDY table; a row that no assay endpoint is mapped to is a record with a fault.

    Raises:
        ConfigError: a column is missing, or two assay endpoints claim one row. DataError: the file cannot be read.
    """
    written, rows = table_rows(source.path, source)
    header = [_canonical(name) for name in written]
    table = _LongTable(source, header, mapped)
    for line, cells in rows:
        if len(cells) != len(header):
            yield RawRecord(line, fault=f"{len(cells)} cells where the header has {len(header)}")
        else:
            yield table.record(line, [cell.strip() for cell in cells])


class _LongTable:
    """Where the columns of one file are."""

    def __init__(self, source: Source, header: Sequence[str], mapped: Sequence[Mapped]) -> None:
        self._path = source.path
        self._header = header
        self._rules = []
        for rule in mapped:
            key = f"data.columns.{rule.endpoint.name}"
            wanted = [
                (find_column(header, _canonical(name), f"{key}.match", source.path), same_text(value))
                for name, value in rule.column.match.items()
            ]
            value_at = find_column(header, _canonical(rule.column.column or VALUE_COLUMN), f"{key}.column", source.path)
            self._rules.append((rule, wanted, value_at))
        self._smiles = [header.index(n) for n in ("SMILES_Structure_Parent", "SMILES_Salt") if n in header]
        if not self._smiles:
            raise ConfigError(f"{source.path}: no column 'SMILES_Structure_Parent'; is it a K-MELLODDY table?")
        self._project, self._date = find_marks(header, source)
        self._relation, self._unit = self._optional("Measurement_Relation"), self._optional("Measurement_Unit")

    def record(self, line: int, cells: list[str]) -> RawRecord:
        matches = [
            (rule, value_at)
            for rule, wanted, value_at in self._rules
            if all(same_text(cells[at]) == value for at, value in wanted)
        ]
        if not matches:
            shown = ", ".join(f"{n}={cells[self._header.index(n)]}" for n in DESCRIBING if n in self._header)
            return RawRecord(line, fault=UNMAPPED, fault_column="Test",
                             fault_value=shown)  # fmt: skip
        found = tuple(self._cell(rule, value_at, cells) for rule, value_at in matches)
        at = next((at for at in self._smiles if cells[at]), self._smiles[0])
        project, date = (cells[at] if at is not None else "" for at in (self._project, self._date))
        return RawRecord(line, cells[at], self._header[at], found, project, date=date)

    def _cell(self, rule: Mapped, value_at: int, cells: list[str]) -> RawCell:
        name = self._header[value_at]
        value = cells[value_at]
        written = cells[self._relation] if self._relation is not None else ""
        unit = cells[self._unit] if self._unit is not None else ""
        is_class = rule.endpoint.kind == "classification"
        if is_class and rule.says_missing(value) and unit.lower() in ("positive", "negative"):
            value, unit = unit, ""
        try:
            relation = read_relation(written)
        except CellError as error:
            if not (is_class and rule.says_missing(value)):
                return RawCell(rule.place, "Measurement_Relation", written, unit, str(error))
            value, relation = written, ""
        if unit in ("", "-"):
            unit = rule.column.unit
        value, fault = _part(value, rule)
        if rule.says_missing(value):
            return RawCell(rule.place, name, value, unit, "no value in this row")
        return joined_cell(rule, name, relation, value, unit, fault)

    def _optional(self, name: str) -> int | None:
        return self._header.index(name) if name in self._header else None


def _part(value: str, rule: Mapped) -> tuple[str, str]:
    """(value, fault) of a cell that may be a list [AtoB,BtoA]."""
    pair = _LIST.match(value)
    if pair is None:
        return value, ""
    if not rule.column.part:
        return value, f"a list of values; set data.columns.{rule.endpoint.name}.part to AtoB, BtoA or ratio"
    if rule.column.part != "ratio":
        return pair.group(1 if rule.column.part == "AtoB" else 2), ""
    try:
        ahead, back = float(pair.group(1)), float(pair.group(2))
    except ValueError:
        return value, "the parts of the list are not numbers"
    if not ahead > 0:
        return value, "no ratio: AtoB is not above 0"
    return repr(back / ahead), ""


def _canonical(name: str) -> str:
    """A header as v4.6 spells it; earlier versions wrote "Measurment_"."""
    return re.sub(r"^Measur[e]?ment[_ ]", "Measurement_", name.strip())
