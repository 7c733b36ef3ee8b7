"""Where a site's measurements are. Plain settings; `records` reads what they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from kmel_p2p.agreement.errors import ConfigError

Part = Literal["", "AtoB", "BtoA", "ratio"]


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How the text files of a site are written; Parquet knows that by itself.

    Attributes:
        separator: between cells: comma, semicolon, tab or |.
        decimal: before decimals: point or comma.
        encoding: of characters, by a name that Python knows (`utf-8`, `cp949`, `cp1252`, `utf-16`).
    """

    separator: Literal[",", ";", "\t", "|"] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Column:
    """Where the values of one assay endpoint are, and how they are written.

    Attributes:
        column: column (wide), property (SDF), `input_assay_id` (TUNER) or value column (K-MELLODDY).
        unit: of the values; in K-MELLODDY tables, and beside a `unit_column`, of rows that name none.
        relation_column, unit_column: columns (properties) of a wide table or SDF file that hold the relation (`<`, `=`,
            `>`) and the unit of each value, where they are not in its cell.
        low_limit: values at or below it, written without a relation, mean "below the limit". In the unit of the column.
        high_limit: values at or above it mean "above the limit".
        factor: what the written numbers are multiplied by to be in `unit` (of logarithms, the quantities behind them).
        complement: the numbers are what is missing to the whole: % bound where the charter counts % unbound.
        threshold: makes classes of numbers (classification only), in the numbers' own unit.
        positive: which side of the threshold, the threshold included, is class 1.
        expert_threshold: MELLODDY-TUNER: which of T0's `expert_threshold_1` to `_5` stands in for `threshold`.
        match: column -> value; a row belongs to the assay endpoint when all of them agree. Needed for K-MELLODDY.
        classes: classification only: words of the table, in lower case, and the class (0 or 1) each means.
        part: which part of a bracket list `[AtoB,BtoA]` is meant.
        mass_of: between mass and amount of substance: mass of the standardised compound, or of the structure as written
            with its counter-ions (see `chem.dataset.mass`).
    """

    column: str = ""
    unit: str = ""
    low_limit: float | None = None
    high_limit: float | None = None
    factor: float = 1.0
    complement: bool = False
    threshold: float | None = None
    positive: Literal["above", "below"] = "above"
    match: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    relation_column: str = ""
    unit_column: str = ""
    part: Part = ""
    mass_of: Literal["parent", "written"] = "parent"
    expert_threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.expert_threshold <= 5:
            raise ConfigError(f"column {self.column!r}: expert_threshold is {self.expert_threshold}; it must be 1 to 5")
        if self.low_limit is not None and self.high_limit is not None and not self.low_limit < self.high_limit:
            raise ConfigError(f"column {self.column!r}: low_limit must be below high_limit")


@dataclass(frozen=True, slots=True)
class EmbargoSource:
    """What must not be used for training, although it is in the file.

    Attributes:
        compounds: text file, one SMILES, InChIKey or first block of an InChIKey per line.
        scaffolds: text file, one SMILES per line; every compound with the scaffold of one of them is kept back.
        project_column: column (property) that names the project of a row.
        projects: those kept back.
    """

    compounds: Path | None = None
    scaffolds: Path | None = None
    project_column: str = ""
    projects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeSource:
    """Which compounds are new: they join the test fold.

    Attributes:
        column: column (property) with the date of a row; empty: no time split.
        test_from: a compound whose first dated row is of this day or later is new.
        format: how dates are written, in `strptime`'s words, where not as ISO 8601.
    """

    column: str = ""
    test_from: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class WideSource:
    """A CSV or Parquet file with a SMILES column and one column per assay endpoint.

    Attributes:
        path: CSV with a header in the first line; `.parquet` is read as Parquet.
        smiles_column: name of the column that holds structures.
        columns: assay endpoint of the charter -> column of the file.
    """

    path: Path
    smiles_column: str
    columns: Mapping[str, Column]
    embargo: EmbargoSource = EmbargoSource()
    time: TimeSource = TimeSource()
    text: TextFormat = TextFormat()


@dataclass(frozen=True, slots=True)
class SdfSource:
    """An SDF file whose properties hold the values."""

    path: Path
    columns: Mapping[str, Column]
    embargo: EmbargoSource = EmbargoSource()
    time: TimeSource = TimeSource()
    text: TextFormat = TextFormat()


@dataclass(frozen=True, slots=True)
class LongSource:
    """A K-MELLODDY table (standard data format v4.6): one measurement per row."""

    path: Path
    columns: Mapping[str, Column]
    embargo: EmbargoSource = EmbargoSource()
    time: TimeSource = TimeSource()
    text: TextFormat = TextFormat()


@dataclass(frozen=True, slots=True)
class TunerSource:
    """Tables of MELLODDY-TUNER.

    Attributes:
        path: T1, the measurements.
        assays: T0; an assay that is not in it is refused, as TUNER does. None: not checked.
        structures: T2.
    """

    path: Path
    structures: Path
    columns: Mapping[str, Column]
    assays: Path | None = None
    embargo: EmbargoSource = EmbargoSource()
    time: TimeSource = TimeSource()
    text: TextFormat = TextFormat()


Source: TypeAlias = WideSource | SdfSource | LongSource | TunerSource
