"""Korean where the environment says so: the catalogue is compiled, says what the program says, and English stays."""

from __future__ import annotations

import ast
import dataclasses
import gettext
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from rich.cells import cell_len

from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.chem.dataset.manifest import reason_kind
from kmel_p2p.cli.charter_comments import commented, explanations
from kmel_p2p.cli.doctor import _show
from kmel_p2p.cli.main import COMMANDS, cli
from kmel_p2p.cli.status_view import HEADINGS
from kmel_p2p.core.membership.health import MembershipCounters
from kmel_p2p.site.doctor.findings import Area, problem
from kmel_p2p.site.observe.status import SitePhase
from kmel_p2p.web.korean import CATALOGUES, DOMAIN, in_korean
from tests.support.scripts import script
from tests.testbed.peers.site import make_world

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
        timeout=300,
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
    said |= {counter.name.replace("_", " ") for counter in dataclasses.fields(MembershipCounters)}
    said |= set(texts_of(cli))
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        said |= set(texts_of(command))
    source = script("source_texts.py")
    for path in ((ROOT / "kmel_p2p").rglob("*.py"), OF_CLICK.glob("*.py")):
        said |= {text for each in path for text in literals(ast.parse(each.read_text("utf-8")))}
    # What libraries say comes filled in where it is in the plural, or with what was found.
    for file in map(source.Texts, (*OF_CLICK.glob("*.py"), *Path(tomllib.__file__).parent.glob("*.py"))):
        said |= {source.numbered(text) for text in file.whole(file.tree)}
    templates = {source.numbered(text) for text in source.texts_of_the_package()}
    said |= (
        templates | {reason_kind(text.replace("{1}", "7", 1)) for text in templates} | set(map(reason_kind, templates))
    )
    said |= {text for model in models_of(Charter) for text in explanations(model).values()}
    assert [text for text in words if text and text not in said] == []


def models_of(model: type[StrictModel]) -> set[type[StrictModel]]:
    """A model and all that it is made from."""
    found, waiting = set[type[StrictModel]](), [model]
    while waiting:
        found.add(now := waiting.pop())
        kinds: list[Any] = [field.annotation for field in now.model_fields.values()]
        while kinds:
            kind = kinds.pop()
            if isinstance(kind, type) and issubclass(kind, StrictModel) and kind not in found:
                waiting.append(kind)
            kinds += get_args(kind)
    return found


def test_every_setting_of_a_charter_is_explained_in_korean(words: dict[str, str]) -> None:
    explained = {
        text for model in models_of(Charter) for name, text in explanations(model).items() if name in model.model_fields
    }
    assert len(explained) > 70
    assert explained - words.keys() == set()


def test_a_korean_charter_says_the_same_as_an_english_one(monkeypatch: pytest.MonkeyPatch) -> None:
    charter = make_world("ledger", 2, 0, 10).charter
    english = commented(CharterDocument(charter=charter))
    monkeypatch.setattr("kmel_p2p.cli.language.korean", lambda: True)
    korean = commented(CharterDocument(charter=charter))
    assert CharterDocument.parse(korean, "ko") == CharterDocument.parse(english, "en")
    comments = [line for line in korean.splitlines() if line.startswith("#")]
    assert len(comments) > 40
    assert all(cell_len(line) <= 100 for line in comments)
    assert HANGUL.search(comments[0])
    assert [line for line in korean.splitlines() if not line.startswith("#")] == [
        line for line in english.splitlines() if not line.startswith("#")
    ]


def test_why_rows_are_refused_is_korean_on_the_screen() -> None:
    for text in (
        "refused: 3 for: not a number (first: line 7 D: abc)",
        "refused: 3 for: an unspecified atom (* or R): a family of compounds, not one (first: line 7 SMILES: *CC)",
        "1,200 measurements found = 900 used + 200 rejected + 100 aggregated",
        "SMILES is no valid structure: Explicit valence for atom # 1 C, 5, is greater than permitted",
    ):
        korean = in_korean(text)
        assert HANGUL.search(korean), text
        assert not re.search(r"\b(refused|rows|first|measurements|atom \()", korean), korean


def literals(tree: ast.AST) -> Iterator[str]:
    """The texts of a program that stand there whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_doctor_speaks_korean_whatever_it_finds(words: dict[str, str]) -> None:
    found = set()
    for path in (ROOT / "kmel_p2p" / "site" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="good" | "note" | "warning" | "problem"), args=[_, *given]):
                    found |= {text for each in given for text in spoken(each)}
                case ast.Assign(targets=[target], value=value) if {"says", "advice"} & set(names(target)):
                    found |= set(spoken(value))
    assert len(found) > 80
    # What an error says goes through as it is.
    assert {text for text in found - words.keys() if re.sub(r"\{\w+\}", "", text)} == set()


def spoken(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may be, without those that are only a part of it."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from (*spoken(one), *spoken(other))
        case ast.Tuple(elts=several):
            yield from (text for each in several for text in spoken(each))


def names(target: ast.AST) -> Iterator[str]:
    """The variables that an assignment gives a value to."""
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def test_every_command_says_in_korean_what_it_does(words: dict[str, str]) -> None:
    context = click.Context(cli, info_name="kmel-peer")
    commands = [cli.get_command(context, name) for name in COMMANDS]
    helped = {text for command in commands if command is not None for text in texts_of(command)}
    assert len(helped) > 250
    assert helped - words.keys() == set()
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


def test_korean_help_keeps_to_the_width_of_the_screen() -> None:
    for arguments in ([], ["held", "reject"], ["charter", "new"], ["ledger", "verify"]):
        told = run(*arguments, "--help", LANG="ko_KR.UTF-8", COLUMNS="80")
        assert [line for line in told.splitlines() if cell_len(line) > 80] == []


def test_output_for_programs_is_english_everywhere(tmp_path: Path) -> None:
    told = run("doctor", "--json", "--config", str(tmp_path / "site.toml"), LANG="ko_KR.UTF-8")
    assert '"settings"' in told
    assert not HANGUL.search(told)


def test_each_line_of_what_is_wrong_stands_in_its_column_and_in_korean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmel_p2p.cli.language.korean", lambda: True)
    finding = problem(Area.FILES, "settings", "{error}", "correct {path}, then ask again", path="a.toml",
                      error="a.toml: key 'data' is missing\na.toml: key 'log' is missing")  # fmt: skip
    _show(finding)
    first, second, todo = capsys.readouterr().out.splitlines()
    assert cell_len(first[: first.index("a.toml")]) == second.index("a.toml") == todo.index("->")
    assert second.endswith("키 'log'이(가) 없습니다")
