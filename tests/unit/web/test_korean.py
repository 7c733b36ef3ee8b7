"""What a peer says is Korean on Korean screens: every alarm, every reason to wait, every failed connection."""

from __future__ import annotations

import ast
import dataclasses
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement import in_words
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.cli import language
from kmel_p2p.core.ledger import reasons
from kmel_p2p.core.ledger.events import HarmSeen
from kmel_p2p.core.ledger.own_epochs import AGAIN, PARTED
from kmel_p2p.core.membership.health import MembershipCounters
from kmel_p2p.core.rounds.machine import HEARING
from kmel_p2p.core.rounds.twin_pause import TWIN_CHOSEN, TWIN_FOUND
from kmel_p2p.net.connection_failure import ConnectionFailure, explain
from kmel_p2p.site.config import parse_config
from kmel_p2p.site.observe.egress_summary import KINDS, OTHER
from kmel_p2p.site.observe.status import SitePhase, WaitStatus
from kmel_p2p.web import korean
from kmel_p2p.web.korean import catalogue, in_korean
from tests.support.scripts import script

HANGUL = re.compile(r"[가-힣]")
FIELDS = re.compile(r"\{\d\}")
SPECIAL = "\N{MIDDLE DOT}"
"""Stands for what is filled in: no text has it."""


@pytest.fixture(scope="module")
def source() -> Any:
    return script("source_texts.py")


def fields(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


def says_something(text: str) -> bool:
    """Whether a text has words of its own: fields and names of commands have none."""
    return re.search(r"[a-z]{3}", re.sub(r"\{\d\}", "", text)) is not None


def said_in_waits(source: Any) -> Iterator[str]:
    """What sites wait for or end with, where it stands in the call."""
    for file in source.sources():
        if "core" in file.path.parts:
            for name, call in file.calls():
                if name in ("Wait", "End") and call.args:
                    yield from file.texts(call.args[0])


def test_every_alarm_and_every_wait_is_in_the_catalogue_with_its_fields(source: Any) -> None:
    alarms = source.alarms()
    said = {*alarms, *(text for texts in alarms.values() for text in texts), *said_in_waits(source)}
    told = {source.numbered(text) for text in said}
    told = {text for text in told if says_something(text)}
    assert len(told) > 80
    assert {text for text in told if catalogue().gettext(text) == text} == set()
    for text in told:
        assert fields(catalogue().gettext(text)) == fields(text), text


def told_by_commands(source: Any) -> Iterator[str]:
    for file in source.sources():
        if "cli" in file.path.parts:
            for name, call in file.calls():
                if name == "tell" and call.args:
                    yield from file.texts(call.args[0])


def rows_of_the_status(source: Any) -> Iterator[str]:
    """What every averaging mode says of itself."""
    for file in source.sources():
        if "modes" in file.path.parts:
            for node in ast.walk(file.tree):
                if isinstance(node, ast.keyword) and node.arg == "summary":
                    yield from file.whole(node.value)


IN_THE_CODE = (
    "core/membership/machine.py", "core/sealed/levels.py", "delta/codec.py",
    "delta/layout.py", "learn/train/round.py", "learn/worker/trainer.py", "net/driver.py", "net/transport.py",
    "structures/cache.py", "trainer/contribution_book.py",
)  # fmt: skip
"""Where LocalError and ValueError are for those who call the code: no setting, file or order brings them about."""

ALWAYS = (
    "BadParameter", "BusyError", "ClickException", "ConfigError", "DataError", "DoesNotHoldError", "LostError",
    "NotAnsweringError", "NotRunningError", "RefusedError", "SiteFailedError", "UsageError",
)  # fmt: skip
"""Errors that an operator reads, wherever they are raised."""


def errors(*kinds: str) -> Callable[[Any], Iterator[str]]:
    """What errors of these kinds say."""

    def found(source: Any) -> Iterator[str]:
        for file in source.sources():
            for name, call in file.calls():
                if name in kinds and call.args and (name in ALWAYS or not str(file.path).endswith(IN_THE_CODE)):
                    yield from file.texts(call.args[0])

    return found


def told_in(*paths: str) -> Callable[[Any], Iterator[str]]:
    """Every text of these files that is a sentence or a part of one."""

    def found(source: Any) -> Iterator[str]:
        for file in source.sources():
            if str(file.path).endswith(paths):
                yield from (text for text in file.whole(file.tree) if len(text.split()) > 2)

    return found


def faults_in_words(source: Any) -> Iterator[str]:
    """What is wrong with a setting, and what is expected."""
    yield from in_words._BY_KIND.values()
    for file in source.sources():
        for name, call in file.calls():
            if name == "worded_pattern" and len(call.args) == 2:
                yield from (text for text in file.texts(call.args[1]) if " " in text)
        if str(file.path).endswith("agreement/in_words.py"):
            yield from (text for text in file.whole(file.tree) if text.startswith(("expected ", "this ")))
        if str(file.path).endswith("agreement/strict.py"):
            yield from (text for text in file.whole(file.tree) if "key" in text and " " in text)


NAMED = ("in data.columns.{1}", "low_limit = {1}", "{1} and {2}")
"""Settings as the file has them, and two names."""


def told_of_data(source: Any) -> Iterator[str]:
    """What `kmel-peer data check` says of a table, in lines and as advice."""
    for file in source.sources():
        if str(file.path).endswith(("report/findings.py", "overlooked.py", "report/check.py", "cli/data_view.py")):
            told = (text for text in file.whole(file.tree) if len(text.split()) > 2)
            yield from (text for text in told if source.numbered(text) not in NAMED)


def told_of_snapshots(source: Any) -> Iterator[str]:
    """What a site that needs a snapshot waits for, and why it takes none of what it was offered."""
    for file in source.sources():
        if str(file.path).endswith(("snapshot/attempt.py", "snapshot/fetcher.py", "snapshot/snapshot.py")):
            yield from (text for text in file.whole(file.tree) if len(text.split()) > 2)


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [
        (told_by_commands, 110),
        (rows_of_the_status, 25),
        (told_in("agreement/amendment_words.py"), 15),
        (told_in("rules/validity.py", "rules/entry_check.py"), 25),
        (errors("ConfigError"), 300),
        (errors("DataError"), 40),
        (errors("LocalError", "ValueError"), 150),
        (errors("BadParameter", "ClickException", "UsageError"), 35),
        (errors(*sorted({*ALWAYS} - {"BadParameter", "ClickException", "ConfigError", "DataError", "UsageError"})), 15),
        (faults_in_words, 20),
        (told_of_data, 45),
        (told_of_snapshots, 20),
    ],
    ids=[
        *("commands", "status", "amendments", "rules", "config", "data", "local", "usage", "other", "settings"),
        *("data check", "snapshots"),
    ],
)
def test_no_sentence_of_this_kind_is_english_alone(
    source: Any, kind: Callable[[Any], Iterator[str]], at_least: int
) -> None:
    told = {source.numbered(" ".join(text.split())) for text in kind(source)}
    told = {text for text in told if says_something(text)}
    assert len(told) >= at_least
    assert {text for text in told if catalogue().gettext(text) == text} == set()


