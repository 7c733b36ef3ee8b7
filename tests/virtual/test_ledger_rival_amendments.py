"""Two amendments with one number, signed on both sides of a cut: one gives way everywhere, and nobody is hurt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.events import (
    AmendmentConflict,
    AmendmentOverruled,
    AmendmentRefused,
    AmendmentsAgree,
    EntryRefused,
    LogEnded,
    NotPublishedAgain,
)
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.amending import agreed, amend
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world

LIMIT = 24
MINORITY, MAJORITY = [0, 1], [2, 3, 4]


def slowly(index: int) -> int:
    return SECOND // 10


def parted(seed: int, *sides: list[int]) -> LedgerFederation:
    """Five sites in the middle of a run, cut in two."""
    federation = LedgerFederation(toy_world(5, {"entry_limit": LIMIT}, step_us=slowly), seed)
    federation.start_all()
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(federation.sites[4].key) >= 2)
    federation.partition(*sides)
    federation.run(3 * SECOND)
    return federation


def adding(
    federation: LedgerFederation, signers: Sequence[int], beats: bytes = b"", **changes: Any
) -> AmendmentDocument:
    """An amendment that adds a site, with a smaller hash than `beats`, if that is given."""
    for salt in range(1000 * signers[0], 1000 * signers[0] + 1000):
        added = {"name": f"new{salt}", "key": Identity(salt.to_bytes(32, "big")).key.hex()}
        constitution = federation.averaging(signers[0]).maintenance.amendments.constitution
        document = constitution.draft(add=[added], **changes)
        if not beats or document.amendment.hash < beats:
            return agreed(federation, list(signers), add=[added], **changes)
    raise AssertionError("no smaller hash was found")


def settled(federation: LedgerFederation, winner: AmendmentDocument, within_us: int = 240 * SECOND) -> bool:
    """Run until all go by `winner` and have finished."""

    def is_settled() -> bool:
        heads = {federation.averaging(index).ledger.amended_rules.head_hash for index in federation.running()}
        return heads == {winner.amendment.hash} and federation.all_complete() and len(federation.digests()) == 1

    return federation.run(within_us, until=is_settled)


def require_one_ledger(federation: LedgerFederation, winner: AmendmentDocument, published: set[bytes]) -> None:
    """All go by `winner`, hold one sum, convicted nobody, and count all that was published, once."""
    for index in federation.running():
        ledger = federation.averaging(index).ledger
        assert ledger.amended_rules.head_hash == winner.amendment.hash
        assert not ledger.faults
        assert not ledger.accepted.late
        for bad in (AmendmentRefused, EntryRefused, LogEnded, NotPublishedAgain):
            assert not federation.events(index, bad)
        contents = [entry.payload_hash for entry in ledger.entries()]
        assert len(set(contents)) == len(contents)
        assert published <= set(contents)
    assert len(federation.digests()) == 1


def published_at(federation: LedgerFederation) -> set[bytes]:
    return {
        entry.payload_hash for index in federation.running() for entry in federation.averaging(index).ledger.entries()
    }


@pytest.mark.parametrize("smaller", ["west", "east"])
def test_what_most_sites_went_by_stays_and_the_others_publish_again(smaller: str) -> None:
    federation = parted(7, MINORITY, MAJORITY)
    east = adding(federation, [2, 3, 4], entries=LIMIT + 2)
    west = adding(federation, [0, 1, 2], beats=east.amendment.hash if smaller == "west" else b"")
    if smaller == "east":
        east = adding(federation, [2, 3, 4], beats=west.amendment.hash, entries=LIMIT + 2)
    amend(federation, 0, west)
    amend(federation, 4, east)
    federation.run(20 * SECOND)
    lost = [e for e in federation.averaging(0).ledger.entries() if e.basis.amendment_hash == west.amendment.hash]
    assert len(lost) >= 4
    before = published_at(federation)
    federation.heal(MINORITY, MAJORITY)
    assert settled(federation, east)
    require_one_ledger(federation, east, before)
    for index in federation.running():
        assert {federation.averaging(index).ledger.head(site.key) for site in federation.sites} == {LIMIT + 2}
        (told,) = federation.events(index, AmendmentOverruled)
        assert isinstance(told, AmendmentOverruled)
        assert (told.overruled, told.by) == (west.amendment.hash, east.amendment.hash)
        assert told.signed_both == ("site2",)
        assert told.stood_here == (index in MINORITY)
        others = {federation.sites[other].key for other in (MAJORITY if index in MINORITY else MINORITY)}
        seen = {e.site for e in federation.events(index, AmendmentConflict) if isinstance(e, AmendmentConflict)}
        agree = {e.site for e in federation.events(index, AmendmentsAgree) if isinstance(e, AmendmentsAgree)}
        assert seen <= others
        assert agree == seen


def test_where_nobody_went_by_either_the_smaller_hash_stays() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 4}, step_us=slowly), 3)
    federation.start_all()
    assert federation.run(120 * SECOND, until=federation.all_complete)
    federation.partition([0, 1], [2, 3])
    federation.run(3 * SECOND)
    # The run is over: nobody makes entries under either.
    one, other = adding(federation, [0, 1, 2]), adding(federation, [1, 2, 3], retire=[{"name": "site0", "last": 3}])
    amend(federation, 0, one)
    amend(federation, 3, other)
    federation.run(3 * SECOND)
    federation.heal([0, 1], [2, 3])
    federation.run(60 * SECOND)
    winner = min(one, other, key=lambda document: document.amendment.hash)
    assert {federation.averaging(i).ledger.amended_rules.head_hash for i in range(4)} == {winner.amendment.hash}
    assert len(federation.digests()) == 1
    for index in range(4):
        assert {e.signed_both for e in federation.events(index, AmendmentOverruled)} == {("site1", "site2")}  # type: ignore[attr-defined]


def test_whom_an_overruled_amendment_retired_has_its_entries_back_and_goes_on() -> None:
    sides = [0, 1, 2], [3, 4]
    federation = parted(9, *sides)
    key = federation.sites[2].key
    last = federation.averaging(0).ledger.head(key) - 1
    west = agreed(federation, [0, 1, 4], retire=[{"name": "site2", "last": last, "retract_from": 1}])
    east = adding(federation, [3, 4, 0], beats=west.amendment.hash)
    before = published_at(federation)
    amend(federation, 1, west)
    assert federation.run(10 * SECOND, until=lambda: federation.averaging(0).ledger.head(key) == last)
    assert federation.averaging(2).phase is Phase.LISTENING
    amend(federation, 3, east)
    federation.run(5 * SECOND)
    before |= published_at(federation)
    federation.heal(*sides)
    assert settled(federation, east, 400 * SECOND)
    require_one_ledger(federation, east, before)
    assert all(federation.averaging(index).ledger.head(key) == LIMIT for index in range(5))


def test_a_site_that_changed_over_is_the_same_after_a_restart() -> None:
    federation = parted(11, MINORITY, MAJORITY)
    west, east = adding(federation, [0, 1, 2]), adding(federation, [2, 3, 4], entries=LIMIT + 2)
    amend(federation, 0, west)
    amend(federation, 4, east)
    federation.run(15 * SECOND)
    before = published_at(federation)
    federation.heal(MINORITY, MAJORITY)
    changed = lambda: federation.averaging(0).ledger.amended_rules.head_hash == east.amendment.hash  # noqa: E731
    assert federation.run(60 * SECOND, until=changed)
    federation.crash(0)
    federation.run(3 * SECOND)
    federation.start(0)
    assert settled(federation, east)
    require_one_ledger(federation, east, before)


def test_who_takes_part_by_the_overruled_amendment_alone_publishes_no_more() -> None:
    federation = parted(13, MINORITY, MAJORITY)
    west, east = adding(federation, [0, 1, 2]), adding(federation, [2, 3, 4], entries=LIMIT + 2)
    amend(federation, 0, west)
    amend(federation, 4, east)
    federation.run(15 * SECOND)
    exchange = federation.averaging(0).maintenance.amendments
    exchange._own = next(key for key, rule in exchange.constitution.roster.items() if rule.name.startswith("new"))
    federation.heal(MINORITY, MAJORITY)
    assert federation.run(60 * SECOND, until=lambda: exchange.left_out)
    head = federation.averaging(0).ledger.head(federation.sites[0].key)
    federation.run(30 * SECOND)
    assert federation.averaging(0).phase is Phase.LISTENING
    assert federation.averaging(0).ledger.head(federation.sites[0].key) == head
    (told,) = federation.events(0, AmendmentOverruled)
    assert isinstance(told, AmendmentOverruled)
    assert told.left_out


def test_of_three_rivals_whose_followers_retired_each_other_one_stays_everywhere() -> None:
    federation = LedgerFederation(toy_world(5, {"entry_limit": LIMIT}, step_us=slowly), 17)
    federation.start_all()
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(federation.sites[4].key) >= 2)
    sides = [0], [1, 2], [3, 4]
    pairs = [(sides[0], sides[1]), (sides[0], sides[2]), (sides[1], sides[2])]
    for one, other in pairs:
        federation.partition(one, other)
    federation.run(3 * SECOND)
    heads = {index: federation.averaging(0).ledger.head(federation.sites[index].key) for index in range(5)}
    rivals = [
        agreed(federation, [0, 1, 3], retire=[{"name": "site4", "last": heads[4]}]),
        agreed(federation, [1, 2, 4], retire=[{"name": "site0", "last": heads[0]}]),
        agreed(federation, [3, 4, 0], retire=[{"name": "site1", "last": heads[1]}]),
    ]
    for side, rival in zip(sides, rivals, strict=True):
        amend(federation, side[0], rival)
    federation.run(15 * SECOND)
    # No side is more than half of the sites: the smallest hash stays, whoever meets whom first.
    winner = min(rivals, key=lambda document: document.amendment.hash)
    out = (4, 0, 1)[rivals.index(winner)]
    left = federation.sites[out].key
    running = [index for index in range(5) if index != out]
    held = (entry for index in range(5) for entry in federation.averaging(index).ledger.entries())
    before = {entry.payload_hash for entry in held if entry.author != left}
    for one, other in pairs:
        federation.heal(one, other)
        federation.run(5 * SECOND)

    def is_settled() -> bool:
        ledgers = [federation.averaging(index).ledger for index in running]
        agree = {ledger.amended_rules.head_hash for ledger in ledgers} == {winner.amendment.hash}
        done = all(federation.averaging(index).complete for index in running)
        return agree and done and len({ledger.digest() for ledger in ledgers}) == 1

    assert federation.run(400 * SECOND, until=is_settled)
    for index in running:
        ledger = federation.averaging(index).ledger
        contents = [entry.payload_hash for entry in ledger.entries()]
        assert not ledger.faults
        assert len(set(contents)) == len(contents)
        assert before <= set(contents)
    assert federation.averaging(out).phase is Phase.LISTENING
