"""The structures that commands are given: a table, SDF or a list of SMILES, from a file or standard input."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kmel_p2p.agreement.errors import DataError

if TYPE_CHECKING:
    from kmel_p2p.agreement.columns import TableForm
    from kmel_p2p.chem.read.table_file import InputFile

SMILES_SUFFIXES = (".smi", ".smiles", ".ism")
SDF_SUFFIXES = (".sdf", ".sd")

SEPARATORS = (",", ";", "\t")
"""Of table columns: many spreadsheets write semicolons. None of them occurs in a SMILES."""

TITLE_NAMES = ("name", "title", "sdf_title")
"""Column for the title line of SDF records: the first of these names that no property has."""

Command = TypeVar("Command", bound=Callable[..., Any])


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


@dataclass(frozen=True, slots=True)
class InputForm:
    """How the input is written; the options of `input_options`.

    Attributes:
        smiles_column: of a table.
        kind: `csv` (any table), `smi` or `sdf`; None to tell by the name, or by the content of standard input.
        separator: of a CSV file; None to tell by the header.
        encoding, header_line, sheet: as `TableForm`.
    """

    smiles_column: str = "smiles"
    kind: str | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    header_line: int = 1
    sheet: str = ""

    def table(self, separator: str | None = None) -> TableForm:
        """The same for a reader of tables.

        Raises:
            ConfigError: there is no such encoding.
        """
        from kmel_p2p.agreement.columns import TableForm, text_encoding

        text_encoding(self.encoding)
        chosen = separator or self.separator or SEPARATORS[0]
        decimal = "." if chosen == "," else ","
        written = {"separator": chosen, "decimal": decimal, "encoding": self.encoding}
        return TableForm.model_validate({**written, "header_line": self.header_line, "sheet": self.sheet})


def input_options(command: Command) -> Command:
    """Options of a command that reads structures; the command gets them as one argument, `form`."""
    separators = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}

    @click.option("--smiles-column", default="smiles", show_default=True, help="Column of a table with structures.")
    @click.option(
        "--format",
        "kind",
        type=click.Choice(["csv", "smi", "sdf"]),
        help="Of IN, csv being any table; default: by its name. Standard input is a table if its header names the "
        "SMILES column.",
    )
    @click.option("--separator", type=click.Choice(list(separators)), help="Of a CSV file; default: by its header.")
    @click.option("--encoding", default="utf-8", show_default=True, help="Of a text file: cp949, cp1252, utf-16, ...")
    @click.option(
        "--header-line",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        help="Line or row of a table with the names of its columns, where titles stand above it.",
    )
    @click.option("--sheet", default="", help="Of an Excel workbook with several.")
    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        smiles_column: str,
        kind: str | None,
        separator: str | None,
        encoding: str,
        header_line: int,
        sheet: str,
        **options: Any,
    ) -> Any:
        chosen = separators[separator] if separator else None
        form = InputForm(smiles_column, kind, chosen, encoding, header_line, sheet)
        return command(*arguments, form=form, **options)

    return wrapped  # type: ignore[return-value]


def read_input(source: Path, form: InputForm) -> Table:
    """Read `source` (`-` for standard input).

    Raises:
        DataError: missing, empty, not of that kind, or without that column; names file and remedy.
        ConfigError: the form does not fit, such as a sheet that is not there.
    """
    from kmel_p2p.chem.read.table_file import InputFile

    file = InputFile(source, sys.stdin.buffer.read() if str(source) == "-" else None)
    kind = form.kind or _kind(file, form)
    if kind == "sdf":
        return _sdf(file, form)
    return _smiles(file, form) if kind == "smi" else _table(file, form)


def _kind(file: InputFile, form: InputForm) -> str:
    from kmel_p2p.chem.read.table_file import text_file

    suffix = file.path.suffix.lower()
    if file.content is None:
        return "sdf" if suffix in SDF_SUFFIXES else "smi" if suffix in SMILES_SUFFIXES else "csv"
    with text_file(file, form.encoding) as lines:
        if any(line.rstrip() in ("$$$$", "M  END") for line in lines):
            return "sdf"
    return "csv" if _separated(file, form) else "smi"


def _places(header: Sequence[str], column: str) -> list[int]:
    """Where a header has this column: the exact name, or else ignoring case and surrounding blanks."""
    exact = [at for at, name in enumerate(header) if name == column]
    return exact or [at for at, name in enumerate(header) if name.strip().lower() == column.lower()]


def _separated(file: InputFile, form: InputForm) -> TableForm | None:
    """The form of a table with such a column in its header, found by trying separators; None if there is none."""
    return next((tried for tried, line in _headers(file, form, rows=1)), None)


def _headers(file: InputFile, form: InputForm, rows: int) -> Iterator[tuple[TableForm, int]]:
    """(form, line) of each row that has such a column, among the first `rows` and with any separator."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.chem.read.table_file import read_rows

    for separator in (form.separator,) if form.separator else SEPARATORS:
        tried = form.table(separator)
        with contextlib.suppress(ConfigError, DataError):
            for line, cells in itertools.islice(read_rows(file, tried), rows):
                if _places(cells, form.smiles_column):
                    yield tried, line


