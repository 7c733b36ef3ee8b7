"""Newcomers and long-absent sites: a snapshot that a quorum attests, in bounded time, while the others go on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kmel_p2p.core.ledger.events import EntriesCompacted, EntryPublished, SnapshotAdopted, SnapshotRefused
from kmel_p2p.core.ledger.sync.messages import PART_BYTES, SnapshotPart
from kmel_p2p.core.rounds import RoundOpened
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.links import Conditions


def busy(sites: int, seed: int, entries: int = 150, parts: int = 4, **changes: Any) -> LedgerFederation:
    """One entry per site and second, eight of each kept; a snapshot takes about so many parts."""
    world = toy_world(
        sites,
        {"entry_limit": entries, "retain_entries": 8},
        initial_trunk=np.linspace(-1, 1, parts * PART_BYTES // 8 - 10_000).astype(np.float32),
        step_us=lambda index: SECOND // 10,
        **changes,
    )
    return LedgerFederation(world, seed)


def moments(federation: LedgerFederation, index: int, kind: type) -> list[Micros]:
    return [at for at, event in federation.sites[index].events if isinstance(event, kind)]


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_newcomer_trains_within_a_minute_and_nobody_waits_for_it(loss: float) -> None:
    federation = busy(5, 1, conditions=Conditions(latency_us=20 * MILLISECOND, jitter_us=20 * MILLISECOND, loss=loss))
    for index in range(4):
        federation.start(index)
    federation.run(60 * SECOND)
    assert federation.events(0, EntriesCompacted)
    came = federation.network.now
    federation.start(4)
    assert federation.run(60 * SECOND, until=lambda: bool(federation.events(4, EntryPublished)))
    assert federation.events(4, SnapshotAdopted)
    opened = moments(federation, 4, RoundOpened)[0]
    assert opened - came < 60 * SECOND
    published = moments(federation, 0, EntryPublished)
    gaps = [later - earlier for earlier, later in pairwise(published)]
    # Also where a request for the snapshot is lost, and the newcomer asks another site 15 s later.
    assert max(gaps) < (2 * SECOND if loss == 0 else 5 * SECOND)
    assert federation.run(600 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    assert federation.averaging(0).ledger.vector[federation.sites[4].key] == 150


def test_when_the_giver_dies_another_gives() -> None:
    federation = busy(5, 2, parts=13, conditions=Conditions(latency_us=200 * MILLISECOND))
    for index in range(4):
        federation.start(index)
    federation.run(60 * SECOND)
    givers: list[int] = []

    class Watch:
        def stepped(self, host: Any, now: Micros) -> None: ...
        def refused(self, *what: Any) -> None: ...
        def effect(self, host: Any, effect: Any, size_bytes: int, now: Micros) -> None:
            if isinstance(getattr(effect, "message", None), SnapshotPart):
                givers.append(host.index)

    federation.network.watchers.append(Watch())
    federation.start(4)
    assert federation.run(30 * SECOND, until=lambda: bool(givers), step=50 * MILLISECOND)
    federation.crash(givers[0])
    assert federation.run(120 * SECOND, until=lambda: bool(federation.events(4, SnapshotAdopted)))
    assert len(set(givers)) == 2
    federation.start(givers[0])
    assert federation.run(600 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1


def test_a_false_snapshot_is_not_attested_and_not_used() -> None:
    federation = busy(5, 3)
    for index in range(4):
        federation.start(index)
    federation.run(60 * SECOND)
    # The first site that the newcomer asks has a false sum.
    liar = max(federation.sites[:4], key=by_key)
    federation.averaging(liar.index).ledger.accumulator._own()[8] += 10**9
    federation.start(4, ready=False)
    federation.averaging(4).maintenance.fetcher._rng = ChooseLast()  # type: ignore[assignment]
    assert federation.run(240 * SECOND, until=lambda: bool(federation.events(4, SnapshotAdopted)))
    refused = [e for e in federation.events(4, SnapshotRefused) if isinstance(e, SnapshotRefused)]
    assert refused == [SnapshotRefused(liar.key, "other sites hold something else at its vector")]
    others = [index for index in range(4) if index != liar.index]
    federation.run(5 * SECOND)
    assert federation.averaging(4).ledger.digest() in {federation.averaging(i).ledger.digest() for i in others}


def test_one_giver_alone_convinces_nobody_while_the_others_are_away() -> None:
    federation = busy(4, 6)
    for index in range(3):
        federation.start(index)
    federation.run(60 * SECOND)
    federation.averaging(0).ledger.accumulator._own()[8] += 10**9
    for index in (1, 2):
        federation.crash(index)
    federation.run(5 * SECOND)
    federation.start(3, ready=False)
    federation.run(200 * SECOND)
    assert not federation.events(3, SnapshotAdopted)
    assert federation.averaging(3).maintenance.fetcher.progress.startswith(
        "waiting for other sites to attest a snapshot (1 of 2 needed"
    )
    for index in (1, 2):
        federation.start(index)
    assert federation.run(300 * SECOND, until=lambda: bool(federation.events(3, SnapshotAdopted)))
    refused = [event.server for event in federation.events(3, SnapshotRefused)]  # type: ignore[attr-defined]
    assert set(refused) == {federation.sites[0].key}
    federation.run(10 * SECOND)
    assert federation.averaging(3).ledger.digest() in {federation.averaging(i).ledger.digest() for i in (1, 2)}


@pytest.mark.parametrize(("sites", "attested"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3)])
def test_more_than_half_of_the_other_sites_of_the_roster_attest(sites: int, attested: int) -> None:
    federation = busy(sites, 7)
    federation.start(0)
    assert federation.averaging(0).maintenance.fetcher._needed() == attested


class ChooseLast:
    """Randomness that always takes the last."""

    def choice(self, number: Any) -> Any:
        return number[-1]


def test_a_site_that_was_alone_for_long_brings_its_own_entries_back() -> None:
    federation = busy(5, 4, entries=120)
    federation.start_all()
    federation.run(15 * SECOND)
    federation.partition([0, 1, 2, 3], [4])
    federation.run(60 * SECOND)
    alone = federation.averaging(4).ledger
    own = federation.sites[4].key
    before = alone.head(own)
    assert before > federation.averaging(0).ledger.head(own) + 20
    assert federation.averaging(0).ledger.accepted.floor[federation.sites[1].key] > alone.head(federation.sites[1].key)
    federation.heal([0, 1, 2, 3], [4])
    assert federation.run(120 * SECOND, until=lambda: bool(federation.events(4, SnapshotAdopted)))
    assert federation.run(600 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    assert all(federation.averaging(index).ledger.head(own) == 120 for index in range(5))
    assert not any(federation.averaging(index).ledger.faults for index in range(5))


def test_memory_and_disk_stay_bounded_over_a_long_run_and_restarts_find_all() -> None:
    federation = busy(4, 5, entries=400)
    federation.start_all()
    most = {"memory": 0, "disk": 0}

    def look() -> bool:
        for site in federation.sites:
            if federation.host(site.index).running:
                site.disk.settle(federation.network.now)
                held = len(list(federation.averaging(site.index).ledger.entries()))
                most["memory"] = max(most["memory"], held)
                most["disk"] = max(most["disk"], len(site.disk.entries))
        return federation.all_complete()

    for index in (1, 2, 3):
        federation.run(90 * SECOND, until=look)
        federation.crash(index)
        federation.run(5 * SECOND, until=look)
        federation.start(index)
    assert federation.run(900 * SECOND, until=look)
    assert len(federation.digests()) == 1
    # Eight kept, about as many until all agree and it is worth a rewrite, and what a restart leaves behind.
    assert most["memory"] <= 4 * 40
    assert most["disk"] <= 4 * 40
    assert federation.averaging(0).ledger.vector == {site.key: 400 for site in sorted(federation.sites, key=by_key)}
    assert len(list(federation.averaging(0).ledger.entries())) < 4 * 24


def by_key(site: Any) -> bytes:
    return bytes(site.key)
