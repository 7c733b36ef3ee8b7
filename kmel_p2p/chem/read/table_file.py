"""Reading text files and tables that another program wrote, with errors that say what to do about it."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from kmel_p2p.agreement.columns import TableForm, text_encoding
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.workbook import is_workbook, workbook_rows

if TYPE_CHECKING:
    import pyarrow

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
        content: what was given instead of a file, such as an upload.
        copy: an open file with a copy of standard input, which cannot be read twice.
    """

    path: Path
    content: bytes | None = None
    copy: BinaryIO | None = None

    @property
    def given(self) -> bool:
        """Whether the content was given, so that `path` is only its name."""
        return self.content is not None or self.copy is not None

    def open(self) -> BinaryIO:
        """Raises:
        OSError: it is missing or cannot be read.
        """
        if self.copy is not None:
            # A descriptor of its own: several readers must not move each other's place.
            return open(f"/proc/self/fd/{self.copy.fileno()}", "rb")
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)

    def state(self) -> tuple[int, int] | None:
        """(bytes, time of the last change in ns) of a file, to see whether somebody writes it; None without one."""
        if self.given:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def standard_input() -> Iterator[InputFile]:
    """Standard input, copied to an unnamed temporary file: its size is not bounded, and memory is.

    Raises:
        DataError: there is no room for it.
    """
    with tempfile.TemporaryFile() as copy:
        try:
            shutil.copyfileobj(sys.stdin.buffer, copy, 1 << 20)
            copy.flush()
        except OSError as error:
            raise DataError(
                f"-: cannot copy standard input to {tempfile.gettempdir()}: {error.strerror}; make room there, or set "
                "TMPDIR to a directory with room"
            ) from None
        yield InputFile(Path("-"), copy=cast(BinaryIO, copy))


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
    if is_parquet(file.path):
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
        if "\0" in first:
            raise DataError(
                f"{file.path}: has NUL characters in line {form.header_line}: UTF-16 without a byte order mark, or no "
                'text. Export it as UTF-8, or set data.encoding (of commands: --encoding) to "utf-16-le"'
            )
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


def is_parquet(path: Path) -> bool:
    """Whether a file is read as Parquet: by its name."""
    return path.suffix.lower() in PARQUET_SUFFIXES


def _parquet_rows(file: InputFile) -> Iterator[tuple[int, list[str]]]:
    schema, _ = parquet_shape(file)
    yield 1, [str(name) for name in schema.names]
    cells = (row for batch in parquet_batches(file) for row in plain_cells(batch))
    yield from enumerate(map(list, cells), start=2)


def parquet_shape(file: InputFile) -> tuple[pyarrow.Schema, int]:
    """Schema and number of rows, from the file's footer.

    Raises:
        DataError: it is missing, or no Parquet.
    """
    import pyarrow.parquet

    with _readable_parquet(file), file.open() as handle, pyarrow.parquet.ParquetFile(handle) as table:
        return table.schema_arrow, table.metadata.num_rows


def parquet_batches(file: InputFile, start: int = 0, size: int = 65_536) -> Iterator[pyarrow.RecordBatch]:
    """Rows from `start` on, `size` at a time; row groups before it are not read.

    Raises:
        DataError: as `parquet_shape`.
    """
    import pyarrow
    import pyarrow.parquet

    with _readable_parquet(file), file.open() as handle, pyarrow.parquet.ParquetFile(handle) as table:
        groups = list(range(table.num_row_groups))
        while groups and (rows := table.metadata.row_group(groups[0]).num_rows) <= start:
            start -= rows
            del groups[0]
        for batch in table.iter_batches(size, row_groups=groups) if groups else ():
            if start < len(batch):
                # Text that is none would be found where nobody knows the file any more.
                batch.validate(full=True)
                yield batch.slice(start)
            start = max(0, start - len(batch))


def plain_cells(batch: pyarrow.RecordBatch) -> Iterator[tuple[str, ...]]:
    """Rows as text; empty where there is nothing."""
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in batch.columns]
    return zip(*columns, strict=True)


@contextlib.contextmanager
def _readable_parquet(file: InputFile) -> Iterator[None]:
    import pyarrow

    try:
        yield
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
