"""Notices reach everybody whatever the order, replace one another alike everywhere, and cost what budgets allow."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.notice import MAX_BODY_BYTES
from kmel_p2p.core.board import board as module
from kmel_p2p.core.board.board import Board, Post, RosterChanged, Today
from kmel_p2p.core.board.book import NoticeBook
from kmel_p2p.core.board.messages import (
    BoardDigest,
    BoardIndex,
    NoticePosted,
    NoticeRecord,
    NoticeRefused,
    Notices,
    NoticeUnread,
)
from kmel_p2p.core.board.notice import CLOCKS_APART, MAX_DAYS, MAX_NOTICE_BYTES, Notice, decode
from kmel_p2p.core.types import SECOND
from tests.support.board_mesh import CHARTER_ID, TODAY, BoardMesh, identities, need, posted

WHO = identities(3)


def post(mesh: BoardMesh, notice: Notice) -> None:
    mesh.boards[notice.author].command(Post(notice), mesh.now)
    mesh.drain(notice.author)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3), st.sampled_from(["", "a", "b"])), max_size=12
    ),
    st.randoms(use_true_random=False),
)
def test_books_of_equal_notices_are_equal_in_whatever_order_they_came(
    made: list[tuple[int, int, int, str]], rng: random.Random
) -> None:
    notices = [posted(WHO[who], slot, version, need(text=text) if text else b"") for who, slot, version, text in made]
    shuffled = [*notices, *notices]
    rng.shuffle(shuffled)
    books = NoticeBook(), NoticeBook()
    for book, order in zip(books, (notices, shuffled), strict=True):
        for notice in order:
            book.add(notice)
    assert list(books[0]) == list(books[1])
    assert books[0].digest == books[1].digest
    assert books[0].by_author() == books[1].by_author()
    for notice in notices:
        standing = books[0].get(*notice.place)
        assert standing is not None
        assert standing.version >= notice.version


@given(st.integers(0, 15), st.integers(0, 2**40), st.text(max_size=60))
def test_a_notice_reads_back_from_its_bytes(slot: int, version: int, text: str) -> None:
    plain = "".join(letter for letter in text if letter.isprintable())
    notice = posted(WHO[0], slot, version, need(text=plain))
    again = decode(notice.encode())
    assert again == notice
    assert again.is_signed(CHARTER_ID)
    assert not again.is_signed(b"d" * 32)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_notice_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


def test_thirty_sites_see_three_hundred_notices_within_a_minute() -> None:
    mesh = BoardMesh(30)
    for number in range(300):
        who = mesh.who[number % 30]
        post(mesh, posted(who, number // 30, 1, need(text=f"notice {number} " + "x" * 200)))
    mesh.run(60 * SECOND)
    assert mesh.agreed()
    assert all(len(board.book) == 300 for board in mesh.boards.values())
    assert max(mesh.sent.values()) < 600_000
    quiet = max(mesh.sent.values())
    mesh.run(600 * SECOND)
    assert max(mesh.sent.values()) - quiet < 20_000, "boards that agree send next to nothing"


def test_an_edited_and_a_withdrawn_notice_take_the_place_of_the_one_before_also_at_a_site_that_was_away() -> None:
    mesh = BoardMesh(4)
    author, away = mesh.who[0], mesh.who[3]
    post(mesh, posted(author, 0, 1, need("logD")))
    post(mesh, posted(author, 1, 1, need("solubility")))
    mesh.run(60 * SECOND)
    mesh.away.add(away.key)
    post(mesh, posted(author, 0, 2, need("hERG")))
    post(mesh, posted(author, 1, 2, b""))
    mesh.run(60 * SECOND)
    mesh.away.clear()
    mesh.run(60 * SECOND)
    assert mesh.agreed()
    book = mesh.boards[away.key].book
    assert [(notice.version, notice.withdrawn) for notice in book.of(author.key)] == [(2, False), (2, True)]
    # What was withdrawn does not come back from a message that was under way.
    mesh.deliver(away.key, mesh.who[1].key, Notices((posted(author, 1, 1, need("solubility")).encode(),)))
    assert mesh.agreed()


def test_a_board_goes_on_from_what_was_kept() -> None:
    mesh = BoardMesh(2)
    post(mesh, posted(mesh.who[0], 3, 7))
    mesh.run(30 * SECOND)
    (record,) = [each for each in mesh.records[mesh.who[1].key] if isinstance(each, NoticeRecord)]
    again = mesh.board(mesh.who[1], [decode(record.encoded)])
    assert again.book.digest == mesh.boards[mesh.who[0].key].book.digest


def test_notices_end_with_their_day_and_with_their_authors_part_in_the_roster() -> None:
    mesh = BoardMesh(3)
    post(mesh, posted(mesh.who[0], until=TODAY))
    post(mesh, posted(mesh.who[1], until=TODAY + 5))
    mesh.run(30 * SECOND)
    board = mesh.boards[mesh.who[2].key]
    board.command(Today(TODAY + 1), mesh.now)
    assert [notice.author for notice in board.standing()] == [mesh.who[1].key]
    assert len(board.book) == 2, "its slot stays taken: see the next test"
    board.command(Today(TODAY + MAX_DAYS + CLOCKS_APART + 1), mesh.now)
    assert [notice.author for notice in board.book] == [mesh.who[1].key]
    board.command(RosterChanged(frozenset({mesh.who[2].key})), mesh.now)
    assert len(board.book) == 0
    assert board.deadline() is None
    mesh.drain(mesh.who[2].key)
    forgotten = [each for each in mesh.records[mesh.who[2].key] if isinstance(each, NoticeRecord) and not each.encoded]
    assert len(forgotten) == 2


def test_a_notice_that_was_posted_for_longer_does_not_come_back_when_the_one_in_its_place_has_ended() -> None:
    mesh = BoardMesh(4)
    author, away = mesh.who[0], mesh.who[3]
    post(mesh, posted(author, 0, 1, need("logD"), until=TODAY + MAX_DAYS))
    mesh.run(60 * SECOND)
    mesh.away.add(away.key)
    post(mesh, posted(author, 0, 2, need("hERG"), until=TODAY + 5))
    mesh.run(60 * SECOND)

    def day(number: int) -> None:
        for key, board in mesh.boards.items():
            board.command(Today(number), mesh.now)
            mesh.drain(key)

    day(TODAY + 6)
    old = mesh.boards[away.key].book.get(author.key, 0)
    assert old is not None
    assert old.stands(TODAY + 6)
    mesh.away.clear()
    mesh.run(60 * SECOND)
    assert mesh.agreed()
    assert [list(board.standing()) for board in mesh.boards.values()] == [[]] * 4
    # It is forgotten on a day on which what it took the place of is over, too.
    day(TODAY + 5 + MAX_DAYS + CLOCKS_APART + 1)
    assert [len(board.book) for board in mesh.boards.values()] == [0] * 4
    mesh.deliver(away.key, mesh.who[1].key, Notices((old.encode(),)))
    assert list(mesh.boards[away.key].standing()) == []


def test_what_only_a_later_version_can_read_spreads_unread_and_nobody_is_blamed_for_it() -> None:
    mesh = BoardMesh(4)
    author = mesh.who[0]
    later = canonical({"kind": "auction", "lots": [1, 2]})
    wider = canonical({"kind": "need", "assay_endpoint": "logD", "of_a_later_version": True})
    for slot, body in enumerate((later, wider, need())):
        post(mesh, posted(author, slot, 1, body))
    mesh.run(60 * SECOND)
    assert mesh.agreed()
    for site in mesh.who:
        assert len(list(mesh.boards[site.key].standing())) == 3
        assert refused(mesh, site) == []
        unread = [event for event in mesh.events[site.key] if isinstance(event, NoticeUnread)]
        assert [(event.slot, event.kind) for event in unread] == [(0, "auction"), (1, "need")]
    post(mesh, posted(author, 0, 2, b""))
    mesh.run(60 * SECOND)
    assert all(len(list(board.standing())) == 2 for board in mesh.boards.values())


@pytest.mark.parametrize(
    "body",
    [
        b"\x90",
        b"\x80",
        canonical({"kind": "Need\x1b[2J"}),
        canonical({"kind": "k" * 33}),
        canonical({"kind": 7}),
        b"\x82\xa4kind\xa4need\xa1a\x01",  # keys that are not sorted
        b"\x82\xa4kind\xa4need\xa4kind\xa4need",
        b"\x82\xa4kind\xa4need\xc4\x01a\x01",  # a key of bytes
        canonical({"kind": "deep", "x": [[[[[[1]]]]]]}),
        canonical({"kind": "long", "x": list(range(65))}),
    ],
)
def test_what_no_version_says_is_refused(body: bytes) -> None:
    mesh = BoardMesh(2)
    author, site = mesh.who
    mesh.deliver(site.key, author.key, Notices((posted(author, body=body).encode(),)))
    assert len(mesh.boards[site.key].book) == 0
    assert len(refused(mesh, site)) == 1


def refused(mesh: BoardMesh, site: Identity) -> list[str]:
    return [event.reason for event in mesh.events[site.key] if isinstance(event, NoticeRefused)]


def test_what_is_forged_too_long_lived_or_of_a_stranger_is_not_taken() -> None:
    mesh = BoardMesh(3)
    author, sender, site = mesh.who
    forged = Notice(author.key, 0, 1, TODAY, need(), bytes(64))
    later = posted(author, 1, 1, until=TODAY + MAX_DAYS + CLOCKS_APART + 1)
    stranger = posted(Identity(b"s" * 32))
    ended = posted(author, 2, until=TODAY - MAX_DAYS - CLOCKS_APART - 1)
    mesh.deliver(site.key, sender.key, Notices(tuple(n.encode() for n in (forged, later, stranger, ended))))
    assert len(mesh.boards[site.key].book) == 0
    assert len(refused(mesh, site)) == 2
    # After some that are none the rest is not looked at.
    many = tuple(Notice(author.key, 0, n, TODAY, need(), bytes(64)).encode() for n in range(1, 20))
    mesh.deliver(site.key, sender.key, Notices((*many, posted(author).encode())))
    assert len(refused(mesh, site)) == 2 + module.REFUSED_AT_ONCE
    assert len(mesh.boards[site.key].book) == 0


def test_an_author_that_posts_all_the_time_is_taken_at_a_bounded_pace_and_its_newest_gets_there() -> None:
    mesh = BoardMesh(2)
    author, site = mesh.who
    for version in range(1, 500):
        post(mesh, posted(author, 0, version))
        mesh.run(SECOND // 10)
    taken = [event for event in mesh.events[site.key] if isinstance(event, NoticePosted)]
    assert len(taken) <= module.AUTHOR_BURST + 50 * SECOND / module.AUTHOR_EVERY + 1
    mesh.run(120 * SECOND)
    assert mesh.agreed()


def test_a_site_that_asks_all_the_time_is_sent_a_bounded_amount() -> None:
    mesh = BoardMesh(30)
    for number in range(480):
        who = mesh.who[number % 30]
        notice = posted(who, number // 30, 1, need(text="x" * 600))
        mesh.boards[mesh.who[0].key].book.add(notice)
    asked, asker = mesh.who[0].key, mesh.who[1].key
    for _ in range(600):
        mesh.deliver(asked, asker, BoardIndex({}, reply=False))
        mesh.deliver(asked, asker, BoardDigest(bytes(16)))
        mesh.now += SECOND // 10
    most = module.ANSWER_BURST + 60 * module.ANSWER_RATE
    indexes = 60 * 30 * 60
    assert most / 4 < mesh.sent[asked] < most + indexes + 20_000


def test_the_largest_notices_fit_into_messages() -> None:
    mesh = BoardMesh(2)
    author, site = mesh.who
    text = "漢" * 600
    for slot in range(16):
        body = need(text=text)
        assert len(body) <= MAX_BODY_BYTES
        notice = posted(author, slot, 2**40, body)
        assert len(notice.encode()) <= MAX_NOTICE_BYTES
        post(mesh, notice)
    mesh.run(60 * SECOND)
    assert mesh.agreed()
    assert len(mesh.boards[site.key].book) == 16


def test_an_empty_board_is_silent() -> None:
    mesh = BoardMesh(5)
    mesh.run(600 * SECOND)
    assert not mesh.sent
    assert isinstance(mesh.boards[mesh.who[0].key], Board)
