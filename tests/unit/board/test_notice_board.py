"""The board from the operator's side: posted, edited, answered, withdrawn, shown as rows, pages and charters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.board.board import Board, Today
from kmel_p2p.core.board.notice import CLOCKS_APART, MAX_DAYS, MAX_SLOTS, sign
from kmel_p2p.site import notice_board as module
from kmel_p2p.site.notice_board import NoticeBoard, drafted
from kmel_p2p.site.page.board_page import WORDS, board_page
from kmel_p2p.site.page.words import language
from kmel_p2p.site.state.recording import known_notices, work_of
from kmel_p2p.site.state.store import Store
from tests.testbed.peers.site import World, make_site, make_world

NEED = {"kind": "need", "assay_endpoint": "logD", "unit": "log", "stage": "discovery", "size_class": 9}


class Desk:
    """One site's board, and what its operator asks."""

    def __init__(self, world: World, index: int, folder: Path) -> None:
        self.site = make_site(world, index, Constitution(world.charter), folder)
        keys = frozenset(self.site.constitution.roster)
        import random

        self.board = Board(self.site.identity.key, world.charter.id, set, keys, random.Random(0), (), module.today(), 0)
        self.notices = NoticeBoard(lambda: self.site, self.board, set, lambda cmd: self.board.command(cmd, 0))

    def ask(self, do: str, **arguments: Any) -> Any:
        return asyncio.run(self.notices.answer({"do": do, **arguments}))

    def hears(self, other: Desk) -> None:
        for notice in other.board.book:
            self.board.book.add(notice)


@pytest.fixture
def desks(tmp_path: Path) -> tuple[Desk, Desk]:
    world = make_world("ledger", 3, 0, 10)
    return Desk(world, 0, tmp_path / "0"), Desk(world, 1, tmp_path / "1")


def test_a_notice_is_posted_edited_answered_and_withdrawn(desks: tuple[Desk, Desk]) -> None:
    own, other = desks
    done = own.ask("post", notice=NEED, days=30)
    assert done["id"] == "site0/0"
    other.hears(own)
    assert other.ask("answer", id="site0/0", text="we have 3,000")["id"] == "site1/0"
    assert other.ask("answer", id="site0/0", text="or 4,000", interested=False)["id"] == "site1/0"
    own.hears(other)
    rows = {row["id"]: row for row in own.ask("list")}
    assert rows["site0/0"]["answers"] == ["site1/0"]
    assert (rows["site1/0"]["to"], rows["site1/0"]["interested"]) == ("site0/0", False)
    edited = own.ask("post", notice={**NEED, "stage": "clinical"}, edit="site0/0")
    assert edited["version"] > done["version"]
    assert [row["stage"] for row in own.ask("list") if row["own"]] == ["clinical"]
    own.ask("withdraw", id="site0/0")
    assert [row["id"] for row in own.ask("list")] == ["site1/0"]
    # The place of what was withdrawn is taken last: the notice must not come back.
    assert own.ask("post", notice=NEED)["id"] == "site0/1"


def test_what_cannot_be_done_is_said_with_what_to_do(desks: tuple[Desk, Desk]) -> None:
    own, other = desks
    other.ask("post", notice=NEED)
    own.hears(other)
    for do, arguments, text in (
        ("withdraw", {"id": "site1/0"}, "only its author"),
        ("withdraw", {"id": "site7/0"}, "board list"),
        ("post", {"notice": NEED, "days": 401}, "1 to 400"),
        ("post", {"notice": NEED, "days": True}, "1 to 400"),
        ("post", {"notice": "x"}, "has a notice"),
        ("sing", {}, "no request"),
    ):
        with pytest.raises(LocalError, match=text):
            own.ask(do, **arguments)
    with pytest.raises(LocalError, match="--edit"):
        other.ask("answer", id="site1/0", text="me")
    for _ in range(MAX_SLOTS):
        own.ask("post", notice=NEED)
    with pytest.raises(LocalError, match="withdraw one"):
        own.ask("post", notice=NEED)
    own.ask("withdraw", id="site0/7")
    assert own.ask("post", notice=NEED)["id"] == "site0/7"


