"""An invitation as a QR code: what is drawn is the code, it fits or says so, and a file is its owner's alone."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import click
import pytest
from rich.console import Console

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.invitation import ADDRESSES, Invitation
from kmel_p2p.cli import qr_code as module
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.qr_code import QUIET, QrWanted, half_blocks, picture, qr_code
from kmel_p2p.cli.screen import Screen
from tests.support.cli_harness import Run

LIGHT = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}


def invitation(addresses: int = 1) -> str:
    who = Identity(b"n" * 32)
    where = tuple(f"tcp://peer{number}.pharma.example:7700" for number in range(addresses))
    made = Invitation(
        federation="logd-2026", site="north", key=who.key.hex(), addresses=where, secret="ab" * 16, expires=2**31
    )
    return made.render(who)


@pytest.mark.parametrize("text", [invitation(), invitation(ADDRESSES)])
def test_what_is_drawn_is_the_code_with_light_around_it(text: str) -> None:
    rows = half_blocks(text)
    drawn = [[LIGHT[letter][half] for letter in row] for row in rows for half in (0, 1)]
    code = qr_code(text)
    inner = [[not light for light in row[QUIET:-QUIET]] for row in drawn[QUIET : QUIET + len(code.matrix)]]
    assert inner == [[bool(dark) for dark in row] for row in code.matrix]
    around = [*drawn[:QUIET], *drawn[QUIET + len(inner) :], *(row[:QUIET] + row[-QUIET:] for row in drawn)]
    assert all(all(row) for row in around)
    assert len({len(row) for row in rows}) == 1


def test_an_ordinary_invitation_takes_no_more_than_80_columns_and_40_lines() -> None:
    rows = half_blocks(invitation())
    assert len(rows[0]) <= 80
    assert len(rows) <= 40


def terminal(monkeypatch: pytest.MonkeyPatch, width: int, height: int) -> None:
    monkeypatch.setattr(Screen, "is_terminal", property(lambda self: True))
    monkeypatch.setattr(Console, "size", SimpleNamespace(width=width, height=height))
    monkeypatch.setattr(Console, "width", width)
    monkeypatch.setattr(Console, "height", height)


def test_a_terminal_that_is_too_small_is_told_how_large_it_has_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = invitation()
    wide, high = len(half_blocks(text)[0]), len(half_blocks(text)) + 1
    terminal(monkeypatch, 80, 24)
    QrWanted(True, None).show(text)
    told = capsys.readouterr().out
    assert f"takes {wide} columns and {high} lines, and this terminal has 80 and 24: enlarge it." in told
    assert "--qr-file invitation.svg" in told
    assert "▀" not in told
    terminal(monkeypatch, wide, high)
    QrWanted(True, None).show(text)
    assert half_blocks(text)[3] in capsys.readouterr().out


def test_without_the_letters_nothing_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "sys", SimpleNamespace(stdout=SimpleNamespace(encoding="ascii")))
    QrWanted(True, None).show(invitation())
    assert capsys.readouterr().out.startswith("This terminal has no letters to draw a QR code with. --qr-file")


def test_files_hold_the_code_and_are_their_owners_alone(tmp_path: Path) -> None:
    text, path = invitation(), tmp_path / "invitation.svg"
    QrWanted(False, path).show(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
    assert picture(text, ".png").startswith(b"\x89PNG")
    with pytest.raises(click.UsageError, match="exists already"):
        QrWanted(False, path)
    (tmp_path / "link.svg").symlink_to(tmp_path / "gone")
    with pytest.raises(click.UsageError, match="exists already"):
        QrWanted(False, tmp_path / "link.svg")


@pytest.mark.parametrize(("name", "text"), [("a.jpg", "as .svg or .png"), ("a", "as .svg or .png"),
                                            ("gone/a.svg", "no folder")])  # fmt: skip
def test_a_file_that_cannot_be_one_is_refused_before_anybody_is_invited(
    run: Run, tmp_path: Path, name: str, text: str
) -> None:
    done = run("invite", "--directory", tmp_path, "--federation", "demo", "--qr-file", tmp_path / name)
    assert done.code == ExitCode.USAGE
    assert text in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []
