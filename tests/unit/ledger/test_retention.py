"""What is compacted into the snapshot, and what is kept, by number and by size."""

from __future__ import annotations

from collections import deque

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.effects import Effect
from kmel_p2p.core.ledger.harm.vote import cast
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.retention import ALWAYS_KEPT_BYTES, FEWEST, Retention, bytes_worth_keeping
from kmel_p2p.core.types import SECOND
from tests.support.plain_ledgers import identities, new_ledger, next_entry
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk

SITES = identities(3)
EACH = 40


def full_ledger() -> Ledger:
    ledger = new_ledger(SITES)
    for number in range(3 * EACH):
        entry = next_entry(SITES[number % 3], ledger, units=1000 + number, position=number % 16)
        assert ledger.offer(entry).verdict is Verdict.APPLIED
    return ledger


def kept(ledger: Ledger, retain: int, keep_bytes: int) -> set[int]:
    """Entries of each author after one look, everybody else holding everything."""
    others = [site.key for site in SITES[1:]]
    outbox: deque[Effect] = deque()
    agreed = ledger.accepted.held
    retention = Retention(
        SITES[0].key, ledger, lambda: 3, lambda: others, lambda key: (agreed, 9 * SECOND), retain, keep_bytes, outbox, 0
    )
    retention.advance(10 * SECOND)
    return {sum(1 for entry in ledger.entries() if entry.author == site.key) for site in SITES}


def test_so_many_newest_entries_stay_as_the_charter_says() -> None:
    ledger = full_ledger()
    digest = ledger.digest()
    assert kept(ledger, 20, 10**9) == {20}
    assert ledger.digest() == digest


@pytest.mark.parametrize(("share", "left"), [(0.5, 20), (0.25, 10), (0.01, FEWEST), (2.0, 30)])
def test_fewer_stay_where_their_payloads_would_take_too_much(share: float, left: int) -> None:
    ledger = full_ledger()
    held = sum(entry.payload_bytes for entry in ledger.entries())
    assert kept(ledger, 30, int(share * held)) == {left}


def test_a_large_trunk_lets_go_at_the_size_of_its_sum_and_a_small_one_later() -> None:
    assert bytes_worth_keeping(10_000_000) == 80_000_000
    assert bytes_worth_keeping(10) == ALWAYS_KEPT_BYTES


def test_what_votes_are_against_is_kept_for_a_while_each_for_itself_and_what_is_suspended_as_long_as_it_is() -> None:
    sites = toy_identities(5)
    charter = toy_charter(sites, {"suspension_quorum": "majority", "retain_entries": 16}, {"start_sites": 1})
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), Rules.of(charter, 7, toy_trunk()))
    ledger.amend(Constitution(charter))
    author = sites[0].key

    def publish_to(head: int) -> None:
        while ledger.head(author) < head:
            for place, site in enumerate(sites):
                entry = next_entry(site, ledger, 1000 + place, ledger.head(site.key) % 16, charter_id=charter.id)
                assert ledger.offer(entry).verdict is Verdict.APPLIED

    def floor() -> int:
        agreed = ledger.accepted.held
        told = lambda key: (agreed, 9 * SECOND)  # noqa: E731
        others = [site.key for site in sites[1:]]
        Retention(sites[0].key, ledger, lambda: 5, lambda: others, told, 16, 10**9, deque(), 0).advance(10 * SECOND)
        return ledger.accepted.floor.get(author, 0)

    def says(voter: int, first: int, number: int) -> bool:
        return ledger.vote(cast(sites[voter], charter.id, author, 0, (first, number), {0: 2}, True))

    publish_to(30)
    # One hostile site goes back as far as it may; an honest one says more.
    assert says(1, 1, 2)
    assert says(2, 20, 27)
    publish_to(50)
    assert floor() == 0
    publish_to(66)
    # The first is too far back by now, and takes nothing from the second.
    assert floor() == 19
    assert says(3, 25, 32)
    assert says(4, 22, 28)
    assert ledger.suspended == {author: 22}
    publish_to(120)
    assert floor() == 19
    assert not ledger.stale


def amended_ledger() -> tuple[Ledger, list[Identity]]:
    """One of four sites was retired; two of the others have published under that."""
    sites = toy_identities(4)
    charter = toy_charter(sites, {"retain_entries": 16}, {"start_sites": 1})
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), Rules.of(charter, 7, toy_trunk()))
    before = Constitution(charter)
    document = before.draft(retire=[{"name": before.roster[sites[3].key].name, "last": 0}])
    for site in sites[:3]:
        document = document.signed_by(site, before)
    ledger.amend(before.followed_by(document))
    for number in range(2 * EACH):
        entry = next_entry(sites[number % 2], ledger, 1000, number % 16, charter_id=charter.id)
        assert ledger.offer(entry).verdict is Verdict.APPLIED
    return ledger, sites


def looks(ledger: Ledger, own: Identity, others: list[Identity], seconds: list[int]) -> int:
    """Entries of `own` that looks at these times compact, the others holding everything."""
    agreed, outbox = ledger.accepted.held, deque[Effect]()
    keys = [site.key for site in others]
    retention = Retention(
        own.key, ledger, lambda: 3, lambda: keys, lambda key: (agreed, now * SECOND), 16, 10**9, outbox, 0
    )
    for now in seconds:
        retention.advance(now * SECOND)
    return ledger.accepted.floor.get(own.key, 0)


def test_what_was_made_under_a_new_amendment_is_kept_until_most_of_those_before_it_hold_it() -> None:
    ledger, sites = amended_ledger()
    # Two of the three that are left are most of them, but not of the four that another amendment might part.
    assert looks(ledger, sites[0], sites[1:2], [10]) == 0
    assert looks(ledger, sites[0], sites[1:3], [10]) == EACH - 16


def test_an_amendment_that_nobody_contests_for_a_day_holds_nothing_back_any_more() -> None:
    ledger, sites = amended_ledger()
    assert looks(ledger, sites[0], sites[1:2], [10, 86_000]) == 0
    assert looks(ledger, sites[0], sites[1:2], [10, 86_000, 86_410]) == EACH - 16