def test_a_text_without_words_of_its_own_makes_no_half_of_a_sentence_korean() -> None:
    assert in_korean("3 of 40 (newest: 2.0 s ago)") == "40 중 3 (마지막: 2.0 s 전)"
    assert in_korean("3 of 40 (newest: never), 1 held for approval") == "40 중 3 (마지막: 없음), 승인 대기 1개"
    for text in ("a gift of north, who lives far away (he says so)", "one of them (who knows which one)", "one of 3"):
        assert in_korean(text) == text


def test_blanks_around_and_within_a_text_do_not_hide_it() -> None:
    assert in_korean("  signed by north, south; 2 of 3 needed sites have signed; missing among: east") == (
        "  서명한 기관: north, south. 필요한 3곳 중 2곳이 서명했습니다. 아직 서명하지 않은 기관: east"
    )
    assert in_korean("5 of other sites  (never)") == "다른 기관의 엔트리 5개 (없음)"
    assert in_korean("  ") == "  "
    # What stands before a colon belongs to no number behind it.
    assert in_korean("/srv/a.toml: 0 of 2 needed sites have signed; missing among: east") == (
        "/srv/a.toml: 필요한 2곳 중 0곳이 서명했습니다. 아직 서명하지 않은 기관: east"
    )
    assert in_korean("/srv/a.toml: of no kind that is known") == "/srv/a.toml: of no kind that is known"


def test_every_counter_of_the_membership_and_every_kind_of_what_left_is_korean() -> None:
    names = [field.name.replace("_", " ") for field in dataclasses.fields(MembershipCounters)]
    for text in (*names, *KINDS.values(), OTHER):
        assert HANGUL.search(in_korean(text)), text


def test_a_filled_in_text_is_found_with_its_fields_as_they_are(source: Any) -> None:
    for what, texts in source.alarms().items():
        for text in (what, *texts):
            korean = in_korean(text.replace("…", SPECIAL))
            if says_something(text):
                assert HANGUL.search(korean), text
            assert korean.count(SPECIAL) == text.count("…"), text


