"""Rounds of the ledger mode between machines that loss, duplication, crashes and operators get in the way of."""

from __future__ import annotations

import pytest

from kmel_p2p.core.ledger.events import EntryPublished, EntryRecord
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.membership import MemberUnreachable
from kmel_p2p.core.rounds import (
    Approve,
    EntryHeld,
    Phase,
    Ready,
    Reject,
    RoundAbandoned,
    RoundFailed,
    RoundOpened,
    RunComplete,
)
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import ToyTrainer, toy_world
from tests.testbed.network.links import Conditions

LOSSY = Conditions(latency_us=20 * MILLISECOND, jitter_us=30 * MILLISECOND, loss=0.3, duplicate=0.2, reorder=0.2)


def heads(federation: LedgerFederation, index: int) -> list[int]:
    """Newest numbers by author, as one site holds them."""
    ledger = federation.averaging(index).ledger
    return [ledger.head(site.key) for site in federation.sites]


def test_nobody_publishes_before_a_majority_is_ready() -> None:
    federation = LedgerFederation(toy_world(5), seed=1)
    for index in range(5):
        federation.start(index, ready=index < 2)
    federation.run(60 * SECOND)
    assert heads(federation, 0) == [0] * 5
    assert federation.averaging(0).waiting.startswith("2 of 3 sites are ready to start")
    federation.network.command(federation.host(2), Ready())
    assert federation.run(20 * SECOND, until=lambda: sum(heads(federation, 0)) > 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_lossy_network_ends_with_equal_digests_and_the_run_complete(seed: int) -> None:
    federation = LedgerFederation(toy_world(5, conditions=LOSSY), seed)
    federation.start_all()
    assert federation.run(600 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    for index in range(5):
        assert heads(federation, index) == [6] * 5
        assert federation.averaging(index).phase is Phase.LISTENING
        assert federation.events(index, RunComplete)
        trainer = federation.sites[index].trainer
        assert isinstance(trainer, ToyTrainer)
        assert trainer.committed == [1, 2, 3, 4, 5, 6]


def test_a_fast_site_keeps_its_lead_within_the_charters_bound() -> None:
    slow = 4
    world = toy_world(3, {"entry_limit": 12}, {"max_lead": 2}, step_us=lambda i: (slow if i == 2 else 1) * SECOND // 10)
    federation = LedgerFederation(world, seed=3)
    federation.start_all()
    leads = []

    def look() -> bool:
        at = heads(federation, 0)
        leads.append(at[0] - at[2])
        return federation.all_complete()

    assert federation.run(1000 * SECOND, until=look)
    assert max(leads) == 2


def test_a_site_whose_trainer_hangs_holds_the_others_back_for_their_patience_only() -> None:
    hangs = 2
    world = toy_world(
        3, {"entry_limit": 20}, {"max_lead": 2}, step_us=lambda i: (10**6 if i == hangs else 1) * SECOND // 10
    )
    federation = LedgerFederation(world, seed=6)
    federation.start_all()
    assert federation.run(200 * SECOND, until=lambda: heads(federation, 0)[:2] == [20, 20])
    assert federation.events(0, MemberUnreachable) == []


def test_a_site_that_lost_its_trainer_holds_nobody_back() -> None:
    world = toy_world(
        3, {"entry_limit": 20}, {"max_lead": 2}, step_us=lambda i: (10**6 if i == 2 else 1) * SECOND // 10
    )
    federation = LedgerFederation(world, seed=7)
    federation.start_all()
    federation.run(5 * SECOND, until=lambda: heads(federation, 0)[0] == 2)
    federation.network.command(federation.host(2), RoundFailed(1, "the trainer ended with signal 9"))
    assert federation.averaging(2).phase is Phase.PREPARING
    assert federation.run(25 * SECOND, until=lambda: heads(federation, 0)[:2] == [20, 20])


def test_a_site_far_behind_holds_nobody_up_while_it_catches_up() -> None:
    federation = LedgerFederation(toy_world(3, {"entry_limit": 60}, {"max_lead": 2}), seed=8)
    federation.start(0)
    federation.start(1)
    assert federation.run(200 * SECOND, until=lambda: heads(federation, 0)[0] >= 20)
    federation.start(2)
    assert federation.run(60 * SECOND, until=lambda: heads(federation, 0)[2] >= 1)
    ahead = heads(federation, 0)[0] - heads(federation, 0)[2]
    assert federation.run(200 * SECOND, until=lambda: heads(federation, 0)[0] >= 50)
    still_ahead = heads(federation, 0)[0] - heads(federation, 0)[2]
    assert ahead - 3 <= still_ahead <= ahead + 3
    assert federation.run(200 * SECOND, until=federation.all_complete)
    # It founded the federation: the others have gone on for as long as it had entries to make.
    assert heads(federation, 0)[2] == 60
    assert min(heads(federation, 0)[:2]) > 70


def test_a_dead_site_holds_nobody_back() -> None:
    federation = LedgerFederation(toy_world(3, {"entry_limit": 20}, {"max_lead": 2}), seed=4)
    federation.start_all()
    federation.run(8 * SECOND)
    federation.crash(2)
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert heads(federation, 0)[:2] == [20, 20]
    federation.start(2)
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert heads(federation, 0) == [20, 20, 20]
    assert len(federation.digests()) == 1


@pytest.mark.parametrize("durable", [False, True])
def test_a_crash_between_store_and_persisted_neither_loses_nor_repeats_an_entry(durable: bool) -> None:
    """Before the record is durable the round is gone; after, the entry is found in the store and spreads."""
    federation = LedgerFederation(toy_world(3), seed=5)
    crashes: list[int] = []

    def on_write(site, record) -> None:  # type: ignore[no-untyped-def]
        mine = isinstance(record, EntryRecord) and record.author == site.key
        if site.index == 0 and mine and record.number == 3 and not crashes:
            crashes.append(record.number)
            delay = federation.world.persist_us + (0 if durable else -1)
            # At equal times the crash comes first: the record is durable, `Persisted` never arrives.
            federation.network.call_at(federation.network.now + delay, lambda: federation.crash(0))

    federation.on_write = on_write
    federation.start_all()
    federation.run(60 * SECOND, until=lambda: bool(crashes))
    federation.run(SECOND)
    assert not federation.host(0).running
    kept = federation.sites[0].disk.numbers_of(federation.sites[0].key)
    assert kept == ([1, 2, 3] if durable else [1, 2])
    federation.start(0)
    trainer = federation.sites[0].trainer
    assert isinstance(trainer, ToyTrainer)
    assert trainer.state == f"round-{kept[-1]}"
    assert federation.run(300 * SECOND, until=federation.all_complete)
    assert heads(federation, 1) == [6, 6, 6]
    assert len(federation.digests()) == 1
    assert not federation.averaging(1).ledger.faults


def test_an_entry_on_hold_leaves_only_when_approved() -> None:
    world = toy_world(3, settings=LedgerSettings(hold=True))
    federation = LedgerFederation(world, seed=6)
    federation.start_all()
    assert federation.run(60 * SECOND, until=lambda: bool(federation.events(0, EntryHeld)))
    federation.run(30 * SECOND)
    assert heads(federation, 1)[0] == 0
    federation.network.command(federation.host(0), Reject(1, "not today"))
    assert federation.events(0, RoundAbandoned) == [RoundAbandoned(1, "not today", rejected=True)]
    assert federation.run(60 * SECOND, until=lambda: len(federation.events(0, EntryHeld)) == 2)
    federation.network.command(federation.host(0), Approve(1))
    assert federation.run(30 * SECOND, until=lambda: heads(federation, 1)[0] == 1)
    trainer = federation.sites[0].trainer
    assert isinstance(trainer, ToyTrainer)
    assert (trainer.abandoned, trainer.committed) == ([1], [1])


def test_a_failed_round_waits_until_the_trainer_is_ready_again() -> None:
    federation = LedgerFederation(toy_world(3), seed=7)
    federation.start_all()
    assert federation.run(60 * SECOND, until=lambda: bool(federation.events(0, RoundOpened)), step=MILLISECOND)
    # The trainer dies: the virtual one must not answer any more.
    site = federation.sites[0]
    site.trainer, kept = None, site.trainer
    federation.run(SECOND)
    site.trainer = kept
    federation.network.command(federation.host(0), RoundFailed(1, "the trainer ended with signal 9"))
    federation.run(30 * SECOND)
    assert len(federation.events(0, RoundOpened)) == 1
    assert heads(federation, 0)[0] == 0
    federation.network.command(federation.host(0), Ready())
    assert federation.run(300 * SECOND, until=federation.all_complete)
    assert heads(federation, 1) == [6, 6, 6]


def test_a_site_that_lost_its_store_gets_its_own_entries_back_before_it_publishes() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 12}), seed=8)
    federation.start_all()
    assert federation.run(60 * SECOND, until=lambda: heads(federation, 1)[0] >= 5)
    federation.crash(0)
    federation.sites[0].disk.lost()
    federation.run(10 * SECOND)
    federation.start(0)
    assert federation.run(300 * SECOND, until=federation.all_complete)
    assert heads(federation, 1) == [12] * 4
    assert len(federation.digests()) == 1
    assert all(not federation.averaging(i).ledger.faults for i in range(4))
    numbers = [e.number for e in federation.events(0, EntryPublished) if isinstance(e, EntryPublished)]
    assert numbers == sorted(set(numbers))


def test_a_healed_partition_ends_with_equal_digests() -> None:
    federation = LedgerFederation(toy_world(6, {"entry_limit": 15}), seed=9)
    federation.start_all()
    federation.run(8 * SECOND)
    federation.partition([0, 1, 2], [3, 4, 5])
    federation.run(60 * SECOND)
    assert heads(federation, 0)[:3] == [15] * 3
    assert heads(federation, 3)[3:] == [15] * 3
    federation.heal([0, 1, 2], [3, 4, 5])
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert heads(federation, 0) == [15] * 6
    assert len(federation.digests()) == 1
