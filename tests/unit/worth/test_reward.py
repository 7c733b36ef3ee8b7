"""Shares from statements: whole, the same everywhere, moved neither by what a site says of itself nor by a few."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.averaging import SealedRule
from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.agreement.notice import (
    MAX_BODY_BYTES,
    MAX_STATED,
    PREFIX,
    ContributionStatement,
    Need,
    decode_content,
    encode_content,
)
from kmel_p2p.agreement.reward import WHOLE, RewardRule, reward_shares
from kmel_p2p.core.board.notice import Notice, sign
from kmel_p2p.core.rounds import Stretch, StretchPart
from kmel_p2p.learn.worker.session import EndpointWorth
from kmel_p2p.site.contribution_statement import FEWEST_STRETCHES, stated
from kmel_p2p.site.reward_report import body_digest, checked_report, report_body, signed_report
from kmel_p2p.site.trainer.contribution_book import ContributionBook

SITES = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 6)), key=lambda each: each.key))
KEYS = tuple(each.key for each in SITES)
RULE = RewardRule(shares="stated", equal_percent=40)


def a_statement(percents: Mapping[SiteKey, int], copiers: Sequence[SiteKey] = ()) -> ContributionStatement:
    return ContributionStatement(
        measure="second half",
        entries=100,
        given=tuple(sorted((key.hex()[:PREFIX], percent) for key, percent in percents.items() if percent)),
        copiers=tuple(sorted(key.hex()[:PREFIX] for key in copiers)),
    )


percents = st.lists(st.integers(0, 20), min_size=5, max_size=5)
opinions = st.dictionaries(st.sampled_from(KEYS), percents, min_size=1)


def made(opinions: Mapping[SiteKey, Sequence[int]]) -> dict[SiteKey, ContributionStatement]:
    return {key: a_statement(dict(zip(KEYS, row, strict=True))) for key, row in opinions.items()}


@given(opinions, st.integers(0, 100))
def test_shares_add_up_and_nobody_falls_below_the_equal_part(rows: dict[SiteKey, list[int]], equal: int) -> None:
    shares = reward_shares(RewardRule(shares="stated", equal_percent=equal), KEYS, made(rows))
    assert sum(shares.values()) == WHOLE
    assert min(shares.values()) >= WHOLE * equal // 100 // len(KEYS)


@given(opinions, percents)
def test_what_a_site_says_of_itself_does_not_count(rows: dict[SiteKey, list[int]], other: list[int]) -> None:
    changed = {
        key: [other[at] if KEYS[at] == key else value for at, value in enumerate(row)] for key, row in rows.items()
    }
    assert reward_shares(RULE, KEYS, made(rows)) == reward_shares(RULE, KEYS, made(changed))


@given(percents, percents, st.sampled_from(KEYS))
def test_one_liar_of_five_moves_no_score_beyond_what_honest_sites_state(
    honest: list[int], lies: list[int], liar: SiteKey
) -> None:
    alike = reward_shares(RULE, KEYS, made(dict.fromkeys(KEYS, honest)))
    assert alike == reward_shares(RULE, KEYS, made({key: lies if key == liar else honest for key in KEYS}))


def test_a_copier_gets_the_equal_part_once_most_of_the_others_say_so() -> None:
    row = dict.fromkeys(KEYS, 20)
    few = {key: a_statement(row, KEYS[4:] if key == KEYS[0] else ()) for key in KEYS}
    most = {key: a_statement(row, KEYS[4:] if key in KEYS[:3] else ()) for key in KEYS}
    assert set(reward_shares(RULE, KEYS, few).values()) == {2000}
    shares = reward_shares(RULE, KEYS, most)
    assert [shares[key] for key in KEYS] == [2300, 2300, 2300, 2300, 800]


def test_nobody_is_told_apart_where_nothing_is_stated() -> None:
    assert reward_shares(RULE, KEYS, {}) == dict.fromkeys(KEYS, 2000)
    assert reward_shares(RULE, KEYS[:3], {}) == dict(zip(KEYS, (3334, 3333, 3333), strict=False))


@settings(max_examples=50)
@given(st.integers(1, MAX_STATED), st.integers(0, MAX_STATED))
def test_a_statement_has_one_spelling_and_fits(named: int, copiers: int) -> None:
    names = [f"{number:016x}" for number in range(MAX_STATED)]
    content = ContributionStatement(
        measure="whole", entries=2**40, given=tuple((name, 1) for name in names[:named]),
        copiers=tuple(names[: min(copiers, 24)]),
    )  # fmt: skip
    body = encode_content(content)
    assert len(body) <= MAX_BODY_BYTES
    assert decode_content(body) == content


@pytest.mark.parametrize(
    "given_parts", [(("0" * 16, 60), ("1" * 16, 41)), (("1" * 16, 1), ("0" * 16, 1)), (("0" * 16, 1), ("0" * 16, 1))]
)
def test_a_statement_that_does_not_add_up_is_no_notice(given_parts: tuple[tuple[str, int], ...]) -> None:
    good = ContributionStatement(measure="whole", entries=1, given=())
    forged = good.model_copy(update={"given": given_parts})
    with pytest.raises(WireError):
        decode_content(encode_content(forged))


# ---- what a site states -------------------------------------------------------------------------------------------


def a_charter(rule: RewardRule = RULE) -> Charter:
    sites = tuple(SiteRule(name=f"site{at}", key=key.hex()) for at, key in enumerate(KEYS))
    endpoints = (AssayEndpoint(name="logD"), AssayEndpoint(name="logS"))
    return Charter(federation="demo", sites=sites, assay_endpoints=endpoints, reward=rule)


def a_book(stretches: int, worth: Sequence[float], copies: int = 0) -> ContributionBook:
    """Sites 0 to 2 with the same worth for both assay endpoints in every stretch."""
    book, nothing = ContributionBook(), (np.zeros(0, np.int64), np.zeros(0, np.float32))
    for at in range(stretches):
        parts = tuple(
            StretchPart(key, 10 * at + 1, 10 * at + 10, 5.0, 1000, copies if key == KEYS[2] else 0, 0, *nothing)
            for key in KEYS[:3]
        )
        found = EndpointWorth(60, 0.5, tuple(tuple(worth) for _ in range(6)))
        stretch = Stretch(dict.fromkeys(KEYS[:3], 10 * at + 10), np.zeros(1, np.float32), parts)
        book.add(stretch, {0: found, 1: found})
    return book


def test_a_site_states_the_parts_of_the_others_and_nothing_of_itself() -> None:
    content = stated(a_charter(), KEYS[0], a_book(FEWEST_STRETCHES, (9.0, 0.3, 0.1)))
    assert dict(content.given) == {KEYS[1].hex()[:PREFIX]: 75, KEYS[2].hex()[:PREFIX]: 25}
    assert content.entries == 30 * FEWEST_STRETCHES
    assert content.copiers == ()


def test_harm_counts_as_nothing_and_copiers_are_named() -> None:
    content = stated(a_charter(), KEYS[0], a_book(FEWEST_STRETCHES, (1.0, 0.3, -0.1), copies=3))
    assert content.given == ((KEYS[1].hex()[:PREFIX], 100),)
    assert content.copiers == (KEYS[2].hex()[:PREFIX],)


def test_too_little_is_not_stated() -> None:
    with pytest.raises(LocalError, match="4 are needed"):
        stated(a_charter(), KEYS[0], a_book(FEWEST_STRETCHES - 1, (1.0, 0.3, 0.1)))


# ---- the report ---------------------------------------------------------------------------------------------------


def on_board(charter: Charter, percents: Sequence[int], version: int = 1) -> list[Notice]:
    body = encode_content(a_statement(dict(zip(KEYS, percents, strict=True))))
    need = encode_content(Need(assay_endpoint="logD"))
    return [
        each
        for identity in SITES[:3]
        for each in (
            sign(identity, charter.id, 0, version, 20_000, need),
            sign(identity, charter.id, 1, version, 20_000, body),
        )
    ]


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, Charter, Constitution]:
    charter = a_charter()
    constitution = Constitution(charter)
    body = report_body(charter, constitution, on_board(charter, (40, 30, 20, 10, 0)))
    path = tmp_path / "shares.json"
    path.write_text(json.dumps(signed_report(body, SITES[1])))
    return path, charter, constitution


def test_who_has_the_same_statements_makes_the_same_report(report: tuple[Path, Charter, Constitution]) -> None:
    path, charter, constitution = report
    notices = on_board(charter, (40, 30, 20, 10, 0))
    older = on_board(charter, (0, 0, 0, 0, 9), version=0)
    again = report_body(charter, constitution, [*reversed(notices), *older])
    checked = checked_report(path, charter, constitution)
    assert body_digest(again) == body_digest({name: checked[name] for name in again})
    assert checked["signer"] == KEYS[1].hex()
    assert list(checked["shares"].values()) == [3200, 2600, 2000, 1400, 800]


def damaged(report: dict[str, Any], how: str) -> dict[str, Any]:
    first = next(iter(report["statements"]))
    match how:
        case "shares":
            report["shares"][KEYS[1].hex()] += 1
        case "rule":
            report["rule"]["equal_percent"] = 0
        case "more":
            report["paid"] = True
        case "signature":
            report["signature"] = "00" * 64
        case "signer":
            report["signer"] = Identity(bytes(32)).key.hex()
        case "statement":
            report["statements"][first] = report["statements"][KEYS[2].hex()]
        case "bytes":
            report["statements"][first] = "zz"
        case "charter":
            report["charter"] = "00" * 32
        case "amendment":
            report["amendment"] = [[]]
    return report


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("shares", "shares do not follow"), ("rule", "rule do not follow"), ("more", "keys do not follow"),
        ("signature", "not that of site1"), ("signer", "nobody on the roster"),
        ("statement", "not signed by that site"), ("bytes", "cannot be read"),
        ("charter", "another charter"), ("amendment", "another charter"),
    ],
)  # fmt: skip
def test_a_report_that_was_changed_is_refused(report: tuple[Path, Charter, Constitution], how: str, text: str) -> None:
    path, charter, constitution = report
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), how)))
    with pytest.raises(LocalError, match=text):
        checked_report(path, charter, constitution)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"statements": {"\\ud800": 1e999}}', "\x00\xff"])
def test_what_is_no_report_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "shares.json"
    path.write_text(text)
    charter = a_charter()
    with pytest.raises(LocalError, match=r"shares\.json"):
        checked_report(path, charter, Constitution(charter))


def test_a_charter_without_shares_keeps_its_id_and_has_no_report() -> None:
    charter = a_charter(RewardRule())
    assert "reward" not in charter.model_dump()
    with pytest.raises(LocalError, match=r"\[reward\]"):
        report_body(charter, Constitution(charter), ())
    with pytest.raises(LocalError, match="declare"):
        report_body(a_charter(), Constitution(a_charter()), ())


def test_shares_go_with_what_can_be_measured_alone() -> None:
    with pytest.raises(ValueError, match="remove \\[reward\\]"):
        a_charter().changed(averaging=SealedRule())
    with pytest.raises(ValueError, match="no effect"):
        RewardRule(equal_percent=10)
