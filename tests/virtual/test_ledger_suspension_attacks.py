"""What hostile sites, amendments, snapshots and restarts try to make of votes: one trunk everywhere, and no halt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.events import AuthorSuspended, HarmSeen, VoteRefused
from kmel_p2p.core.ledger.harm.allowance import AT_ONCE
from kmel_p2p.core.ledger.harm.vote import HarmVote, cast
from kmel_p2p.core.ledger.reasons import STALE
from kmel_p2p.core.ledger.sync.messages import MAX_VOTES, Votes
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.amending import agreed, amend
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered
from tests.testbed.ledger.toy import toy_charter, toy_identities, toy_world

BAD = 3
SETTINGS = {"entry_limit": 60, "retain_entries": 64, "suspension_quorum": "majority"}


def training(seed: int, founders: int = 4, sites: int = 0, head: int = 12, **settings: Any) -> LedgerFederation:
    """Founders in mid-run, and keys of further sites that are not on the roster."""
    sites = sites or founders
    world = toy_world(sites, {**SETTINGS, **settings}, step_us=lambda index: SECOND // 20)
    charter = toy_charter(toy_identities(sites)[:founders], {**SETTINGS, "steps_per_entry": 10, **settings})
    made = LedgerFederation(dataclasses.replace(world, charter=charter), seed)
    for index in range(founders):
        made.start(index)
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[BAD].key) >= head)
    return made


def vote(made: LedgerFederation, voter: int, author: int, first: int, number: int, **changes: Any) -> HarmVote:
    """A vote as `voter` signs it."""
    values: dict[str, Any] = {"term": 0, "against": True, **changes}
    who: Identity = made.world.identities[voter]
    author_key = made.world.identities[author].key
    classes = values.get("classes", {0: 2})
    return cast(who, made.world.charter.id, author_key, values["term"], (first, number), classes, values["against"])


def deliver(made: LedgerFederation, votes: list[HarmVote], to: list[int], sender: int = BAD) -> None:
    for index in to:
        message = Votes(tuple(each.encode() for each in votes))
        made.network.command(made.host(index), Delivered(made.world.identities[sender].key, message))


def suspended(made: LedgerFederation, author: int = BAD) -> set[int | None]:
    key = made.world.identities[author].key
    return {made.averaging(index).ledger.suspended.get(key) for index in made.running()}


def lives_on(made: LedgerFederation, honest: list[int]) -> bool:
    """Whether the honest sites publish all that they may and hold one trunk."""
    ended = made.run(300 * SECOND, until=lambda: all(made.averaging(index).complete for index in honest))
    made.run(40 * SECOND)
    return ended and len({made.averaging(index).ledger.digest() for index in honest}) == 1


def added(made: LedgerFederation) -> dict[str, Any]:
    return {"add": [{"name": "site4", "key": made.world.identities[4].key.hex()}]}


def rekeyed(made: LedgerFederation) -> dict[str, Any]:
    last = made.averaging(2).ledger.head(made.sites[0].key)
    return {"rekey": [{"name": "site0", "key": made.world.identities[4].key.hex(), "last": last}]}


def retired(made: LedgerFederation) -> dict[str, Any]:
    return {"retire": [{"name": "site0", "last": made.averaging(2).ledger.head(made.sites[0].key)}]}


@pytest.mark.parametrize("change", [added, rekeyed, retired])
def test_a_site_that_joins_leaves_or_gets_a_new_key_ends_no_suspension(
    change: Callable[[LedgerFederation], dict[str, Any]],
) -> None:
    made = training(1, sites=5)
    deliver(made, [vote(made, 0, BAD, 3, 9), vote(made, 1, BAD, 4, 9)], [0, 1, 2])
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {4})
    made.run(3 * SECOND)
    amend(made, 2, agreed(made, [0, 1, 2], **change(made)))
    made.run(40 * SECOND)
    assert {made.averaging(index).maintenance.amendments.constitution.number for index in (0, 1, 2)} == {1}
    assert suspended(made) == {4}
    assert lives_on(made, [1, 2])


def test_where_every_site_has_compacted_what_a_suspension_takes_out_a_lift_ends_the_wait() -> None:
    made = training(2, head=100, entry_limit=200, retain_entries=16)
    late = [vote(made, voter, BAD, 3, 9) for voter in (0, 1)]
    deliver(made, late, [0, 1, 2, 3])
    made.run(30 * SECOND)
    assert suspended(made) == {3}
    assert all(made.averaging(index).ledger.stale for index in range(4))
    assert made.averaging(2).waiting == STALE
    amend(made, 2, agreed(made, [0, 1, 2], lift=["site3"]))
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {None})
    assert not any(made.averaging(index).ledger.stale for index in range(4))
    assert lives_on(made, [0, 1, 2, 3])
    assert made.averaging(0).ledger.head(made.sites[BAD].key) == 200


@pytest.mark.parametrize("number", [6, 30])
def test_votes_about_entries_that_a_site_never_had_count_there_too(number: int) -> None:
    made = training(3)
    made.crash(2)
    about = [vote(made, 0, BAD, 3, number), vote(made, 1, BAD, 3, number)]
    amend(made, 0, agreed(made, [0, 1, 2], retire=[{"name": "site3", "last": 5}]))
    made.run(5 * SECOND)
    deliver(made, about, [0, 1], sender=0)
    made.run(5 * SECOND)
    made.start(2)
    assert lives_on(made, [0, 1, 2])
    assert len({made.averaging(index).ledger.votes.digest() for index in (0, 1, 2)}) == 1
    assert len({made.averaging(index).ledger.standing for index in (0, 1, 2)}) == 1


def test_a_giver_of_a_snapshot_slips_no_votes_in_and_leaves_none_out() -> None:
    made = training(4)
    ledger = made.averaging(0).ledger
    sound = vote(made, 0, BAD, 3, 9)
    assert ledger.vote(sound)
    assert ledger.vote(vote(made, 1, BAD, 4, 9))
    strangers = [
        vote(made, 2, 1, 2**40 - 1, 2**40, term=2**31),
        cast(Identity(bytes([77]) * 32), made.world.charter.id, made.sites[1].key, 0, (1, 2), {0: 2}, True),
        vote(made, 2, 1, 1, 2, classes={5: 2}),
    ]
    true = ledger.snapshot()
    more = dataclasses.replace(true, votes=(*true.votes, *(each.encode() for each in strangers)))
    fewer = dataclasses.replace(true, votes=())
    for snapshot in (more, fewer):
        assert snapshot.problem() == ""
        assert snapshot.digest() == true.digest()
    newcomer = made.averaging(2).ledger
    newcomer.adopt(more)
    assert newcomer.suspended == ledger.suspended == {made.sites[BAD].key: 4}
    assert newcomer.votes.digest() == ledger.votes.digest()
    other = made.averaging(1).ledger
    other.adopt(fewer)
    assert other.stale
    for each in ledger.votes:
        other.vote(each)
    # Nothing needs to be fetched again: what was left out is what the votes say.
    assert not other.stale
    assert other.digest() == ledger.digest() == newcomer.digest()


def test_a_restart_after_a_lift_and_a_second_suspension_finds_the_second_one() -> None:
    made = training(5)
    deliver(made, [vote(made, 0, BAD, 1, 9), vote(made, 1, BAD, 1, 9)], [0, 1, 2, 3])
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {1})
    amend(made, 2, agreed(made, [0, 1, 2], lift=["site3"]))
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {None})
    again = [vote(made, 0, BAD, 5, 12, term=1), vote(made, 1, BAD, 5, 12, term=1)]
    deliver(made, again, [0, 1, 2, 3])
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {5})
    made.run(3 * SECOND)
    made.crash(2)
    made.start(2)
    assert made.averaging(2).ledger.suspended == {made.sites[BAD].key: 5}
    assert lives_on(made, [0, 1, 2])


def test_votes_of_a_site_that_a_later_amendment_adds_accuse_nobody_and_come_again() -> None:
    made = training(6, sites=5)
    early = [vote(made, 4, BAD, 3, 9), vote(made, 0, BAD, 3, 9, term=1)]
    deliver(made, early, [0, 1], sender=2)
    made.run(2 * SECOND)
    assert not made.events(0, VoteRefused)
    assert len(made.averaging(0).ledger.votes) == 0


def test_one_voter_with_endless_votes_is_given_little_time_and_makes_no_noise() -> None:
    made = training(7)
    key, panel_ledger = made.sites[0].key, made.averaging(1).ledger
    endless = [vote(made, BAD, 0, 1 + number % 7, 10 + number, classes={0: 1 + number % 3}) for number in range(640)]
    for start in range(0, 640, MAX_VOTES):
        deliver(made, endless[start : start + MAX_VOTES], [1])
    known = panel_ledger.votes.of(made.sites[BAD].key, key)
    assert known is not None
    assert known.number <= 10 + AT_ONCE * 4
    assert suspended(made, 0) == {None}
    assert not made.events(1, HarmSeen)
    assert not made.events(1, AuthorSuspended)


def test_votes_on_places_that_the_charter_lacks_are_left() -> None:
    made = training(8)
    deliver(made, [vote(made, BAD, 0, 1, 9, classes={1: 5}), vote(made, BAD, 1, 1, 9, classes={1023: 5})], [0, 1, 2])
    made.run(2 * SECOND)
    assert all(len(made.averaging(index).ledger.votes) == 0 for index in (0, 1, 2))


def test_votes_made_up_in_a_sites_name_do_not_hold_up_its_own() -> None:
    made = training(9)
    made_up = [dataclasses.replace(vote(made, 0, 2, 1, 5 + n), signature=bytes(64)) for n in range(100)]
    for start in range(0, 100, 4):
        deliver(made, made_up[start : start + 4], [1])
    deliver(made, [vote(made, 0, BAD, 3, 9)], [1])
    assert set(made.averaging(1).ledger.votes.against(made.sites[BAD].key)) == {made.sites[0].key}
    assert len(made.averaging(1).ledger.votes) == 1


def test_a_suspended_site_that_is_retired_leaves_what_votes_took_out_where_it_is() -> None:
    made = training(10)
    deliver(made, [vote(made, 0, BAD, 3, 9), vote(made, 1, BAD, 3, 9)], [0, 1, 2, 3])
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {3})
    amend(made, 2, agreed(made, [0, 1, 2], retire=[{"name": "site3", "last": 8}]))
    assert lives_on(made, [0, 1, 2])
    assert {made.averaging(index).ledger.suspended[made.sites[BAD].key] for index in (0, 1, 2)} == {3}


def test_a_site_without_which_too_few_are_left_may_take_its_word_back() -> None:
    made = training(11)
    deliver(made, [vote(made, 0, BAD, 3, 9), vote(made, 1, BAD, 3, 9)], [0, 1, 2, 3])
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {3})
    deliver(made, [vote(made, 1, BAD, 9, 10, against=False)], [2], sender=1)
    assert made.run(60 * SECOND, until=lambda: suspended(made) == {None})
    assert lives_on(made, [0, 1, 2, 3])
