"""Reading text files and tables that another program wrote, with errors that say what to do about it."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kmel_p2p.agreement.columns import Source, text_encoding
from kmel_p2p.agreement.errors import DataError

_MAGIC = (
    (b"PK\x03\x04", "an Excel workbook or ZIP archive; save the sheet as CSV (UTF-8), or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed (gzip); unpack it"),
    (b"PAR1", "a Parquet file; its name must end in .parquet"),
    (b"\xff\xfe", 'UTF-16 text; set data.encoding = "utf-16", or export it as UTF-8'),
    (b"\xfe\xff", 'UTF-16 text; set data.encoding = "utf-16", or export it as UTF-8'),
)
"""First bytes of files that are often mistaken for text."""


@contextlib.contextmanager
def text_file(path: Path, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a file for reading; errors inside the `with` block become readable, too.

    Raises:
        DataError: it is missing, cannot be read, or is not text in this encoding; names the line.
    """
    codec = text_encoding(encoding)
    try:
        with path.open(encoding=codec, newline=newline) as handle:
            yield handle
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: {_what_it_is(path, codec, encoding, reason)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def kind_of(start: bytes) -> str:
    """What kind of file begins like this, and what to do about it; empty if it may be text.

    Args:
        start: its first eight bytes or more.
    """
    return next((meaning for magic, meaning in _MAGIC if start.startswith(magic)), "")


def _what_it_is(path: Path, codec: str, encoding: str, reason: str) -> str:
    with path.open("rb") as file:
        start = file.read(8)
        if kind := kind_of(start):
            return f"is {kind}"
        file.seek(0)
        line = next((number for number, text in enumerate(file, start=1) if not _decodes(text, codec)), 0)
    where = f" in line {line}" if line else ""
    return (
        f"not {encoding.upper()} text ({reason}{where}); export it as UTF-8, or set data.encoding to its "
        'encoding, such as "cp949" or "cp1252"'
    )


def _decodes(text: bytes, codec: str) -> bool:
    try:
        text.decode(codec)
    except UnicodeError:
        return False
    return True


def read_rows(path: Path, source: Source) -> Iterator[tuple[int, list[str]]]:
    """(line, cells as text) of every row of a CSV or Parquet file; the header is the first, at line 1.

    Raises:
        DataError: names the file and, where known, the line.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        yield from _read_parquet(path)
        return
    line = 1
    with text_file(path, source.encoding, newline="") as handle:
        reader = csv.reader(handle, strict=True, delimiter=source.separator)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}: line {line} cannot be read as CSV: {error}") from None


def _read_parquet(path: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            yield 1, names
            line = 2
            for batch in file.iter_batches():
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    yield line, ["" if cell is None else str(cell) for cell in cells]
                    line += 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (data.path)") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def table_rows(path: Path, source: Source) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header (blanks at the ends removed) and the rows under it, without empty cells beyond the header.

    Raises:
        DataError: as `read_rows`; or the file is empty.
    """
    rows = read_rows(path, source)
    try:
        _, header = next(rows)
    except StopIteration:
        raise DataError(f"{path}: the file is empty") from None
    return [name.strip() for name in header], ((line, _without_tail(cells, len(header))) for line, cells in rows)


def _without_tail(cells: list[str], width: int) -> list[str]:
    """Spreadsheets add separators beyond the last header; empty cells there mean nothing."""
    return cells[:width] if len(cells) > width and not any(cell.strip() for cell in cells[width:]) else cells
