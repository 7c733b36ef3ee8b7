"""Sheets of Excel workbooks: read as the same table saved as CSV would be, or refused with what to do."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import openpyxl
import pytest
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH

from kmel_p2p.agreement.columns import Column, Source, TableForm, TimeSection
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.read.cells import CellError, read_date
from kmel_p2p.chem.read.table_file import read_rows
from kmel_p2p.chem.read.workbook import counts_from_1904

LOGD = AssayEndpoint(name="logd")


def write(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def rows(path: Path, **form: Any) -> list[tuple[int, list[str]]]:
    return list(read_rows(path, TableForm(**form)))


def test_cells_are_read_as_text_with_the_row_they_are_in(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 5, 31), datetime.datetime(2024, 5, 31, 8, 30)
    path = write(
        tmp_path / "d.xlsx", data=[["smiles", "D"], ["CCO", 1.5], [], ["CCN", -3], [day, moment], [True, "<2"]]
    )
    assert rows(path) == [
        (1, ["smiles", "D"]), (2, ["CCO", "1.5"]), (4, ["CCN", "-3"]), (5, ["2024-05-31", "2024-05-31T08:30:00"]),
        (6, ["true", "<2"]),
    ]  # fmt: skip
    assert rows(path, decimal=",", separator=";")[1] == (2, ["CCO", "1,5"])


def test_a_sheet_is_named_where_there_are_several_and_titles_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xlsx", notes=[["by hand"]], data=[["A title"], [], ["smiles", "D"], ["CCO", 1]])
    with pytest.raises(ConfigError, match=r"has 2 sheets; name one in data\.sheet .*'notes', 'data'"):
        rows(path)
    with pytest.raises(ConfigError, match=r"no sheet 'Data'; it has: 'notes', 'data'"):
        rows(path, sheet="Data")
    assert rows(path, sheet="data", header_line=3) == [(3, ["smiles", "D"]), (4, ["CCO", "1"])]
    (tmp_path / "d.csv").write_text("smiles,D\n")
    with pytest.raises(ConfigError, match="no Excel workbook"):
        rows(tmp_path / "d.csv", sheet="data")


def test_a_workbook_of_measurements_is_ingested_with_its_dates(tmp_path: Path) -> None:
    days = [datetime.date(2023, 1, 1), datetime.date(2024, 6, 1)]
    path = write(tmp_path / "d.xlsx", data=[["smiles", "D", "when"], ["CCO", 1.5, days[0]], ["CCN", "<2", days[1]]])
    columns, time = {"logd": Column(column="D")}, TimeSection(column="when", test_from="2024")
    got = ingest(Source(path=path, columns=columns, time=time), (LOGD,), FeatureRule(bits=64))
    assert got.labels[:, 0].tolist() == [1.5, 2]
    assert got.relations[:, 0].tolist() == [0, -1]
    assert got.late.tolist() == [False, True]


@pytest.mark.parametrize(("epoch", "days"), [(WINDOWS_EPOCH, 45443), (MAC_EPOCH, 43981)])
def test_days_count_from_where_the_workbook_says(tmp_path: Path, epoch: datetime.datetime, days: int) -> None:
    day = datetime.date(2024, 5, 31)
    book = openpyxl.Workbook()
    book.epoch = epoch
    for row in (["smiles", "D", "when", "days"], ["CCO", 1.5, day, days], ["CCN", 2, day, days - 1]):
        book.active.append(row)
    book.save(tmp_path / "d.xlsx")
    assert rows(tmp_path / "d.xlsx")[1] == (2, ["CCO", "1.5", "2024-05-31", str(days)])
    assert counts_from_1904(tmp_path / "d.xlsx") == (epoch == MAC_EPOCH)
    columns, time = {"logd": Column(column="D")}, TimeSection(column="days", test_from="2024-05-31", format="excel")
    got = ingest(Source(path=tmp_path / "d.xlsx", columns=columns, time=time), (LOGD,), FeatureRule(bits=64))
    assert got.late.tolist() == [True, False], "not four years and a day off"


def test_days_of_another_workbook_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("smiles,D,days\nCCO,1.5,43981\nCCN,2,43980\n")
    columns, time = (
        {"logd": Column(column="D")},
        TimeSection(column="days", test_from="2024-05-31", format="excel-1904"),
    )
    got = ingest(Source(path=tmp_path / "d.csv", columns=columns, time=time), (LOGD,), FeatureRule(bits=64))
    assert got.late.tolist() == [True, False]
    assert read_date("43981", "excel-1904") == datetime.date(2024, 5, 31)
    with pytest.raises(CellError, match=r"five digits, as data\.time\.format = 'excel-1904'"):
        read_date("2024-05-31", "excel-1904")


def test_what_lies_beyond_a_wrongly_declared_size_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xlsx", data=[["smiles", "D"], ["CCO", 1]])
    small = tmp_path / "small.xlsx"
    with ZipFile(path) as old, ZipFile(small, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:B2"', b'<dimension ref="A1:A1"'))
    assert rows(small) == [(1, ["smiles", "D"]), (2, ["CCO", "1"])]


def test_a_formula_without_a_value_is_never_taken_for_an_empty_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "d.xlsx", data=[["smiles", "D"], ["CCO", "=1+1"]])
    with pytest.raises(DataError, match="row 2, column 2 has a formula whose value was never computed"):
        rows(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\xd0\xcf\x11\xe0"])
def test_a_file_that_is_no_workbook_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.xlsx"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.xlsx: cannot be read as an Excel workbook"):
        rows(path)
    with pytest.raises(DataError, match="no such file"):
        rows(tmp_path / "none.xlsx")
