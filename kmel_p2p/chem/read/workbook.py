"""Sheets of Excel workbooks as rows of text."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.columns import TableForm
from kmel_p2p.agreement.errors import ConfigError, DataError

SUFFIXES = (".xlsx", ".xlsm")


def is_workbook(path: Path) -> bool:
    """Whether a file is read as a workbook: by its name."""
    return path.suffix.lower() in SUFFIXES


def workbook_rows(path: Path, form: TableForm) -> Iterator[tuple[int, list[str]]]:
    """(row, cells as text) from the header on, empty rows included.

    Numbers are written in full, with the decimal sign of `form`; dates as 2024-05-31; formulas as what Excel computed.

    Raises:
        ConfigError: there is no such sheet, or several and none is named. DataError: the file cannot be read, or a
            formula has no computed value.
    """
    import openpyxl

    with _readable(path), path.open("rb") as computed, path.open("rb") as written:
        values = openpyxl.load_workbook(computed, read_only=True, data_only=True)
        formulas = openpyxl.load_workbook(written, read_only=True)
        name = _sheet(path, [sheet.title for sheet in values.worksheets], form.sheet)
        for book in (values, formulas):
            # Some programs write a wrong size of the sheet; openpyxl would leave out what lies beyond it.
            book[name].reset_dimensions()
        sheets = [book[name].iter_rows(values_only=True) for book in (values, formulas)]
        rows = enumerate(zip(*sheets, strict=True), start=1)
        for line, (cells, sources) in itertools.islice(rows, form.header_line - 1, None):
            _require_computed(path, name, line, cells, sources)
            yield line, [_text(cell, form.decimal) for cell in cells]


def counts_from_1904(path: Path) -> bool:
    """Whether the dates of a workbook are days since 1904-01-01; else they are days since 1899-12-30.

    Raises:
        DataError: the file cannot be read.
    """
    import openpyxl
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    with _readable(path), path.open("rb") as handle:
        return bool(openpyxl.load_workbook(handle, read_only=True).epoch == CALENDAR_MAC_1904)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of reading a workbook, with what to do about them."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ConfigError, DataError):
        raise
    # openpyxl lets errors of zipfile, its XML parser and its own descriptors through.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as an Excel workbook ({type(error).__name__}: {error}); open it in Excel or "
            "LibreOffice and save it as .xlsx again, or as CSV (UTF-8)"
        ) from error


def _sheet(path: Path, names: Sequence[str], wanted: str) -> str:
    listed = ", ".join(repr(name) for name in names)
    if wanted:
        if wanted not in names:
            raise ConfigError(f"{path}: has no sheet {wanted!r}; it has: {listed}")
        return wanted
    if len(names) != 1:
        raise ConfigError(f"{path}: has {len(names)} sheets; name one in data.sheet (of commands: --sheet): {listed}")
    return names[0]


def _require_computed(path: Path, sheet: str, line: int, cells: Sequence[Any], sources: Sequence[Any]) -> None:
    for at, (cell, source) in enumerate(zip(cells, sources, strict=True), start=1):
        if cell is None and isinstance(source, str) and source.startswith("="):
            raise DataError(
                f"{path}: sheet {sheet!r}, row {line}, column {at} has a formula whose value was never computed; open "
                "the workbook in Excel or LibreOffice and save it"
            )


def _text(cell: Any, decimal: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return repr(cell).replace(".", decimal)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)
