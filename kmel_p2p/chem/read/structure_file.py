"""Files of structures to predict or standardise: a table, SDF or a list of SMILES, looked at once, read in blocks.

file = StructureFile(InputFile(Path("in.csv")), InputForm())
for block in file.blocks(0, file.count, 4096):
    [row[file.smiles_at] for row in block.rows]

The first look finds the header, counts the rows and refuses what cannot be read, so that nobody hears of a broken row
after hours. Memory does not grow with the file, whatever its format; an Excel workbook has a million rows at most.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kmel_p2p.agreement.columns import TableForm, text_encoding
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.sdf import sdf_blocks, sdf_properties, sdf_record, title_of
from kmel_p2p.chem.read.table_file import (
    SEARCHED_ROWS,
    InputFile,
    is_parquet,
    parquet_batches,
    parquet_shape,
    plain_cells,
    read_rows,
    text_file,
    without_tail,
)

if TYPE_CHECKING:
    import pyarrow

SMILES_SUFFIXES = (".smi", ".smiles", ".ism")
SDF_SUFFIXES = (".sdf", ".sd")

SEPARATORS = (",", ";", "\t")
"""Of table columns: many spreadsheets write semicolons. None of them occurs in a SMILES."""

TITLE_NAMES = ("name", "title", "sdf_title")
"""Column for the title line of SDF records: the first of these names that no property has."""


@dataclass(frozen=True, slots=True)
class InputForm:
    """How the input is written.

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
        text_encoding(self.encoding)
        chosen = separator or self.separator or SEPARATORS[0]
        decimal = "." if chosen == "," else ","
        written = {"separator": chosen, "decimal": decimal, "encoding": self.encoding}
        return TableForm.model_validate({**written, "header_line": self.header_line, "sheet": self.sheet})


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows of equal length under the file's header.

    Attributes:
        rows: cells as text.
        refused: row of the block -> why its structure could not be read, where the cell itself does not show it.
        stored: the same rows with the types of a Parquet file; None for other files.
    """

    rows: list[list[str]]
    refused: dict[int, str] = field(default_factory=dict)
    stored: pyarrow.RecordBatch | None = None


class _Format(Protocol):
    """One format.

    Attributes:
        header: names of the columns.
        smiles_at: column of structures.
        count: rows.
    """

    header: list[str]
    smiles_at: int
    count: int

    def blocks(self, start: int, size: int) -> Iterator[RowBlock]:
        """From row `start` on, without end mark: rows beyond `count` mean nothing."""


class StructureFile:
    """See the module.

    Attributes:
        header: names of the columns.
        smiles_at: column of structures.
        count: rows.
        schema: of a Parquet file; None for other files.
    """

    def __init__(self, file: InputFile, form: InputForm) -> None:
        """Raises:
        DataError: missing, empty, not of that kind, or without that column; names file and remedy.
        ConfigError: the form does not fit, such as a sheet that is not there.
        """
        self._file = file
        self._state = file.state()
        kind = form.kind or _kind(file, form)
        self._format: _Format
        if kind == "sdf":
            self._format = _Sdf(file, form)
        elif kind == "smi":
            self._format = _Smiles(file, form)
        else:
            self._format = _Parquet(file, form) if is_parquet(file.path) else _Table(file, form)
        self.header, self.smiles_at, self.count = self._format.header, self._format.smiles_at, self._format.count
        self.schema: pyarrow.Schema | None = getattr(self._format, "schema", None)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[RowBlock]:
        """Rows `start` to `stop` (excluded), `size` at a time; the last block may be smaller.

        Raises:
            DataError: the file changed since the first look.
        """
        left = min(stop, self.count) - start
        for block in self._format.blocks(start, size) if left > 0 else ():
            yield _first(block, left)
            left -= len(block.rows)
            if left <= 0:
                break
        if left > 0 or self._file.state() != self._state:
            raise DataError(f"{self._file.path}: has changed while it was read; start again")

    def digest(self) -> str:
        """BLAKE2b-256 (hex) of the file's bytes."""
        with self._file.open() as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]


