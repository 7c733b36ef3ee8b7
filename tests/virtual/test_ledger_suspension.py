"""Sites vote an author out: everybody ends with the same trunk without its entries, and an amendment puts them back."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.events import (
    AuthorSuspended,
    Divergence,
    HarmGone,
    HarmSeen,
    LedgerOutvoted,
    SuspensionLifted,
    VoteRefused,
)
from kmel_p2p.core.ledger.harm.vote import cast
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.reasons import SUSPENDED
from kmel_p2p.core.ledger.sync.messages import VoteDigest, Votes
from kmel_p2p.core.rounds import EndpointLook, Look, Looked
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.amending import agreed, amend
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered
from tests.testbed.ledger.toy import ToyCodec, toy_trunk, toy_world
from tests.testbed.network.links import Conditions

LOSSY = Conditions(latency_us=20 * MILLISECOND, jitter_us=20 * MILLISECOND, loss=0.2)
BAD = 3
MAJORITY = {"suspension_quorum": "majority"}


def training(
    sites: int, seed: int, entries: int = 30, conditions: Conditions = LOSSY, author: int = BAD
) -> LedgerFederation:
    kept = {"entry_limit": entries, "retain_entries": 512, **MAJORITY}
    world = toy_world(sites, kept, step_us=lambda index: SECOND // 10, conditions=conditions)
    made = LedgerFederation(world, seed)
    made.start_all()
    assert made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[author].key) >= 4)
    return made


def look(
    made: LedgerFederation, at: int, author: int, first: int = 1, harm: float = 1.0, times: int = 3, **found: Any
) -> None:
    """Site `at` sees harm in an author's entries, several one after the other. `found`: more of its looks."""
    key, ledger = made.sites[author].key, made.averaging(at).ledger
    for _ in range(times):
        number = ledger.head(key)
        part = EndpointLook(100, 1.0 + harm, 1.0, 0.05)
        made.network.command(made.host(at), Looked((Look(key, first, number, {0: part}, **found),)))
        # The next look is at something new only if the author published meanwhile.
        made.run(10 * SECOND, until=partial(_is_further, made, at, author, number))


def _is_further(made: LedgerFederation, at: int, author: int, number: int) -> bool:
    return made.averaging(at).ledger.head(made.sites[author].key) > number


def suspended(made: LedgerFederation, author: int = BAD) -> set[int | None]:
    key = made.sites[author].key
    return {made.averaging(index).ledger.suspended.get(key) for index in made.running()}


def without(made: LedgerFederation, index: int, author: int, first: int) -> bytes:
    """The trunk that a site should have, summed anew."""
    total = Accumulator.from_trunk(toy_trunk())
    key = made.sites[author].key
    for entry in made.averaging(index).ledger.entries():
        if entry.author != key or entry.number < first:
            total.add(ToyCodec().decode(entry.payload), entry.weight, entry.head_weights)
    return total.digest()


@pytest.mark.parametrize("seed", range(4))
def test_two_of_three_others_suspend_and_all_end_with_one_trunk(seed: int) -> None:
    made = training(4, seed)
    look(made, 0, BAD, first=2)
    assert suspended(made) == {None}
    look(made, 1, BAD, first=3)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {3})
    # It waits for the consortium, and nobody waits for it.
    made.run(3 * SECOND)
    assert made.averaging(BAD).waiting == SUSPENDED
    assert set(made.averaging(BAD).waits[0].sites) == {made.sites[0].key, made.sites[1].key}
    honest = [0, 1, 2]
    assert made.run(200 * SECOND, until=lambda: all(made.averaging(index).complete for index in honest))
    made.run(40 * SECOND)
    assert len(made.digests()) == 1
    assert {made.averaging(index).ledger.head(made.sites[index].key) for index in honest} == {30}
    for index in made.running():
        assert made.averaging(index).ledger.accumulator.digest() == without(made, index, BAD, 3)
        (told,) = made.events(index, AuthorSuspended)
        assert told.sites == tuple(sorted((made.sites[0].key, made.sites[1].key)))  # type: ignore[attr-defined]
        assert not made.events(index, Divergence)
        assert not made.events(index, LedgerOutvoted)