@pytest.mark.parametrize(
    "text",
    [
        *(value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str) and " " in value
          and name not in ("CATCHING_UP", "OWN_LOG")),
        *(phase.meaning for phase in SitePhase),
        AGAIN, PARTED, HEARING, TWIN_CHOSEN, TWIN_FOUND,
    ],
)  # fmt: skip
def test_reasons_that_are_told_as_they_stand_are_korean(text: str) -> None:
    assert HANGUL.search(in_korean(text))


def test_why_a_site_is_not_reached_is_korean() -> None:
    key = SiteKey(bytes(32))
    for failure in ConnectionFailure:
        text = explain(failure, key, "tcp://north.example:7700", key, 5_000_000, "why")
        korean = in_korean(text)
        assert HANGUL.search(korean), text
        assert "tcp://north.example:7700" in korean
        assert ("why" in korean) == ("why" in text)


def test_fields_within_fields_are_korean_and_names_stay() -> None:
    inner = "tcp://evil:1 does not speak CURVE: another program listens there; check the address"
    assert in_korean(f"site west: {inner}").startswith("기관 west: tcp://evil:1은(는) CURVE를 쓰지 않습니다")
    assert in_korean("3 entries ahead of the slowest training site") == (
        "학습 중인 가장 느린 기관보다 엔트리 3개만큼 앞서 있습니다"
    )
    for text in ("", "north", "tcp://{1}:{2} does not speak", "{1}", "site {1} is", "a" * 100_000):
        assert in_korean(text) == text


def test_errors_in_settings_are_korean_to_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    for text, told in (
        ('[site]\nname = "Bad Name"', "키 'site.name'의 값이 'Bad Name'입니다. 소문자, 숫자,"),
        ("[site]\nname = 3", "키 'site.name'의 값이 3입니다. 따옴표로 묶은 글 필요"),
        ("[site]\nstate_dir = 3", "키 'site.state_dir'의 값이 3입니다. 따옴표로 묶은 경로 필요"),
        ("[site]\nnmae = 'a'", "없는 키 'site.nmae'. 'name'입니까?"),
        ("[site", "TOML이 아닙니다: 표 선언의 끝에 ']'가 필요합니다(위치: 문서의 끝)"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(text, path)
        assert any(told in in_korean(line) for line in str(caught.value).splitlines()), caught.value


def test_a_text_that_was_made_to_cost_much_is_looked_up_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []

    def counted(text: str, *more: Any) -> tuple[str, int]:
        looked_up.append(text)
        return plain(text, *more)

    plain = korean._korean_of
    monkeypatch.setattr(korean, "_korean_of", counted)
    inner, outer = (
        "entry of {1} handed over by {2} was refused: {3}",
        "{1} names {2} versions of the models; there are: {3}",
    )
    text = FIELDS.sub(FIELDS.sub(FIELDS.sub("a b", outer), inner), FIELDS.sub(inner, outer))
    for most in (1000, 10):
        looked_up.clear()
        monkeypatch.setattr(korean, "LOOKED_UP", most)
        korean._looked_up(text, korean.DEPTH, {})
        assert (len(looked_up) > 20) if most == 1000 else (len(looked_up) == most)


def test_what_stands_in_braces_in_a_field_fills_nothing_in() -> None:
    assert in_korean("site {2} is not reachable") == "기관 {2}에 연결되지 않습니다"


def test_harm_is_told_in_korean() -> None:
    from types import SimpleNamespace

    from kmel_p2p.site.modes.harm_report import harm_text

    notes: Any = SimpleNamespace(name=lambda key: "south", endpoint=lambda place: "logd")
    event = HarmSeen(SiteKey(bytes(32)), 4, {0: 0.17}, (SiteKey(bytes(32)),), 3)
    korean = in_korean(harm_text(event, notes))
    assert korean.startswith("south의 엔트리 4부터 트렁크의 오차가")
    assert "기관 3곳 중 1곳이 그렇게 말합니다" in korean
    assert "kmel-peer block south" in korean
    # Seen by what its entries did as they came, and not seen here at all.
    for here, begin in ((True, "south의 엔트리는 4부터 들어올 때마다"), (False, "south의 엔트리는 4부터 해롭습니다")):
        assert in_korean(harm_text(dataclasses.replace(event, changes={}, here=here), notes)).startswith(begin)


def test_a_wait_is_told_in_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = WaitStatus("no other site has published yet", tuple(f"site{number}" for number in range(10)), 130.0, 600.0)
    assert wait.text.startswith("for site0 site1")
    assert wait.text.endswith("and 2 more since 2 min, at most 10 min more: no other site has published yet")
    monkeypatch.setattr(language, "korean", lambda: True)
    told = wait.beside("", language.told)
    assert told.endswith("외 2곳 대기 2 min째, 최대 10 min 더: 아직 다른 기관이 게시하지 않았습니다")
