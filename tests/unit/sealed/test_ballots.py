"""However ballots go, with fewer than a third lying no two outcomes are decided, and no two sets get a quorum."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.averaging import quorum_of
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.ballots import Ballots
from kmel_p2p.core.sealed.messages import VOID

A, B = b"a" * 32, b"b" * 32


def keys(count: int) -> list[SiteKey]:
    return [SiteKey(bytes([n]) * 32) for n in range(count)]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(4, 9), liars=st.booleans())
@example(seed=429, count=4, liars=True)
def test_no_two_outcomes(seed, count, liars) -> None:
    """Random delivery, loss and timeouts; liars vote and reveal for everything, everywhere."""
    rng = random.Random(seed)
    sites = keys(count)
    faulty = set(sites[: (count - 1) // 3 if liars else 0])
    tables = {site: Ballots(site, count) for site in sites}
    first = {site: rng.choice([A, A, B, VOID]) for site in sites}
    mail: list[tuple[SiteKey, str, int, SiteKey, bytes]] = []

    def say(kind: str, ballot: int, site: SiteKey, choice: bytes) -> None:
        getattr(tables[site], kind)(ballot, site, choice)
        mail.extend((to, kind, ballot, site, choice) for to in sites if to != site)

    for _ in range(60 * count):
        site = rng.choice(sites)
        table = tables[site]
        if site in faulty:
            kind, choice = rng.choice(["close", "reveal"]), rng.choice([A, B, VOID])
            mail.append((rng.choice(sites), kind, rng.randrange(4), site, choice))
        elif rng.random() < 0.06:
            table.next_ballot()
        else:
            table.follow()
            if not table.has_voted and not table.must_abstain():
                choice = table.must_vote() or (first[site] if table.ballot == 0 else VOID)
                say("close", table.ballot, site, choice if table.may_vote(choice) else VOID)
            revealed = table.may_reveal()
            if revealed is not None:
                say("reveal", table.ballot, site, revealed)
        rng.shuffle(mail)
        for _ in range(min(len(mail), 3)):
            to, kind, ballot, author, choice = mail.pop()
            if rng.random() > 0.1:
                getattr(tables[to], kind)(ballot, author, choice)
    honest = [tables[site] for site in sites if site not in faulty]
    decided = {table.decided() for table in honest} - {None}
    assert len(decided) <= 1
    backed = {table.closed(ballot) for table in honest for ballot in range(64)} - {None, VOID}
    assert len(backed) <= 1


def test_a_quorum_that_hears_each_other_decides() -> None:
    sites = keys(5)
    tables = [Ballots(site, 5) for site in sites[:4]]
    for vote in ("close", "reveal"):
        for table in tables:
            for site in sites[:4]:
                getattr(table, vote)(0, site, A)
    assert {table.decided() for table in tables} == {A}


def test_who_revealed_votes_for_it_again_until_a_later_quorum_says_otherwise() -> None:
    own, *others = keys(5)
    table = Ballots(own, 5)
    for site in others:
        table.close(0, site, A)
    assert table.may_reveal() == A
    table.reveal(0, own, A)
    table.next_ballot()
    assert table.must_vote() == A
    for site in others:
        table.close(1, site, VOID)
    table.next_ballot()
    assert table.must_vote() == VOID


def test_who_opened_one_set_opens_no_other() -> None:
    own, *others = keys(5)
    table = Ballots(own, 5)
    table.reveal(0, own, A)
    table.next_ballot()
    for site in others:
        table.close(1, site, B)
    assert table.may_reveal() is None


def test_a_set_that_nobody_can_open_binds_nobody() -> None:
    own, *others = keys(5)
    table = Ballots(own, 5)
    for site in others:
        table.close(0, site, A)
    table.reveal(0, own, A)
    table.dead.add(A)
    table.next_ballot()
    assert table.must_vote() is None


def test_a_site_follows_more_than_can_lie() -> None:
    own, *others = keys(7)
    table = Ballots(own, 7)
    table.close(5, others[0], VOID)
    table.close(5, others[1], VOID)
    assert not table.follow()
    table.reveal(5, others[2], VOID)
    assert table.follow()
    assert table.ballot == 5


@pytest.mark.parametrize(("sites", "quorum"), [(4, 3), (5, 4), (6, 5), (7, 5), (8, 6), (16, 11)])
def test_quorums(sites, quorum) -> None:
    assert quorum_of(sites) == quorum
