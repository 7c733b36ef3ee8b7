"""A site whose sum is outvoted stops publishing, fetches the ledger again and says so; of two equal halves none is."""

from __future__ import annotations

import numpy as np

from kmel_p2p.core.ledger.events import (
    AgreementRecord,
    Divergence,
    LedgerOutvoted,
    LedgerRestored,
    SnapshotAdopted,
    SnapshotRecord,
    SumsAgree,
)
from kmel_p2p.core.ledger.reasons import OUTVOTED
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.claims import ClaimSettings
from kmel_p2p.core.rounds import RoundAbandoned
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world

OFTEN = LedgerSettings(claims=ClaimSettings(interval_us=2 * SECOND))
VICTIM = 2


def training(sites: int, entries: int = 60) -> LedgerFederation:
    """A federation in the middle of a run, an entry per second and site."""
    world = toy_world(sites, {"entry_limit": entries}, settings=OFTEN, step_us=lambda index: SECOND // 10)
    made = LedgerFederation(world, seed=sites)
    made.start_all()
    assert made.run(60 * SECOND, until=lambda: made.averaging(VICTIM % sites).ledger.head(made.sites[0].key) >= 3)
    return made


def damage(made: LedgerFederation, *sites: int) -> None:
    for index in sites:
        made.averaging(index).ledger.accumulator._own()[3] += 1


def test_an_outvoted_site_stops_publishing_and_heals_without_help() -> None:
    made = training(4)
    damage(made, VICTIM)
    # Nobody gives it a snapshot for the moment, so that the stop can be seen.
    givers = [made.averaging(index).maintenance._server for index in (0, 1, 3)]
    for giver in givers:
        giver.on_ask = lambda sender, ask, now: None  # type: ignore[method-assign]
    assert made.run(60 * SECOND, until=lambda: bool(made.events(VICTIM, LedgerOutvoted)))
    (told,) = made.events(VICTIM, LedgerOutvoted)
    assert set(told.sites) <= {made.sites[i].key for i in (0, 1, 3)}  # type: ignore[attr-defined]
    assert len(told.sites) >= 2  # type: ignore[attr-defined]
    made.run(3 * SECOND)
    averaging = made.averaging(VICTIM)
    stopped = averaging.publisher.next_number
    made.run(10 * SECOND)
    assert averaging.publisher.next_number == stopped
    assert averaging.waiting == OUTVOTED
    assert averaging.waits[0].sites
    assert any(event.reason == OUTVOTED for event in made.events(VICTIM, RoundAbandoned))  # type: ignore[attr-defined]
    assert made.averaging(0).publisher.next_number > stopped
    for giver in givers:
        del giver.on_ask
    assert made.run(300 * SECOND, until=lambda: bool(made.events(VICTIM, LedgerRestored)))
    assert made.run(300 * SECOND, until=made.all_complete)
    made.run(20 * SECOND)
    assert len(made.digests()) == 1
    assert len(made.events(VICTIM, SnapshotAdopted)) == 1
    # Everybody who was alarmed hears that it is over.
    for index in range(4):
        alarmed = {event.site for event in made.events(index, Divergence)}  # type: ignore[attr-defined]
        assert {event.site for event in made.events(index, SumsAgree)} == alarmed  # type: ignore[attr-defined]
        made.sites[index].disk.settle(made.network.now)
        kept = {record.site for record in made.sites[index].disk.others if isinstance(record, AgreementRecord)}
        assert kept == alarmed
    assert not any(made.events(index, LedgerOutvoted) for index in (0, 1, 3))


def test_what_was_taken_on_trust_is_on_record() -> None:
    made = training(4)
    damage(made, VICTIM)
    records: list[SnapshotRecord] = []
    made.on_write = lambda site, record: records.append(record) if isinstance(record, SnapshotRecord) else None
    assert made.run(120 * SECOND, until=lambda: bool(records))
    others = {made.sites[index].key for index in (0, 1, 3)}
    assert records[0].server in others
    assert len(set(records[0].attested) & others) >= 2


def test_of_two_equal_halves_neither_takes_over_what_the_other_has() -> None:
    made = training(4)
    damage(made, 0, 1)
    made.run(60 * SECOND)
    assert all(made.events(index, Divergence) for index in range(4))
    assert not any(made.events(index, LedgerOutvoted) for index in range(4))
    assert np.array_equal(made.averaging(0).ledger.accumulator._sum, made.averaging(1).ledger.accumulator._sum)


def test_of_two_sites_neither_can_say_which_is_damaged() -> None:
    made = training(2)
    damage(made, 0)
    made.run(60 * SECOND)
    assert all(made.events(index, Divergence) for index in range(2))
    assert not any(made.events(index, LedgerOutvoted) for index in range(2))
