"""The `[data]` settings of a site: where its measurements are, and how they are written. `chem.read` reads them."""

from __future__ import annotations

import codecs
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import StrictModel

Location = Annotated[
    Path,
    pydantic.BeforeValidator(lambda value: Path(value).expanduser() if isinstance(value, str) and value else value),
]
"""A path, written as a string."""


class Column(StrictModel):
    """Where the values of one assay endpoint are, and how they are written."""

    column: str = ""
    """Column (wide), property (SDF), `input_assay_id` (TUNER) or value column (K-MELLODDY)."""
    unit: str = ""
    """Of the values; in K-MELLODDY tables, and beside a `unit_column`, of rows that name none."""
    low_limit: float | None = None
    """Values at or below it, written without a relation, mean "below the assay's limit"; in the column's unit."""
    high_limit: float | None = None
    """Values at or above it mean "above the limit"."""
    factor: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] = 1.0
    """Multiplies the written numbers to give `unit` (of logarithms, the quantities behind them)."""
    complement: bool = False
    """The numbers are the complement to 100 %: % bound where the charter counts % unbound."""
    threshold: float | None = None
    """Turns numbers into classes, for assay endpoints that are classes in the charter; in the column's unit."""
    positive: Literal["above", "below"] = "above"
    """Which side of the threshold, the threshold included, is class 1."""
    match: Mapping[str, str] = {}
    """Column -> value: a row is meant where all agree; formats wide, sdf and kmelloddy."""
    relation_column: str = ""
    """Formats wide and sdf: column with the relation (<, =, >) of each value, where cells hold the number alone."""
    unit_column: str = ""
    """Formats wide and sdf: column with the unit of each value; `unit` is that of rows that name none."""
    classes: Mapping[str, Annotated[int, pydantic.Field(ge=0, le=1)]] = {}
    """Words of the table and the class each means, where they are not the usual ones: { "+" = 1, "-" = 0 }."""
    part: Literal["", "AtoB", "BtoA", "ratio"] = ""
    """Which part of a bracket list `[AtoB,BtoA]` is meant."""
    expert_threshold: Annotated[int, pydantic.Field(ge=1, le=5)] = 1
    """MELLODDY-TUNER: which threshold of T0 makes classes where `threshold` is not given."""
    mass_of: Literal["parent", "written"] = "parent"
    """Which mass converts ug/mL to umol/L: of the compound, or of the form as written, counter-ions included."""

    @pydantic.model_validator(mode="after")
    def _limits_are_ordered(self) -> Column:
        if self.low_limit is not None and self.high_limit is not None and not self.low_limit < self.high_limit:
            raise ValueError("low_limit must be below high_limit")
        if self.classes and self.threshold is not None:
            raise ValueError("'classes' is for words and 'threshold' for numbers; remove one of them")
        return self


class EmbargoSection(StrictModel):
    """What the file holds but nobody may use."""

    compounds: Location | None = None
    """Text file, one SMILES, InChIKey or first block of an InChIKey per line."""
    scaffolds: Location | None = None
    """Text file, one SMILES per line; every compound with one of their scaffolds is withheld."""
    project_column: str = ""
    """Column (property) that names the project of a row."""
    projects: tuple[str, ...] = ()
    """Projects to withhold."""


EXCEL_DAYS, EXCEL_DAYS_1904 = "excel", "excel-1904"
"""Forms of dates that a spreadsheet wrote as numbers."""


class TimeSection(StrictModel):
    """The newest measurements of this site are for testing."""

    column: str = ""
    """Column (property) with the date of a row; empty: no time split."""
    test_from: str = ""
    """Compounds first measured on this day (2024-05-31, 2024-05 or 2024) or later are not trained on."""
    format: str = ""
    """How the column writes dates, unless like test_from: %d/%m/%Y, %d-%b-%Y, ...; `excel`: days as the workbook
    counts them, in a text file from 1899-12-30; `excel-1904`: days from 1904-01-01."""

    @pydantic.model_validator(mode="after")
    def _both_or_none(self) -> TimeSection:
        if bool(self.column) != bool(self.test_from):
            raise ValueError("'column' and 'test_from' go together; give both or none")
        if self.format not in ("", EXCEL_DAYS, EXCEL_DAYS_1904) and not _tells_days(self.format):
            raise ValueError(
                f'data.time.format is {self.format!r}; it must give day, month and year: "%d/%m/%Y" reads 31/05/2024, '
                f'"%d-%b-%Y" reads 31-May-2024, "{EXCEL_DAYS}" reads 45443'
            )
        return self


