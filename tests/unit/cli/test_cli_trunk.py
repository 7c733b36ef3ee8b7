"""`kmel-peer trunk`: which trunks there are, what they are drafted as, and what cannot be checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
from tests.support.cli_harness import Run
from tests.support.trunk_packages import write_package


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check", "nowhere-trunk"), ExitCode.CONFIG, "not installed: pip install nowhere-trunk"),
        (("check", "pytest"), ExitCode.CONFIG, "several trunks or none: none"),
        (("draft", "listed_trunk", "--hidden", "wide"), ExitCode.USAGE, "expected widths"),
        (("draft", "listed_trunk", "--option", "mode"), ExitCode.CONFIG, "expected KEY=VALUE"),
    ],
)
def test_what_cannot_be_checked_is_told(
    run: Run, folder: Path, arguments: tuple[str, ...], code: ExitCode, message: str
) -> None:
    write_package(folder, "listed_trunk")
    ended = run("trunk", *arguments)
    assert ended.code == code
    assert message in ended.err


def test_trunks_are_listed_and_drafted(run: Run, folder: Path) -> None:
    write_package(folder, "shown_trunk")
    assert "shown_trunk          package shown_trunk" in run("trunk", "list").out
    drafted = run("trunk", "draft", "shown_trunk", "--hidden", "8", "--seed", "5")
    assert drafted.code == ExitCode.OK
    assert 'name = "shown_trunk"' in drafted.out
    assert '"layer.weight 8x2259 0 ' in drafted.out
    assert "seed = 5" in drafted.out