def test_the_place_of_an_ended_notice_is_taken_again(desks: tuple[Desk, Desk]) -> None:
    own, _ = desks
    for _ in range(MAX_SLOTS):
        own.ask("post", notice=NEED, days=1)
    own.board.command(Today(own.board.today + 2), 0)
    done = own.ask("post", notice=NEED)
    assert [row["id"] for row in own.ask("list")] == [done["id"]]


def test_a_notice_of_a_later_version_is_named_and_kept_out_of_what_people_and_programs_read(
    desks: tuple[Desk, Desk],
) -> None:
    own, other = desks
    later, until = canonical({"kind": "auction", "lots": 3}), own.board.today + 30
    for desk in desks:
        desk.board.book.add(sign(own.site.identity, own.site.charter.id, 4, 1, until, later))
    assert other.ask("unread") == [{"id": "site0/4", "own": False, "kind": "auction"}]
    assert other.ask("list") == other.ask("match") == []
    assert own.ask("post", notice=NEED)["id"] == "site0/0"
    with pytest.raises(LocalError, match="only its author"):
        other.ask("withdraw", id="site0/4")
    # After a way back to this version, its author can still take it back.
    own.ask("withdraw", id="site0/4")
    assert own.ask("unread") == []


def test_matches_make_the_draft_of_a_charter(desks: tuple[Desk, Desk]) -> None:
    own, other = desks
    own.ask("post", notice=NEED)
    other.ask("post", notice={**NEED, "assay_endpoint": "Log D"})
    own.hears(other)
    (match,) = own.ask("match")
    assert (match["need"], match["score"]) in {("site0/0", 89), ("site1/0", 89)}
    sites, endpoints = drafted(own.site, own.ask("list"), ["site1/0", "site0/0"])
    assert [site["name"] for site in sites] == ["site0", "site1"]
    assert sites[1]["addresses"]
    assert endpoints == {"Log D": "log"}
    with pytest.raises(LocalError, match="site9/9"):
        drafted(own.site, own.ask("list"), ["site9/9"])


def test_the_page_has_both_languages_and_runs_nothing(desks: tuple[Desk, Desk]) -> None:
    own, other = desks
    own.ask("post", notice={**NEED, "text": "<script>alert(1)</script>", "baseline_error": 0.62})
    other.hears(own)
    other.ask("answer", id="site0/0", text="<b>yes</b>")
    own.hears(other)
    assert {tuple(sorted(words)) for words in WORDS.values()} == {tuple(sorted(WORDS["en"]))}
    for lang in WORDS:
        page = board_page(own.notices.rows(), own.notices.matched(everybody=True), lang)
        assert "<script>" not in page
        assert "<b>yes" not in page
        assert "0.62" in page
        assert WORDS[lang]["need"] in page
        assert WORDS[lang]["nothing"] in board_page([], [], lang)
    assert [language(query) for query in ("", "lang=ko", "x=1&lang=ko", "lang=kok")] == ["en", "ko", "ko", "en"]


def test_notices_are_kept_by_the_store_and_end_with_their_day(desks: tuple[Desk, Desk], tmp_path: Path) -> None:
    own, _ = desks
    own.ask("post", notice=NEED, days=1)
    store = Store(tmp_path / "store.sqlite")

    def keep() -> None:
        while (effect := own.board.poll()) is not None:
            record = getattr(effect, "record", None)
            if record is not None:
                work_of(record, own.site)(store)

    keep()
    assert known_notices(store) == tuple(own.board.book)
    own.board.command(Today(own.board.today + 2), 0)
    keep()
    assert own.ask("list") == []
    # Ended, it keeps its slot until nothing that stood there before can come back; a new notice takes it nevertheless.
    assert len(known_notices(store)) == 1
    own.board.command(Today(own.board.today + MAX_DAYS + CLOCKS_APART), 0)
    keep()
    assert known_notices(store) == ()
    store.close()
