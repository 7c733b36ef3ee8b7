"""Votes: one spelling, signed; equal sets give equal suspensions in whatever order they came; too few do nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.averaging import SuspensionQuorum
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.ledger.harm.suspensions import first_taken_out, votes_needed
from kmel_p2p.core.ledger.harm.vote import MAX_VOTE_BYTES, HarmVote, cast, decode
from kmel_p2p.core.ledger.harm.vote_book import MOST_BEHIND_BYTES, VoteBook

CHARTER = bytes(range(32))
SITES = [Identity(bytes([n + 1]) * 32) for n in range(6)]
ROSTER = [site.key for site in SITES]


def vote(
    voter: int, author: int, first: int = 1, number: int = 5, against: bool = True, term: int = 0, size: int = 2
) -> HarmVote:
    return cast(SITES[voter], CHARTER, ROSTER[author], term, (first, number), {0: size}, against)


VOTES = st.builds(
    vote,
    st.integers(0, 2),
    st.integers(3, 5),
    st.integers(1, 4),
    st.integers(4, 7),
    st.booleans(),
    size=st.sampled_from([-1, 0, 2]),
)


def test_a_vote_has_one_spelling_and_is_signed_for_one_charter() -> None:
    made = vote(0, 1, 3, 9)
    assert decode(made.encode()) == made
    assert made.is_signed(CHARTER)
    assert not made.is_signed(bytes(32))
    assert not dataclasses.replace(made, first=2).is_signed(CHARTER)
    assert not dataclasses.replace(made, voter=ROSTER[2]).is_signed(CHARTER)
    assert made.size == 2


@given(st.binary(max_size=200))
def test_bytes_that_are_no_vote_are_refused_as_such(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@given(st.integers(0, 150), st.integers(0, 255))
def test_a_vote_with_a_byte_changed_is_refused_or_unsigned(at: int, byte: int) -> None:
    encoded = bytearray(vote(0, 1).encode())
    at %= len(encoded)
    changed = bytes(encoded[:at]) + bytes([byte]) + bytes(encoded[at + 1 :])
    if changed == bytes(encoded):
        return
    with contextlib.suppress(WireError):
        assert not decode(changed).is_signed(CHARTER)


@pytest.mark.parametrize("change", [{"first": 0}, {"first": 9, "number": 8}, {"author": ROSTER[0]}])
def test_a_vote_on_no_entry_or_on_oneself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode(dataclasses.replace(vote(0, 1), **change).encode())  # type: ignore[arg-type]


def test_a_vote_too_large_is_refused() -> None:
    with pytest.raises(WireError):
        decode(bytes(MAX_VOTE_BYTES + 1))


def book_of(votes: Iterable[HarmVote]) -> VoteBook:
    book = VoteBook()
    for each in votes:
        book.add(each)
    return book


def first_out(
    book: VoteBook, author: int, *rosters: list[SiteKey], quorum: SuspensionQuorum = "majority"
) -> int | None:
    return first_taken_out(ROSTER[author], book.against(ROSTER[author]), rosters or (ROSTER,), quorum)


@given(st.lists(VOTES, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(votes: list[HarmVote], rng: Random) -> None:
    other = votes * 2
    rng.shuffle(other)
    one, two = book_of(votes), book_of(other)
    assert one.digest() == two.digest()
    assert list(one) == list(two)
    # What one peer kept is all that another needs.
    assert book_of(one).digest() == one.digest()
    assert all(first_out(one, author) == first_out(two, author) for author in (3, 4, 5))


@given(st.lists(VOTES, max_size=12))
def test_of_each_voter_and_author_the_newest_word_is_kept(votes: list[HarmVote]) -> None:
    book = book_of(votes)
    pairs = {(each.voter, each.author) for each in votes}
    assert len(book) == len(pairs)
    for voter, author in pairs:
        kept = book.of(voter, author)
        assert kept is not None
        assert kept.number == max(each.number for each in votes if (each.voter, each.author) == (voter, author))


@given(st.lists(VOTES, max_size=12), st.sets(st.integers(0, 5)))
def test_a_further_roster_never_ends_a_suspension_and_never_raises_its_first_entry(
    votes: list[HarmVote], places: set[int]
) -> None:
    book, roster = book_of(votes), [ROSTER[place] for place in places]
    for author in (3, 4, 5):
        before, after = first_out(book, author), first_out(book, author, ROSTER, roster)
        assert before is None or (after is not None and after <= before)


@pytest.mark.parametrize(
    ("sites", "quorum", "needed"),
    [(2, "majority", 2), (3, "majority", 2), (4, "majority", 2), (5, "majority", 3), (8, "majority", 4),
     (4, "two-thirds", 2), (8, "two-thirds", 5), (4, "all", 3), (8, "none", 8)],
)  # fmt: skip
def test_no_suspension_by_fewer_than_a_majority_of_the_others_or_by_one(sites: int, quorum: str, needed: int) -> None:
    assert votes_needed(sites - 1, quorum) == needed  # type: ignore[arg-type]
    assert 2 * needed > sites - 1


def test_fewer_colluders_than_the_quorum_neither_suspend_nor_lower_what_others_suspend() -> None:
    for colluders in itertools.combinations(range(5), 2):
        book = book_of(vote(voter, 5, first=1) for voter in colluders)
        assert first_out(book, 5) is None
        honest = [voter for voter in range(5) if voter not in colluders]
        book.add(vote(honest[0], 5, first=7, number=9))
        assert first_out(book, 5) == 7


def test_a_vote_taken_back_does_not_count_until_it_is_cast_again() -> None:
    book = book_of([vote(0, 5), vote(1, 5), vote(2, 5)])
    assert first_out(book, 5) == 1
    book.add(vote(0, 5, number=6, against=False))
    assert first_out(book, 5) is None
    assert not book.add(vote(0, 5, number=5, first=3))
    book.add(vote(0, 5, number=7, first=6))
    assert first_out(book, 5) == 6


def test_votes_of_another_term_are_let_go() -> None:
    book = book_of(vote(voter, 5, term=voter % 2) for voter in range(4))
    book.forget(lambda author: 1)
    assert set(book.about(ROSTER[5])) == {ROSTER[1], ROSTER[3]}
    assert book.digest() == book_of([vote(1, 5, term=1), vote(3, 5, term=1)]).digest()


def test_votes_behind_a_suspension_are_those_against_it_and_bounded_in_bytes() -> None:
    book = book_of([vote(0, 5), vote(1, 5, against=False), vote(2, 5), vote(3, 4)])
    assert set(book.behind({ROSTER[5]})) == {vote(0, 5).encode(), vote(2, 5).encode()}
    sites = [Identity(n.to_bytes(4, "big") * 8) for n in range(1, 1500)]
    full = book_of(
        HarmVote(site.key, ROSTER[5], 0, 1, 2, dict.fromkeys(range(1024), 5), True, bytes(64)) for site in sites
    )
    assert 0 < sum(map(len, full.behind({ROSTER[5]}))) <= MOST_BEHIND_BYTES