def test_who_finds_harm_in_most_of_the_others_takes_its_word_back_but_for_who_turned() -> None:
    made = training(4, 11)
    bad, votes = made.sites[BAD].key, made.averaging(0).ledger.votes

    def spoken_against() -> set[int]:
        return {at for at in (1, 2, 3) if made.sites[0].key in votes.against(made.sites[at].key)}

    look(made, 0, BAD)
    assert spoken_against() == {BAD}
    look(made, 0, 1)
    assert spoken_against() == {BAD}, "what the second one did says that this site is the odd one"
    look(made, 0, BAD, times=1)
    assert spoken_against() == set()
    assert made.run(60 * SECOND, until=lambda: all(not made.averaging(at).ledger.votes.against(bad) for at in (1, 2)))
    # Entries that take back what was given say so themselves.
    look(made, 0, 2, raised=False, turned_since=2)
    assert spoken_against() == {2}
    # Nothing in the first one any more: it is the only one but for that.
    look(made, 0, 1, harm=0.0, times=1)
    look(made, 0, 2, harm=0.0, times=1)
    look(made, 0, BAD, times=1)
    assert spoken_against() >= {BAD}


def test_a_lift_puts_every_entry_back_and_old_votes_count_no_more() -> None:
    made = training(4, 5)
    for voter in (0, 1):
        look(made, voter, BAD)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})
    made.run(5 * SECOND)
    stood = made.averaging(BAD).publisher.next_number
    amend(made, 2, agreed(made, [0, 1, 2], lift=["site3"]))
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {None})
    assert made.run(200 * SECOND, until=made.all_complete)
    made.run(30 * SECOND)
    assert len(made.digests()) == 1
    for index in range(4):
        assert len(made.events(index, SuspensionLifted)) == 1
        ledger = made.averaging(index).ledger
        assert ledger.head(made.sites[BAD].key) == 30 > stood
        assert ledger.accumulator.digest() == without(made, index, BAD, 1000)
        assert len(ledger.votes) == 0


def test_a_suspension_survives_a_restart_and_reaches_who_was_away() -> None:
    made = training(4, 6)
    made.crash(2)
    for voter in (0, 1):
        look(made, voter, BAD)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})
    made.crash(0)
    made.run(5 * SECOND)
    made.start(0)
    made.start(2)
    assert suspended(made) >= {1}
    assert made.averaging(0).ledger.suspended == {made.sites[BAD].key: 1}
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})
    assert made.run(200 * SECOND, until=lambda: all(made.averaging(index).complete for index in (0, 1, 2)))
    made.run(30 * SECOND)
    assert len(made.digests()) == 1


def test_a_site_that_lost_everything_comes_by_a_snapshot_to_the_same_trunk() -> None:
    world = toy_world(
        4,
        {"entry_limit": 60, "retain_entries": 32, **MAJORITY},
        step_us=lambda index: SECOND // 20,
        conditions=Conditions(),
    )
    made = LedgerFederation(world, 7)
    made.start_all()
    assert made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[BAD].key) >= 4)
    for voter in (0, 1):
        look(made, voter, BAD)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})
    floor = made.averaging(0).ledger.accepted
    assert made.run(120 * SECOND, until=lambda: bool(floor.floor))
    made.crash(2)
    made.sites[2].disk.lost()
    made.run(3 * SECOND)
    made.start(2)
    assert made.run(300 * SECOND, until=lambda: all(made.averaging(index).complete for index in (0, 1, 2)))
    made.run(40 * SECOND)
    assert suspended(made) == {1}
    assert len(made.digests()) == 1


def test_votes_on_both_sides_of_a_partition_come_together() -> None:
    made = training(5, 8, entries=300, conditions=Conditions())
    made.partition([0, 1], [2, 3, 4])
    made.run(3 * SECOND)
    look(made, 0, BAD, first=1, times=3)
    look(made, 2, BAD, first=2)
    look(made, 4, BAD, first=4)
    assert suspended(made) == {None}
    made.heal([0, 1], [2, 3, 4])
    # Site 0 saw no new entries of it while it was cut off: its vote comes with the next ones.
    look(made, 0, BAD, first=1)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {4})
    made.run(40 * SECOND)
    assert len(made.digests()) == 1