def _table(file: InputFile, form: InputForm) -> Table:
    """A table; a blank line in between is a row without a structure, and keeps its place."""
    from kmel_p2p.chem.read.table_file import SEARCHED_ROWS, read_rows, without_tail

    source, column = file.path, form.smiles_column
    numbered = list(read_rows(file, _separated(file, form) or form.table(), blank=True))
    while numbered and not any(numbered[-1][1]):
        numbered.pop()
    if not numbered:
        raise DataError(f"{source}: is empty; expected a header line with the column {column!r}")
    header = numbered[0][1]
    places = _places(header, column)
    if len(places) > 1:
        raise DataError(f"{source}: has the column {column!r} {len(places)} times; rename all but one")
    if not places:
        under = next((line for _, line in _headers(file, form, SEARCHED_ROWS)), None)
        hint = f" Line {under} has it: if the lines above are titles, --header-line {under}." if under else ""
        raise DataError(
            f"{source}: has no column {column!r}; it has: {', '.join(header)}. Use --smiles-column to name it.{hint}"
        )
    width = len(header)
    rows = []
    for line, cells in numbered[1:]:
        row = without_tail(cells, width)
        if len(row) > width:
            raise DataError(f"{source}: row {line} has {len(row)} fields, the header has {width}")
        rows.append(row + [""] * (width - len(row)))
    return Table(header, rows, places[0])


def _smiles(file: InputFile, form: InputForm) -> Table:
    """One structure per line, then a blank and a name; an empty line in between is a row without a structure."""
    from kmel_p2p.chem.read.table_file import text_file

    with text_file(file, form.encoding) as handle:
        lines = [line.strip() for line in handle]
    while lines and not lines[-1]:
        lines.pop()
    return Table(["smiles", "name"], [[*line.split(None, 1), "", ""][:2] for line in lines], 0)


def _sdf(file: InputFile, form: InputForm) -> Table:
    from kmel_p2p.chem.read.table_file import text_file
    from kmel_p2p.chem.read.wide_table import sdf_records

    with text_file(file, form.encoding) as handle:
        records = list(sdf_records(handle))
    if not records:
        raise DataError(f"{file.path}: is empty; expected SDF records that end with $$$$")
    names = list(dict.fromkeys(name for record in records for name in record.properties))
    titles = [next(name for name in TITLE_NAMES if name not in names)] if any(r.title for r in records) else []
    rows = [
        [r.smiles, *([r.title] if titles else []), *(r.properties.get(name, "") for name in names)] for r in records
    ]
    refused = {at: record.reason for at, record in enumerate(records) if record.reason}
    smiles = next(name for name in ("smiles", "sdf_smiles", "structure_smiles") if name not in (*titles, *names))
    return Table([smiles, *titles, *names], rows, 0, refused)
