"""Slow sites and sites that have had enough hold nobody back."""

from __future__ import annotations

from kmel_p2p.core.ledger.events import EntryPublished
from kmel_p2p.core.rounds import Phase, PhaseChanged, RoundTrained, Waiting
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import ToyCodec, toy_world


def test_stragglers_take_fewer_steps_and_publish_at_the_same_pace() -> None:
    world = toy_world(
        6,
        {"entry_limit": 40, "steps_per_entry": 12},
        {"max_lead": 4},
        step_us=lambda index: (3 if index >= 4 else 1) * SECOND // 12,
    )
    federation = LedgerFederation(world, 1)
    federation.start_all()
    assert federation.run(300 * SECOND, until=federation.all_complete)
    finished = [max(at for at, event in site.events if isinstance(event, EntryPublished)) for site in federation.sites]
    assert max(finished) - min(finished) <= 6 * SECOND
    ledger = federation.averaging(0).ledger
    for index, steps in ((0, 12), (3, 12), (4, 4), (5, 4)):
        taken = [entry.steps for entry in ledger.entries() if entry.author == federation.sites[index].key]
        assert taken[0] == 12
        assert taken.count(steps) >= 38
    waits = [e.reason for e in federation.events(0, Waiting) if isinstance(e, Waiting) and "ahead" in e.reason]
    assert len(waits) <= 1


def test_a_site_whose_scoring_is_slow_keeps_all_its_steps() -> None:
    world = toy_world(
        4,
        {"entry_limit": 20, "steps_per_entry": 12},
        {"max_lead": 4},
        step_us=lambda index: SECOND // 12,
        scoring_us=lambda index: 5 * SECOND if index == 3 else 0,
    )
    federation = LedgerFederation(world, 3)
    federation.start_all()
    assert federation.run(300 * SECOND, until=federation.all_complete)
    for site in federation.sites:
        taken = [entry.steps for entry in federation.averaging(0).ledger.entries() if entry.author == site.key]
        assert taken == [12] * 20


def test_a_site_on_a_plateau_listens_and_the_others_go_on() -> None:
    federation = LedgerFederation(toy_world(3, {"entry_limit": 10}, {"patience": 2}), 2)
    federation.start_all()
    site = federation.sites[0]
    site.trainer = None  # answered by hand below

    def answer() -> None:
        number = federation.averaging(0).publisher.next_number
        payload = ToyCodec.encode([0], [1000 + number])
        federation.network.command(
            federation.host(0), RoundTrained(number, payload, 10, SECOND, f"round-{number}", 1.0)
        )

    for expected in (1, 2, 3):
        federation.run(8 * SECOND)
        answer()
        federation.run(SECOND)
        assert federation.averaging(1).ledger.head(site.key) == expected
    assert federation.averaging(0).phase is Phase.LISTENING
    changes = [e.reason for e in federation.events(0, PhaseChanged) if isinstance(e, PhaseChanged)]
    assert changes[-1] == "validation has not improved over 2 entries"
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert [federation.averaging(2).ledger.head(s.key) for s in federation.sites] == [3, 10, 10]
    assert len(federation.digests()) == 1
