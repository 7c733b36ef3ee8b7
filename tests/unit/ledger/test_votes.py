"""Votes: one spelling, signed; equal sets give equal suspensions in whatever order they came; too few do nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.harm.vote import MAX_VOTE_BYTES, HarmVote, VoteBook, cast, decode, votes_needed

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


@given(st.lists(VOTES, max_size=12))
def test_the_order_of_votes_does_not_matter(votes: list[HarmVote]) -> None:
    books = []
    for order in (votes, votes[::-1], [*votes, *votes]):
        book = VoteBook()
        for each in order:
            book.add(each)
        books.append(book)
    assert len({book.digest() for book in books}) == 1
    assert all(book.suspended(ROSTER, "majority") == books[0].suspended(ROSTER, "majority") for book in books)
    # What one peer kept is all that another needs.
    copy = VoteBook()
    for each in books[0].all():
        copy.add(each)
    assert copy.digest() == books[0].digest()


@given(st.lists(VOTES, max_size=12), VOTES)
def test_a_further_vote_never_lifts_a_suspension_and_never_raises_its_first_entry(
    votes: list[HarmVote], last: HarmVote
) -> None:
    book = VoteBook()
    for each in votes:
        book.add(each)
    before = book.suspended(ROSTER, "majority")
    book.add(last)
    after = book.suspended(ROSTER, "majority")
    assert all(author in after and after[author] <= first for author, first in before.items())


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
        book = VoteBook()
        for voter in colluders:
            book.add(vote(voter, 5, first=1))
        assert book.suspended(ROSTER, "majority") == {}
        honest = [voter for voter in range(5) if voter not in colluders]
        book.add(vote(honest[0], 5, first=7, number=9))
        assert book.suspended(ROSTER, "majority") == {ROSTER[5]: 7}


def test_votes_of_former_sites_and_of_earlier_terms_do_not_count() -> None:
    book = VoteBook()
    for voter in range(3):
        book.add(vote(voter, 5))
    assert book.suspended(ROSTER, "majority") == {ROSTER[5]: 1}
    assert book.suspended([*ROSTER[2:], *ROSTER[:1]], "all") == {}
    assert len(book.forget(lambda author: 1)) == 3
    assert book.suspended(ROSTER, "majority") == {}
    assert len(book) == 0