def _first(block: RowBlock, count: int) -> RowBlock:
    if len(block.rows) <= count:
        return block
    refused = {at: reason for at, reason in block.refused.items() if at < count}
    return RowBlock(block.rows[:count], refused, None if block.stored is None else block.stored.slice(0, count))


def _batches(rows: Iterable[list[str]], size: int) -> Iterator[RowBlock]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, size)):
        yield RowBlock(part)


def _kind(file: InputFile, form: InputForm) -> str:
    suffix = file.path.suffix.lower()
    if not file.given:
        return "sdf" if suffix in SDF_SUFFIXES else "smi" if suffix in SMILES_SUFFIXES else "csv"
    with text_file(file, form.encoding) as lines:
        if any(line.rstrip() in ("$$$$", "M  END") for line in lines):
            return "sdf"
    return "csv" if _separated(file, form) else "smi"


def places_of(header: Sequence[str], column: str) -> list[int]:
    """Where a header has this column: the exact name, or else ignoring case and surrounding blanks."""
    exact = [at for at, name in enumerate(header) if name == column]
    return exact or [at for at, name in enumerate(header) if name.strip().lower() == column.lower()]


NAME_COLUMNS = ("name", "title", "sdf_title", "id", "compound", "compound_id", "compound id", "molecule", "molecule_id")
"""Columns, in any case, whose cell names a compound to people: the first of them in a header."""


def name_place(header: Sequence[str]) -> int | None:
    """Where a header has the names of compounds; None if it has none."""
    lowered = [name.strip().lower() for name in header]
    return next((lowered.index(name) for name in NAME_COLUMNS if name in lowered), None)


def smiles_place(
    what: object, header: Sequence[str], column: str, remedy: str = "Use --smiles-column to name it."
) -> int:
    """Where the structures are.

    Args:
        what: the table's name for messages.
        remedy: what to do where there is no such column.

    Raises:
        DataError: there is no such column, or there are several.
    """
    places = places_of(header, column)
    if len(places) > 1:
        raise DataError(f"{what}: has the column {column!r} {len(places)} times; rename all but one")
    if not places:
        raise DataError(f"{what}: has no column {column!r}; it has: {', '.join(map(str, header))}. {remedy}")
    return places[0]


def _separated(file: InputFile, form: InputForm) -> TableForm | None:
    """The form of a table with such a column in its header, found by trying separators; None if there is none."""
    return next((tried for tried, line in _headers(file, form, rows=1)), None)


def _headers(file: InputFile, form: InputForm, rows: int) -> Iterator[tuple[TableForm, int]]:
    """(form, line) of each row that has such a column, among the first `rows` and with any separator."""
    for separator in (form.separator,) if form.separator else SEPARATORS:
        tried = form.table(separator)
        with contextlib.suppress(ConfigError, DataError):
            for line, cells in itertools.islice(read_rows(file, tried), rows):
                if places_of(cells, form.smiles_column):
                    yield tried, line


