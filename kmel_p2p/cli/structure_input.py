"""Structures people want predictions for: CSV, SDF, or a list of SMILES, from a file or standard input."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.core.errors import DataError

SMILES_SUFFIXES = (".smi", ".smiles", ".ism")
SDF_SUFFIXES = (".sdf", ".sd")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length under a header; `smiles_at` is the column of structures."""

    header: list[str]
    rows: list[list[str]]
    smiles_at: int


def read_input(source: Path, smiles_column: str, kind: str | None) -> Table:
    """Read `source` (`-` for standard input).

    Args:
        kind: `csv`, `smi` or `sdf`; None to tell by the name, or by the first line of standard input.

    Raises:
        DataError: missing, empty, not of that kind, or without that column; names file and remedy.
    """
    suffix = source.suffix.lower()
    if kind == "sdf" or (kind is None and suffix in SDF_SUFFIXES):
        return _sdf(source)
    text = _text(source)
    if kind is None:
        kind = "smi" if suffix in SMILES_SUFFIXES else "csv"
        first = text.split("\n", 1)[0].strip()
        if str(source) == "-" and first and smiles_column not in next(csv.reader([first])):
            kind = "smi"
    return _smiles(text) if kind == "smi" else _csv(text, source, smiles_column)


def _text(source: Path) -> str:
    try:
        return sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _csv(text: str, source: Path, smiles_column: str) -> Table:
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{source}: not CSV: {error}") from None
    if not rows:
        raise DataError(f"{source}: is empty; expected a header line with the column {smiles_column!r}")
    header = rows[0]
    if smiles_column not in header:
        raise DataError(
            f"{source}: has no column {smiles_column!r}; it has: {', '.join(header)}. Use --smiles-column to name it"
        )
    width = len(header)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > width:
            raise DataError(f"{source}: row {number} has {len(row)} fields, the header has {width}")
    return Table(header, [row + [""] * (width - len(row)) for row in rows[1:] if row], header.index(smiles_column))


def _smiles(text: str) -> Table:
    """One structure per line, a name after a blank."""
    rows = [[*line.strip().split(None, 1), "", ""][:2] for line in text.splitlines() if line.strip()]
    return Table(["smiles", "name"], rows, 0)


def _sdf(source: Path) -> Table:
    from kmel_p2p.chem.read_wide import sdf_records

    if str(source) == "-":
        raise DataError("SDF is read from files only; write standard input to a file first")
    records = list(sdf_records(source))
    names = list(dict.fromkeys(name for _, _, properties, _ in records for name in properties))
    rows = [[smiles, *(properties.get(name, "") for name in names)] for _, smiles, properties, _ in records]
    return Table(["smiles", *names], rows, 0)
