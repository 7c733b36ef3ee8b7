"""Reads the structures to predict: CSV, SDF or a list of SMILES, from a file or standard input."""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmel_p2p.agreement.errors import DataError

SMILES_SUFFIXES = (".smi", ".smiles", ".ism")
SDF_SUFFIXES = (".sdf", ".sd")

SEPARATORS = (",", ";", "\t")
"""Of table columns: many spreadsheets write semicolons. None of them occurs in a SMILES."""

TITLE_NAMES = ("name", "title", "sdf_title")
"""Column for the title line of SDF records: the first of these names that no property has."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length under a header.

    Attributes:
        smiles_at: column of structures.
        refused: row -> why its structure could not be read, where the cell itself does not show it.
    """

    header: list[str]
    rows: list[list[str]]
    smiles_at: int
    refused: dict[int, str] = field(default_factory=dict)


def read_input(source: Path, smiles_column: str, kind: str | None) -> Table:
    """Read `source` (`-` for standard input).

    Args:
        kind: `csv`, `smi` or `sdf`; None to tell by the name, or by the content of standard input.

    Raises:
        DataError: missing, empty, not of that kind, or without that column; names file and remedy.
    """
    text = _text(source)
    kind = kind or _kind(source, text, smiles_column)
    if kind == "sdf":
        return _sdf(text, source)
    return _smiles(text) if kind == "smi" else _csv(text, source, smiles_column)


def _kind(source: Path, text: str, smiles_column: str) -> str:
    suffix = source.suffix.lower()
    if str(source) != "-":
        return "sdf" if suffix in SDF_SUFFIXES else "smi" if suffix in SMILES_SUFFIXES else "csv"
    if any(line.rstrip() in ("$$$$", "M  END") for line in text.splitlines()):
        return "sdf"
    return "csv" if _separator(text, smiles_column) else "smi"


def _text(source: Path) -> str:
    """As UTF-8, with or without a byte order mark, whatever the locale says; as UTF-16 with such a mark."""
    from kmel_p2p.chem.read.table_file import kind_of

    try:
        raw = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return raw.decode("utf-16")
        if kind := kind_of(raw[:8]):
            raise DataError(f"{source}: is {kind}")
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _places(header: Sequence[str], column: str) -> list[int]:
    """Where a header has this column: the exact name, or else ignoring case and surrounding blanks."""
    exact = [at for at, name in enumerate(header) if name == column]
    return exact or [at for at, name in enumerate(header) if name.strip().lower() == column.lower()]


def _separator(text: str, smiles_column: str) -> str:
    """What separates the columns of a table with such a column in its first line; empty if there is none."""
    first = text.split("\n", 1)[0].rstrip("\r")
    for separator in SEPARATORS:
        try:
            header = next(csv.reader([first], delimiter=separator), [])
        except csv.Error:
            continue
        if _places(header, smiles_column):
            return separator
    return ""


def _csv(text: str, source: Path, smiles_column: str) -> Table:
    separator = _separator(text, smiles_column) or ","
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{source}: not CSV: {error}") from None
    # Files may end with blank lines; one in between is a row without a structure, and keeps its place.
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise DataError(f"{source}: is empty; expected a header line with the column {smiles_column!r}")
    header = rows[0]
    places = _places(header, smiles_column)
    if len(places) > 1:
        raise DataError(f"{source}: has the column {smiles_column!r} {len(places)} times; rename all but one")
    if not places:
        raise DataError(
            f"{source}: has no column {smiles_column!r}; it has: {', '.join(header)}. Use --smiles-column to name it"
        )
    width = len(header)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > width:
            raise DataError(f"{source}: row {number} has {len(row)} fields, the header has {width}")
    return Table(header, [row + [""] * (width - len(row)) for row in rows[1:]], places[0])


def _smiles(text: str) -> Table:
    """One structure per line, then a blank and a name; an empty line in between is a row without a structure."""
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return Table(["smiles", "name"], [[*line.split(None, 1), "", ""][:2] for line in lines], 0)


def _sdf(text: str, source: Path) -> Table:
    from kmel_p2p.chem.read.wide_table import sdf_records

    records = list(sdf_records(io.StringIO(text)))
    if not records:
        raise DataError(f"{source}: is empty; expected SDF records that end with $$$$")
    names = list(dict.fromkeys(name for record in records for name in record.properties))
    titles = [next(name for name in TITLE_NAMES if name not in names)] if any(r.title for r in records) else []
    rows = [
        [r.smiles, *([r.title] if titles else []), *(r.properties.get(name, "") for name in names)] for r in records
    ]
    refused = {at: record.reason for at, record in enumerate(records) if record.reason}
    smiles = next(name for name in ("smiles", "sdf_smiles", "structure_smiles") if name not in (*titles, *names))
    return Table([smiles, *titles, *names], rows, 0, refused)