class _Table:
    """CSV or a workbook; a blank line between others is a row without a structure, and keeps its place."""

    def __init__(self, file: InputFile, form: InputForm) -> None:
        self._file = file
        self._form = _separated(file, form) or form.table()
        numbered = read_rows(file, self._form, blank=True)
        self.header = next((cells for _, cells in numbered), [])
        if not any(self.header) and not any(any(cells) for _, cells in numbered):
            raise DataError(f"{file.path}: is empty; expected a header line with the column {form.smiles_column!r}")
        self.smiles_at = smiles_place(file.path, self.header, form.smiles_column, self._remedy(form))
        self.count = self._checked(numbered)

    def _remedy(self, form: InputForm) -> str:
        named = "Use --smiles-column to name it."
        if places_of(self.header, form.smiles_column):
            return named
        under = next((line for _, line in _headers(self._file, form, SEARCHED_ROWS)), None)
        if under is None:
            return named
        return f"{named} Line {under} has it: if the lines above are titles, --header-line {under}."

    def _checked(self, numbered: Iterator[tuple[int, list[str]]]) -> int:
        """How many rows there are up to the last that is not blank."""
        width, count = len(self.header), 0
        for at, (line, cells) in enumerate(numbered, start=1):
            if len(cells) > width and len(without_tail(cells, width)) > width:
                raise DataError(f"{self._file.path}: row {line} has {len(cells)} fields, the header has {width}")
            if any(cells):
                count = at
        return count

    def blocks(self, start: int, size: int) -> Iterator[RowBlock]:
        numbered = read_rows(self._file, self._form, blank=True)
        return _batches(map(self._row, itertools.islice(numbered, start + 1, None)), size)

    def _row(self, numbered: tuple[int, list[str]]) -> list[str]:
        width = len(self.header)
        row = without_tail(numbered[1], width)
        return row + [""] * (width - len(row))


class _Parquet:
    """Parquet, with the types it has."""

    def __init__(self, file: InputFile, form: InputForm) -> None:
        self._file = file
        self.schema, self.count = parquet_shape(file)
        self.header = [str(name) for name in self.schema.names]
        self.smiles_at = smiles_place(file.path, self.header, form.smiles_column)

    def blocks(self, start: int, size: int) -> Iterator[RowBlock]:
        for batch in parquet_batches(self._file, start, size):
            yield RowBlock([list(cells) for cells in plain_cells(batch)], stored=batch)


class _Smiles:
    """One structure per line, then a blank and a name; an empty line in between is a row without a structure."""

    def __init__(self, file: InputFile, form: InputForm) -> None:
        self._file, self._encoding = file, form.encoding
        self.header, self.smiles_at = ["smiles", "name"], 0
        with text_file(file, form.encoding) as lines:
            self.count = max((number for number, line in enumerate(lines, start=1) if line.strip()), default=0)

    def blocks(self, start: int, size: int) -> Iterator[RowBlock]:
        with text_file(self._file, self._encoding) as lines:
            rows = ([*line.split(None, 1), "", ""][:2] for line in map(str.strip, itertools.islice(lines, start, None)))
            yield from _batches(rows, size)


class _Sdf:
    """SDF: the first look finds the names of all properties."""

    def __init__(self, file: InputFile, form: InputForm) -> None:
        self._file, self._encoding = file, form.encoding
        names: dict[str, None] = {}
        self.count, titled = 0, False
        with text_file(file, form.encoding) as lines:
            for _, text in sdf_blocks(lines):
                self.count += 1
                names.update(dict.fromkeys(sdf_properties(text)))
                titled = titled or bool(title_of(text))
        if not self.count:
            raise DataError(f"{file.path}: is empty; expected SDF records that end with $$$$")
        self._names = list(names)
        titles = [next(name for name in TITLE_NAMES if name not in names)] if titled else []
        self._titled = titled
        taken = (*titles, *names)
        smiles = next(name for name in ("smiles", "sdf_smiles", "structure_smiles") if name not in taken)
        self.header, self.smiles_at = [smiles, *titles, *self._names], 0

    def blocks(self, start: int, size: int) -> Iterator[RowBlock]:
        with text_file(self._file, self._encoding) as lines:
            records = (sdf_record(line, text) for line, text in itertools.islice(sdf_blocks(lines), start, None))
            while part := list(itertools.islice(records, size)):
                rows: list[list[Any]] = [
                    [r.smiles, *([r.title] if self._titled else []), *(r.properties.get(n, "") for n in self._names)]
                    for r in part
                ]
                yield RowBlock(rows, {at: record.reason for at, record in enumerate(part) if record.reason})
