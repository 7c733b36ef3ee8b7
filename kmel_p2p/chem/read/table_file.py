"""Reading text files and tables that another program wrote, with errors that say what to do about it."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from kmel_p2p.agreement.columns import TableForm, text_encoding
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.workbook import is_workbook, workbook_rows

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_MAGIC = (
    (b"PK\x03\x04", "an Excel workbook or ZIP archive; name a workbook .xlsx, unpack an archive"),
    (b"\xd0\xcf\x11\xe0", "an old or encrypted Excel workbook; save it as .xlsx, or the sheet as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed (gzip); unpack it"),
    (b"PAR1", "a Parquet file; its name must end in .parquet"),
)
"""First bytes of files that are often mistaken for text."""

_SEPARATOR_LINE = re.compile(r'^"?sep=(.)"?\s*$', re.IGNORECASE)
"""What Excel writes, and takes, as the first line of a CSV file."""

SEARCHED_ROWS = 30
"""How far down a header is looked for, to name its line in an error."""

PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read, or what came on standard input.

    Attributes:
        path: of the file; what messages call it.
        content: of standard input, which cannot be read twice.
    """

    path: Path
    content: bytes | None = None

    def open(self) -> BinaryIO:
        """Raises:
        OSError: it is missing or cannot be read.
        """
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)


@contextlib.contextmanager
def text_file(file: Path | InputFile, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file for reading; errors inside the `with` block become readable, too.

    A byte order mark of UTF-16 is believed where the encoding is the default, UTF-8.

    Raises:
        DataError: it is missing, cannot be read, or is not text in this encoding; names the line.
    """
    codec = text_encoding(encoding)
    file = InputFile(file) if isinstance(file, Path) else file
    path = file.path
    try:
        if codec == "utf-8-sig" and _start(file).startswith(_UTF16):
            codec = "utf-16"
        with io.TextIOWrapper(file.open(), encoding=codec, newline=newline) as handle:
            yield handle
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: {_what_it_is(file, codec, encoding, reason)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def kind_of(start: bytes) -> str:
    """What kind of file begins like this, and what to do about it; empty if it may be text.

    Args:
        start: its first eight bytes or more.
    """
    return next((meaning for magic, meaning in _MAGIC if start.startswith(magic)), "")


def _start(file: InputFile) -> bytes:
    with file.open() as handle:
        return handle.read(8)


def _what_it_is(file: InputFile, codec: str, encoding: str, reason: str) -> str:
    if kind := kind_of(_start(file)):
        return f"is {kind}"
    with file.open() as handle:
        line = next((number for number, text in enumerate(handle, start=1) if not _decodes(text, codec)), 0)
    where = f" in line {line}" if line else ""
    return (
        f"not {encoding.upper()} text ({reason}{where}); export it as UTF-8, or set data.encoding (of commands: "
        '--encoding) to its encoding, such as "cp949" or "cp1252"'
    )


def _decodes(text: bytes, codec: str) -> bool:
    try:
        text.decode(codec)
    except UnicodeError:
        return False
    return True


def read_rows(file: Path | InputFile, form: TableForm, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(line, cells as text) of every row of a table from the header on: CSV, Parquet or an Excel workbook by its name.

    Args:
        blank: also rows whose cells are all empty.

    Raises:
        DataError: names the file and, where known, the line. ConfigError: there is no such sheet.
    """
    file = InputFile(file) if isinstance(file, Path) else file
    if form.sheet and not is_workbook(file.path):
        raise ConfigError(
            f"{file.path}: is no Excel workbook (.xlsx), so it has no sheet {form.sheet!r}; remove 'sheet'"
        )
    if file.path.suffix.lower() in PARQUET_SUFFIXES:
        rows = _parquet_rows(file)
    elif is_workbook(file.path):
        rows = workbook_rows(file.path, form)
    else:
        rows = _csv_rows(file, form)
    for line, cells in rows:
        if blank or any(cell.strip() for cell in cells):
            yield line, cells


def _csv_rows(file: InputFile, form: TableForm) -> Iterator[tuple[int, list[str]]]:
    with text_file(file, form.encoding, newline="") as handle:
        above = list(itertools.islice(handle, form.header_line - 1))
        first = above[0] if above else handle.readline()
        if kind := kind_of(first[:8].encode("latin-1", "replace")):
            raise DataError(f"{file.path}: is {kind}")
        separator: str = form.separator
        line = form.header_line
        rest = handle if above else itertools.chain([first], handle)
        if match := _SEPARATOR_LINE.match(first):
            if separator not in (match[1], TableForm().separator):
                raise ConfigError(
                    f"{file.path}: its first line says that {match[1]!r} separates its cells, the settings say "
                    f"{separator!r}; correct or remove data.separator"
                )
            separator = match[1]
            rest, line = (rest, line) if above else (handle, 2)
        reader = csv.reader(rest, strict=True, delimiter=separator)
        before = line - 1
        try:
            for cells in reader:
                yield line, cells
                line = before + reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file.path}: line {line} cannot be read as CSV: {error}") from None


def _parquet_rows(file: InputFile) -> Iterator[tuple[int, list[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with file.open() as handle, pyarrow.parquet.ParquetFile(handle) as table:
            yield 1, [str(name) for name in table.schema_arrow.names]
            line = 2
            for batch in table.iter_batches():
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    yield line, ["" if cell is None else str(cell) for cell in cells]
                    line += 1
    except FileNotFoundError:
        raise DataError(f"{file.path}: no such file") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.path}: cannot be read as Parquet: {error}") from None


def table_rows(path: Path, form: TableForm) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header (blanks at the ends removed) and the rows under it, without empty cells beyond the header.

    Raises:
        DataError, ConfigError: as `read_rows`; or the file is empty.
    """
    rows = read_rows(path, form)
    try:
        _, header = next(rows)
    except StopIteration:
        raise DataError(f"{path}: the file is empty{_from(form)}") from None
    width = len(header)
    return [name.strip() for name in header], ((line, without_tail(cells, width)) for line, cells in rows)


def _from(form: TableForm) -> str:
    return "" if form.header_line == 1 else f" from line {form.header_line} (header_line) on"


def later_header(path: Path, form: TableForm, name: str) -> int | None:
    """The line further down in which a column of this name stands, under titles; None where there is none."""
    with contextlib.suppress(DataError):
        for line, cells in itertools.islice(read_rows(path, form), SEARCHED_ROWS):
            if line > form.header_line and name in (cell.strip() for cell in cells):
                return line
    return None


def without_tail(cells: list[str], width: int) -> list[str]:
    """A row without empty cells beyond the last header: spreadsheets add separators that mean nothing."""
    return cells[:width] if len(cells) > width and not any(cell.strip() for cell in cells[width:]) else cells