def test_one_hostile_site_suspends_nobody_whatever_it_signs() -> None:
    made = training(4, 9, conditions=Conditions())
    hostile, victim = made.world.identities[BAD], made.sites[0].key
    charter = made.world.charter.id
    forged = [cast(Identity(bytes([n]) * 32), charter, victim, 0, (1, 2), {0: 3}, True).encode() for n in range(60, 66)]
    own = [
        cast(hostile, charter, victim, term, (1, number), {0: 3}, True).encode()
        for term in (0, 1)
        for number in (1, 2, 10**6)
    ]
    for index in range(3):
        for votes in (forged, own, [b"", b"\xc0", own[0][:-1]]):
            made.network.command(made.host(index), Delivered(hostile.key, Votes(tuple(votes))))
        for n in range(20):
            made.network.command(made.host(index), Delivered(hostile.key, VoteDigest(bytes([n]) * 32)))
    made.run(5 * SECOND)
    assert suspended(made, 0) == {None}
    for index in range(3):
        assert len(made.averaging(index).ledger.votes) == 1
        assert 0 < len(made.events(index, VoteRefused)) <= 8
        # One site's word is shown by `status`, and makes no alarm.
        assert set(made.averaging(index).ledger.votes.against(victim)) == {hostile.key}
        assert not made.events(index, HarmSeen)
    assert made.run(200 * SECOND, until=made.all_complete)
    made.run(30 * SECOND)
    assert len(made.digests()) == 1


def test_two_looks_and_the_vote_of_another_site_are_told_and_a_small_effect_votes_nobody_out() -> None:
    made = training(4, 10, conditions=Conditions())
    look(made, 0, BAD, times=2)
    look(made, 1, BAD, times=4, harm=0.12)
    look(made, 2, BAD, times=1)
    made.run(5 * SECOND)
    assert suspended(made) == {None}
    assert all(len(made.averaging(index).ledger.votes) == 0 for index in range(4))
    # What one of three sites sees alone may be that its chemistry is another.
    assert not any(made.events(index, HarmSeen) for index in range(4))
    look(made, 2, BAD, times=2)
    made.run(5 * SECOND)
    assert suspended(made) == {None}
    (told,) = made.events(0, HarmSeen)
    assert told.changes == {0: pytest.approx(1.0)}  # type: ignore[attr-defined]
    assert not made.events(1, HarmSeen)
    look(made, 0, BAD, times=1, harm=0.0)
    look(made, 2, BAD, times=3, harm=0.0)
    made.run(20 * SECOND)
    assert made.events(0, HarmGone)


def test_in_a_federation_of_three_what_one_site_sees_is_told() -> None:
    made = training(3, 14, conditions=Conditions(), author=2)
    look(made, 0, 2, times=2)
    (told,) = made.events(0, HarmSeen)
    assert (told.others, told.sites) == (2, ())  # type: ignore[attr-defined]
    assert np.isfinite(made.averaging(0).trunk()).all()


def test_who_spoilt_the_trunk_along_the_way_is_voted_out_though_it_seems_indispensable_by_now() -> None:
    made = training(4, 12, conditions=Conditions())
    look(made, 0, BAD, harm=-0.5, spoilt=True)
    made.run(5 * SECOND)
    # One site alone votes, and tells nobody.
    assert made.sites[0].key in made.averaging(1).ledger.votes.against(made.sites[BAD].key)
    assert not any(made.events(index, HarmSeen) for index in range(4))
    look(made, 1, BAD, harm=-0.5, spoilt=True)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})


def test_who_turned_is_told_of_at_once_and_voted_out_from_there_on() -> None:
    made = training(4, 13, conditions=Conditions())
    look(made, 0, BAD, harm=-0.5, times=1, raised=False, turned_since=4)
    (told,) = made.events(0, HarmSeen)
    assert (told.first, told.here, told.changes) == (4, True, {})  # type: ignore[attr-defined]
    assert len(made.averaging(0).ledger.votes) == 0
    for voter in (0, 1):
        look(made, voter, BAD, harm=-0.5, times=2, raised=False, turned_since=4)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {4})


def test_a_late_vote_that_reaches_below_what_is_compacted_halts_nobody() -> None:
    world = toy_world(4, {"entry_limit": 80, "retain_entries": 16, **MAJORITY}, step_us=lambda index: SECOND // 20)
    made = LedgerFederation(world, 11)
    made.start_all()
    victim = made.sites[0].key
    compacted = made.averaging(1).ledger.accepted
    assert made.run(300 * SECOND, until=lambda: compacted.floor.get(victim, 0) > 8)
    head = made.averaging(1).ledger.head(victim) - 1
    for voter in (2, BAD):
        deep = cast(made.world.identities[voter], world.charter.id, victim, 0, (1, head), {0: 3}, True)
        for index in range(4):
            sender = made.sites[voter].key
            made.network.command(made.host(index), Delivered(sender, Votes((deep.encode(),))))
    assert made.run(300 * SECOND, until=made.all_complete)
    assert suspended(made, 0) == {None}
    assert not any(made.averaging(index).ledger.stale for index in range(4))
    assert len(made.digests()) == 1
