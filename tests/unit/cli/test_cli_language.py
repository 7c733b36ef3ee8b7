"""Korean where the environment says so: the catalogue is compiled, says what the program says, and English stays."""

from __future__ import annotations

import gettext
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kmel_p2p.cli.language import CATALOGUES, DOMAIN
from kmel_p2p.cli.main import COMMANDS, cli
from kmel_p2p.cli.status_view import HEADINGS
from kmel_p2p.site.observe.status import SitePhase
from tests.support.scripts import script

ROOT = Path(__file__).parents[3]
PO = CATALOGUES / "ko" / "LC_MESSAGES" / f"{DOMAIN}.po"
OF_CLICK = Path(click.__file__).parent
HANGUL = re.compile(r"[가-힣]")


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    return dict(script("catalogue").entries(PO.read_text("utf-8")))


def run(*arguments: str, **language: str) -> str:
    """What a command of its own process prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-m", "kmel_p2p.cli.main", *arguments],
        env={**environment, "PYTHONUTF8": "1", **language},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_the_compiled_catalogue_is_what_its_source_says(words: dict[str, str]) -> None:
    compiler = script("catalogue")
    assert PO.with_suffix(".mo").read_bytes() == compiler.compiled(words)
    read = gettext.translation(DOMAIN, CATALOGUES, languages=["ko"])
    assert all(read.gettext(english) == korean for english, korean in words.items() if english)


def test_a_translation_keeps_what_is_filled_in_and_is_korean(words: dict[str, str]) -> None:
    field = re.compile(r"\{\w+(?:![rs])?\}|`[^`]+`|--[a-z-]+")
    for english, korean in words.items():
        assert set(field.findall(english)) - set(field.findall(korean)) == set(), english
        assert not english or HANGUL.search(korean), english


def texts_of(command: click.Command) -> Iterator[str]:
    yield from (" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter.help or ""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from texts_of(inner)


def test_every_text_of_the_catalogue_is_one_that_the_program_says(words: dict[str, str]) -> None:
    context = click.Context(cli, info_name="kmel-peer")
    said = {line for _, line in COMMANDS.values()} | {phase.value for phase in SitePhase} | set(HEADINGS)
    said |= set(texts_of(cli))
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        said |= set(texts_of(command))
    source = "".join(path.read_text("utf-8") for path in (ROOT / "kmel_p2p").rglob("*.py"))
    of_click = "".join(path.read_text("utf-8") for path in OF_CLICK.glob("*.py"))
    stale = [text for text in words if text and text not in said and f'"{text}"' not in source + of_click]
    assert stale == []


def test_every_command_says_in_korean_what_it_does(words: dict[str, str]) -> None:
    assert [line for _, line in COMMANDS.values() if line not in words] == []
    told = run("--help", LANG="ko_KR.UTF-8")
    assert told.startswith("사용법: kmel-peer")
    assert all(words[line][:20] in told for _, line in COMMANDS.values())


def test_help_and_errors_are_korean_where_the_environment_says_so_and_english_elsewhere() -> None:
    assert "초대장 TEXT를 보낸 연합에 합류합니다." in run("join", "--help", LANG="ko_KR.UTF-8")
    assert "확인 번호" in run("invite", "approve", "--help", LANGUAGE="ko:en", LANG="C.UTF-8")
    assert "없는 명령입니다: 'joi'." in run("joi", LC_ALL="ko_KR.UTF-8")
    for language in ({}, {"LANG": "C.UTF-8"}, {"LANG": "de_DE.UTF-8"}, {"LC_ALL": "C", "LANG": "ko_KR.UTF-8"}):
        told = run("join", "--help", **language)
        assert told.startswith("Usage: kmel-peer join")
        assert not HANGUL.search(told)


def test_output_for_programs_is_english_everywhere(tmp_path: Path) -> None:
    told = run("doctor", "--json", "--config", str(tmp_path / "site.toml"), LANG="ko_KR.UTF-8")
    assert '"settings"' in told
    assert not HANGUL.search(told)