class TableForm(StrictModel):
    """How a file of text or cells is written, whatever it holds."""

    separator: Literal[",", ";", "\t", "|"] = ","
    """Between the cells of CSV files; a first line such as `sep=;` in the file says so, too."""
    decimal: Literal[".", ","] = "."
    """Before the decimals of numbers."""
    encoding: str = "utf-8"
    """Of text files, by a name that Python knows: utf-8, cp949, cp1252, utf-16, ..."""
    header_line: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 1
    """Line of a CSV file, or row of a sheet, that holds the names of the columns; titles above it are passed over."""
    sheet: str = ""
    """Of an Excel workbook (.xlsx); may be left out where there is only one."""

    @pydantic.model_validator(mode="after")
    def _separator_is_no_decimal(self) -> TableForm:
        if self.separator == self.decimal:
            raise ValueError("'separator' and 'decimal' are the same character; they must differ")
        return self

    @pydantic.field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            text_encoding(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name


class Source(TableForm):
    """A file of measurements and how to read it."""

    format: Literal["wide", "kmelloddy", "tuner", "sdf"] = "wide"
    """`wide`: CSV or Parquet, one column per assay endpoint; `kmelloddy`: standard data format v4.6, one measurement
    per row; `tuner`: MELLODDY-TUNER's tables; `sdf`: properties of an SDF file."""
    path: Location
    """The file; `.parquet` is read as Parquet, `.xlsx` as an Excel workbook, other tables as CSV."""
    smiles_column: str = "smiles"
    """Format wide: column that holds structures."""
    missing: tuple[Annotated[str, pydantic.Field(min_length=1)], ...] = ()
    """Words of the table, in any case, that mean "not measured", beside the usual ones."""
    structures: Location | None = None
    """MELLODDY-TUNER's T2; `path` is T1."""
    assays: Location | None = None
    """MELLODDY-TUNER's T0; an assay that is not in it is refused, as TUNER does. Optional."""
    embargo: EmbargoSection = EmbargoSection()
    time: TimeSection = TimeSection()
    columns: Annotated[Mapping[str, Column], pydantic.Field(min_length=1)]
    """Assay endpoint of the charter -> column of the file."""

    @pydantic.model_validator(mode="after")
    def _format_fits(self) -> Source:
        if self.format == "tuner" and self.structures is None:
            raise ValueError("format 'tuner' needs 'structures': the file T2 that holds the SMILES")
        if self.format != "tuner" and (self.structures or self.assays):
            raise ValueError("'structures' and 'assays' belong to format 'tuner'; remove them")
        for name, rule in self.columns.items():
            if self.format != "kmelloddy" and not rule.column:
                raise ValueError(f"columns.{name}: 'column' is missing")
            if self.format == "kmelloddy" and not rule.match:
                raise ValueError(f"columns.{name}: 'match' is missing; it says which rows are meant")
            if self.format != "kmelloddy" and rule.part:
                raise ValueError(f"columns.{name}: 'part' belongs to format 'kmelloddy'; remove it")
            if self.format == "tuner" and rule.match:
                raise ValueError(f"columns.{name}: format 'tuner' has no 'match', its 'column' is the assay; remove it")
            if self.format in ("tuner", "kmelloddy") and (rule.relation_column or rule.unit_column):
                raise ValueError(
                    f"columns.{name}: format {self.format!r} has columns of its own for relations and units; "
                    "remove 'relation_column' and 'unit_column'"
                )
        absent = {word.strip().lower() for word in self.missing}
        for name, rule in self.columns.items():
            if both := absent & {word.strip().lower() for word in rule.classes}:
                raise ValueError(f"columns.{name}.classes and 'missing' both have {min(both)!r}; remove it from one")
        return self


def text_encoding(name: str) -> str:
    """The codec to open files with; a UTF-8 byte order mark is never part of the text.

    Raises:
        ConfigError: Python knows no such encoding of text.
    """
    try:
        codec = codecs.lookup(name)
        codec.incrementaldecoder().decode(b"")  # `base64` and the like are codecs, but not of text
        if not isinstance(b"".decode(name), str):
            raise LookupError
    except (LookupError, TypeError, AttributeError):
        raise ConfigError(
            f'data.encoding is {name!r}, which is not a text encoding; usual are "utf-8", "cp949", "cp1252", "utf-16"'
        ) from None
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def _tells_days(written: str) -> bool:
    """Whether dates in this `strptime` format identify the day."""
    day = datetime.datetime(2023, 11, 28)
    # The same weekday of the same week in another year. Since Python 3.13, strptime warns of formats without a year.
    years_later = day.replace(year=2051)
    try:
        if day.strftime(written) == years_later.strftime(written):
            return False
        return datetime.datetime.strptime(day.strftime(written), written) == day
    except ValueError:
        return False
