"""What a site states of its payoff follows from its comparison, and what all state adds up alike everywhere."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.notice import PayoffStatement, decode_content, encode_content
from kmel_p2p.cli.board import _about
from kmel_p2p.core.board.board import Board, Today
from kmel_p2p.core.board.notice import MAX_SLOTS, Notice, sign
from kmel_p2p.site.config import BoardSection
from kmel_p2p.site.notice_board import DAYS, NoticeBoard
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.federation_payoff import TEXTS, FederationPayoff, federation_payoff, payoff_in_words
from kmel_p2p.site.page.words import WORDS
from kmel_p2p.site.payoff_statement import EVERY_S, FEWEST_HELD_OUT, PayoffStating, stated_payoff
from kmel_p2p.site.site import Site
from tests.support.page_sample import comparison
from tests.testbed.peers.site import make_site, make_world

WORLD = make_world("ledger", 4, 0, 10)
CONSTITUTION = Constitution(WORLD.charter)
NAMES = ["logd", "solubility", "herg"]
ENDPOINTS = AssayEndpoints.first(tuple(AssayEndpoint(name=name) for name in NAMES))


def compared(own: str, difference: list[float] | None, predicts: float, stack: float, held_out: int = 80) -> Any:
    """The comparison of one assay endpoint, at which best local errs by 1."""
    stacked = {"own": own, "difference": difference, "held_out": held_out, "best_local": {"test": 1.0},
               "stack": {"test": stack}}  # fmt: skip
    return {"endpoints": [{"name": "logd", "train": 200, "stacked": stacked, "predicted": {"test": predicts}}]}


@pytest.mark.parametrize(
    ("result", "letter"),
    [
        (compared("stack", [-0.1, 0.01], 0.97, 0.97), "1"),
        (compared("stack", [-0.1, 0.01], 0.89, 0.89), "3"),
        (compared("stack", [-0.1, 0.01], 0.5, 0.5), "4"),
        (compared("stack", [-0.1, 0.01], 1.2, 1.2), "1"),
        (compared("stack", [-0.1, 0.08], 0.5, 0.5), "0"),
        (compared("best_local", [0.1, 0.08], 1.0, 1.5), "0"),
        (compared("best_local", [0.1, 0.01], 1.0, 1.07), "b"),
        (compared("best_local", [0.1, 0.01], 1.0, 2.0), "d"),
    ],
)
def test_a_class_is_stated_where_held_out_compounds_say_so_and_its_size_by_the_test_fold(
    result: Any, letter: str
) -> None:
    assert stated_payoff(result, NAMES, 1) == PayoffStatement(campaign=1, classes=letter)


def test_nothing_is_stated_of_what_few_compounds_say() -> None:
    few = FEWEST_HELD_OUT - 1
    assert stated_payoff(compared("stack", [-0.1, 0.01], 0.5, 0.5, few), NAMES, 1) is None
    assert stated_payoff(compared("stack", None, 0.5, 0.5), NAMES, 1) is None
    assert stated_payoff({"endpoints": []}, NAMES, 1) is None
    assert stated_payoff(comparison(), NAMES, 3) == PayoffStatement(campaign=3, classes="03")


@pytest.mark.parametrize("classes", ["", "1.", "5", "1" * 1025, "e", "1\n", "\u0661"])
def test_a_statement_has_one_spelling(classes: str) -> None:
    body = encode_content(PayoffStatement(campaign=1, classes="1")).replace(b"\xa11", _text(classes))
    with pytest.raises(WireError):
        decode_content(body)


def _text(value: str) -> bytes:
    data = value.encode()
    head = bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xda" + len(data).to_bytes(2, "big")
    return head + data


def said(index: int, classes: str, slot: int = 0, version: int = 1) -> Notice:
    body = encode_content(PayoffStatement(campaign=1, classes=classes))
    return sign(WORLD.identities[index], WORLD.charter.id, slot, version, 10, body)


def test_the_newest_statement_of_each_site_on_the_roster_counts() -> None:
    stranger = make_world("ledger", 5, 0, 10).identities[4]
    body = encode_content(PayoffStatement(campaign=1, classes="444"))
    notices = [
        said(0, "4", 3, 1), said(0, "31", 5, 2), said(1, "0a"), said(2, ".a"),
        sign(stranger, WORLD.charter.id, 0, 9, 10, body),
    ]  # fmt: skip
    found = federation_payoff(notices, CONSTITUTION, ENDPOINTS)
    assert found == federation_payoff(notices[::-1], CONSTITUTION, ENDPOINTS)
    assert found is not None
    assert found.sites == {"site0": "better", "site1": "no evidence", "site2": "worse", "site3": "unknown"}
    assert found.endpoints == {
        "logd": {"better": 1, "no evidence": 1, "worse": 0}, "solubility": {"better": 1, "no evidence": 0, "worse": 2},
    }  # fmt: skip
    assert payoff_in_words(found) == (
        "it pays for 1 of 4 sites (2 of 2 assay endpoints; half of the gains are 10 % or more), 1 without evidence "
        "either way, 1 better off alone, 1 without a statement, by what the sites state of themselves"
    )


def test_places_that_do_not_exist_and_retired_assay_endpoints_count_nothing() -> None:
    retired = AssayEndpoints(ENDPOINTS.every, 3, {"solubility": 2})
    found = federation_payoff([said(0, "04" + "4" * 500)], CONSTITUTION, retired)
    assert found is not None
    assert found.endpoints.keys() == {"logd", "herg"}
    assert federation_payoff([said(0, ".4")], CONSTITUTION, retired) is None
    assert federation_payoff([said(0, "...1")], CONSTITUTION, retired) is None
    assert federation_payoff([], CONSTITUTION, retired) is None


@pytest.mark.parametrize(
    ("letters", "half"),
    [(["1"], 0), (["1", "2"], 5), (["1", "1", "4"], 0), (["1", "3", "4"], 10), (["4", "4", "1", "1"], 25)],
)
def test_half_of_the_gains_are_as_large_as_is_said(letters: list[str], half: int) -> None:
    found = federation_payoff([said(at, letter) for at, letter in enumerate(letters)], CONSTITUTION, ENDPOINTS)
    assert found is not None
    assert found.half_pct == half


def test_where_it_pays_for_nobody_the_sentence_says_so_in_both_languages() -> None:
    found = federation_payoff([said(0, "0"), said(1, "a")], CONSTITUTION, ENDPOINTS)
    assert found is not None
    assert payoff_in_words(found).startswith("it pays for none of 4 sites, 1 without evidence")
    korean = payoff_in_words(found, lambda name: WORDS["ko"][f"payoff_{name}"])
    assert korean.startswith("기관 4곳 중 효과가 있는 곳이 없습니다")
    assert {f"payoff_{name}" for name in TEXTS} <= WORDS["en"].keys()


class Desk:
    """One site's board, and what keeps its statement current."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.site: Site = make_site(WORLD, 0, CONSTITUTION, folder)
        self.board = Board(
            self.site.identity.key, WORLD.charter.id, set, frozenset(CONSTITUTION.roster), random.Random(0), (), 100, 0
        )
        self.notices = NoticeBoard(lambda: self.site, self.board, set, lambda cmd: self.board.command(cmd, 0))
        self.models = SimpleNamespace(last_result=None, allowed_before=SimpleNamespace(campaign=2))
        self.activity = Activity(lambda: self.now)
        self.begin()

    def begin(self) -> None:
        """A new life of the daemon."""
        self.stating = PayoffStating(lambda: self.site, cast(Any, self.models), self.notices, self.activity)

    def compares(self, letter: str) -> None:
        result = compared("stack", [-0.1, 0.01], {"2": 0.94, "4": 0.5}[letter], 0.5)
        result["endpoints"][0]["name"] = "toy"
        self.models.last_result = result

    def sets(self, state_payoff: bool) -> None:
        config = self.site.config.model_copy(update={"board": BoardSection(state_payoff=state_payoff)})
        self.site = SimpleNamespace(
            **{
                name: getattr(self.site, name)
                for name in ("identity", "constitution", "charter", "assay_endpoints", "names")
            },
            config=config,
        )  # type: ignore[assignment]

    @property
    def stated(self) -> list[tuple[int, str]]:
        """Slot and classes of what stands."""
        found = []
        for notice in self.board.book:
            content = None if notice.withdrawn else decode_content(notice.body)
            if isinstance(content, PayoffStatement):
                found.append((notice.slot, content.classes))
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_statement_is_posted_once_replaced_renewed_and_withdrawn(desk: Desk) -> None:
    desk.stating.look()
    assert desk.stated == []
    desk.compares("4")
    desk.stating.look()
    first = next(iter(desk.board.book))
    assert desk.stated == [(0, "4")]
    desk.compares("2")
    desk.stating.look()
    assert desk.stated == [(0, "4")], "not again before its time"
    desk.now += EVERY_S
    desk.stating.look()
    assert desk.stated == [(0, "2")]
    newer = next(iter(desk.board.book))
    assert newer.version > first.version
    assert not desk.board.book.add(first), "an old one does not come back"
    desk.now += EVERY_S
    desk.stating.look()
    assert next(iter(desk.board.book)) == newer
    desk.board.command(Today(100 + DAYS // 2), 0)
    desk.stating.look()
    assert next(iter(desk.board.book)).until == newer.until + DAYS // 2
    desk.sets(state_payoff=False)
    desk.begin()
    desk.stating.look()
    assert desk.stated == []


def test_a_site_that_forgot_its_statement_keeps_the_newest_that_others_hand_back(desk: Desk) -> None:
    for slot, version in ((3, 7), (9, 8)):
        desk.board.book.add(said(0, "2", slot, version))
    desk.stating.look()
    assert desk.stated == [(3, "2"), (9, "2")], "nothing is known that would contradict them"
    desk.compares("4")
    desk.stating.look()
    assert desk.stated == [(9, "4")]


def test_no_statement_leaves_under_differential_privacy_or_from_a_site_that_left(desk: Desk) -> None:
    desk.compares("4")
    desk.sets(state_payoff=True)
    site: Any = desk.site
    site.charter = SimpleNamespace(privacy=SimpleNamespace(on=True), id=WORLD.charter.id)
    desk.stating.look()
    site.charter, site.constitution = WORLD.charter, SimpleNamespace(roster={})
    desk.stating.look()
    assert len(desk.board.book) == 0


def test_a_board_without_room_is_an_alarm_until_there_is_room(desk: Desk) -> None:
    for slot in range(MAX_SLOTS):
        desk.board.book.add(sign(WORLD.identities[0], WORLD.charter.id, slot, 1, 200, _need()))
    desk.compares("4")
    desk.stating.look()
    (alarm,) = desk.activity.alarms
    assert (alarm.what, "withdraw one" in alarm.text) == ("payoff not stated", True)
    desk.notices._sign(4, b"", 300)
    desk.stating.look()
    assert desk.activity.alarms == ()
    assert desk.stated == [(4, "4")]


def _need() -> bytes:
    from kmel_p2p.agreement.notice import Need

    return encode_content(Need(assay_endpoint="logD"))


async def test_the_operator_neither_posts_nor_withdraws_a_statement_by_hand(desk: Desk) -> None:
    desk.compares("4")
    desk.stating.look()
    (row,) = desk.notices.rows()
    assert _about(row) == "what it predicts with: better than best local for 1 of 1 assay endpoints"
    with pytest.raises(LocalError, match="state_payoff = false"):
        await desk.notices.answer({"do": "withdraw", "id": "site0/0"})
    given = {"kind": "payoff", "campaign": 1, "classes": "4"}
    for arguments in ({"notice": given}, {"notice": given, "edit": "site0/0"}):
        with pytest.raises(LocalError, match="by itself"):
            await desk.notices.answer({"do": "post", **arguments})
    need = {"kind": "need", "assay_endpoint": "logD"}
    with pytest.raises(LocalError, match="state_payoff = false"):
        await desk.notices.answer({"do": "post", "notice": need, "edit": "site0/0"})


def test_the_summary_is_made_anew_only_where_the_board_changed(desk: Desk) -> None:
    assert desk.notices.federation_payoff() is None
    desk.compares("4")
    desk.stating.look()
    found = desk.notices.federation_payoff()
    assert isinstance(found, FederationPayoff)
    assert found is desk.notices.federation_payoff()
    assert (found.sites["site0"], found.half_pct) == ("better", 25)
