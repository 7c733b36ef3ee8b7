"""Nothing that others write steers the terminal, and no cell runs in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.shown import cell, shown
from kmel_p2p.agreement.strict import build
from kmel_p2p.chem.dataset.measurements import RejectedRow, write_rejects
from kmel_p2p.cli.main import invoke
from kmel_p2p.cli.plain_streams import plain_streams
from kmel_p2p.cli.screen import Screen
from kmel_p2p.site.observe.logs import configure_logging

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r"


@given(st.text())
def test_shown_text_has_no_control_character_left_and_loses_nothing_else(text: str) -> None:
    plain = shown(text)
    assert not any(0x80 <= ord(c) < 0xA0 or (ord(c) < 32 and c not in "\r\n\t") for c in plain)
    assert plain.replace("\r\n", "").count("\r") == 0
    assert json.loads(f'"{json.dumps(text)[1:-1]}"') == text
    if text.isprintable():
        assert plain == text


@given(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_cell_begins_like_no_formula_unless_it_is_a_number(value: object) -> None:
    made = cell(value)
    if made.startswith(("=", "+", "-", "@", "\t", "\r")):
        float(made.removesuffix("%"))
    assert cell(made) == made or made.startswith("'")


def test_numbers_stay_numbers() -> None:
    for number in ("-5.2", "+1", "-1e-7", "3", "-.5", "-12%"):
        assert cell(number) == number
    for formula in ("=1+1", "-1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "-"):
        assert cell(formula) == "'" + shown(formula)
    assert cell(None) == ""


@pytest.mark.parametrize("bad", ["\x1b[2J", "log\nD", "log\u202eD", "=logD", "-logD", "", " logD"])
def test_a_charter_has_no_name_of_an_assay_endpoint_that_steers_or_runs(bad: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        build(AssayEndpoint, {"name": bad}, "charter")


def test_a_charter_has_no_unit_and_no_address_that_steers() -> None:
    with pytest.raises(ConfigError, match="unit"):
        build(AssayEndpoint, {"name": "logD", "unit": "\x1b[2J"}, "charter")
    with pytest.raises(ConfigError, match="addresses"):
        build(SiteRule, {"name": "a", "key": "ab" * 32, "addresses": ["tcp://\x1b[2J:1"]}, "charter")
    for name in ("logD", "pKa (basic)", "Löslichkeit", "5-HT", "溶解度"):
        assert build(AssayEndpoint, {"name": name, "unit": "µmol/L"}, "charter").name == name


def test_errors_and_output_of_commands_are_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["charter", "show", str(tmp_path / f"no{ESCAPES}.toml")]) == 3
    found = capsys.readouterr()
    assert "\x1b" not in found.err + found.out
    assert "\\u001b" in found.err


def test_tables_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=ESCAPES)
    table.add_column(ESCAPES)
    table.add_row(f"value {ESCAPES}")
    with plain_streams():
        screen = Screen(width=200)
        screen.print(table)
        screen.print(f"line {ESCAPES}")
    printed = capsys.readouterr().out
    assert "value" in printed
    assert not set(printed) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}


def test_console_log_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        configure_logging("info", "console")
        structlog.get_logger().warning("amendment refused", reason=ESCAPES)
        assert "\x1b]0;" not in capsys.readouterr().err
    finally:
        logging.getLogger().handlers = before


def test_rejects_of_a_hostile_table_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rejects.csv"
    write_rejects(path, [RejectedRow("data.csv", 3, "=A1", "=HYPERLINK(1)\x1b[2J", "-2+3", 1)])
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    assert rows[1] == ["data.csv", "3", "'=A1", "'=HYPERLINK(1)\\u001b[2J", "'-2+3", "1"]
