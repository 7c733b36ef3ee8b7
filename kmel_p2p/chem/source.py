"""Where a site's measurements are. Plain settings; `ingest` reads what they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Column:
    """Where the values of one assay endpoint are, and in which unit they are written."""

    column: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class WideSource:
    """A CSV file with a SMILES column and one column per assay endpoint.

    Attributes:
        path: the file; UTF-8, comma separated, first line is the header.
        smiles_column: name of the column that holds structures.
        columns: assay endpoint of the charter -> column of the file.
    """

    path: Path
    smiles_column: str
    columns: Mapping[str, Column]
