"""A site that says logs go further than they do holds nobody up for longer than its word counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import HeadShown, HeadUnproved, SnapshotAdopted
from kmel_p2p.core.ledger.log.entry import create
from kmel_p2p.core.ledger.sync.messages import Compacted, Have, Heads
from kmel_p2p.core.ledger.sync.statements import ASK_AFTER, MOVES_WITHIN, TRUSTED_FOR
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered, LedgerHost
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.links import Conditions

LIAR = 3
FAR = 2**39
LIMIT = 30

Lie = Callable[[SiteKey, SiteKey], dict[SiteKey, int]]
"""(liar, receiver) -> the numbers that the liar names wrongly."""


class LyingHost(LedgerHost):
    """An honest machine whose vectors are changed on their way out."""

    def __init__(self, averaging: LedgerAveraging, lie: Lie) -> None:
        super().__init__(averaging)
        self._lie = lie

    def poll(self) -> Effect | None:
        effect = super().poll()
        if isinstance(effect, Send) and isinstance(effect.message, Have):
            lies = self._lie(self.averaging.antientropy._own, effect.to)
            vector = {**effect.message.vector, **lies}
            return dataclasses.replace(effect, message=dataclasses.replace(effect.message, vector=vector))
        return effect


def federation(lie: Lie | None) -> LedgerFederation:
    world = toy_world(4, {"entry_limit": LIMIT, "retain_entries": 16}, {"max_lead": 2})
    if lie is not None:
        told = lie
        world = dataclasses.replace(
            world, make_host=lambda i, averaging: LyingHost(averaging, told) if i == LIAR else LedgerHost(averaging)
        )
    made = LedgerFederation(world, seed=21)
    made.start_all()
    return made


def until_trained(made: LedgerFederation) -> int:
    """Microseconds until the three honest sites have published all they may."""

    def done() -> bool:
        ledger = made.averaging(0).ledger
        return all(ledger.head(made.sites[index].key) == LIMIT for index in range(LIAR))

    assert made.run(900 * SECOND, until=done), [made.averaging(i).waiting for i in range(4)]
    return made.network.now


LIES: list[Lie] = [lambda own, to: {to: FAR}, lambda own, to: {own: FAR}, lambda own, to: {SiteKey(b"\xee" * 32): FAR}]


@pytest.mark.parametrize("lie", LIES, ids=["of the receiver's log", "of its own log", "of nobody's log"])
def test_a_number_that_nobody_proves_delays_the_others_for_as_long_as_it_is_trusted(lie: Lie) -> None:
    honest = until_trained(federation(None))
    made = federation(lie)
    assert until_trained(made) <= honest + TRUSTED_FOR + 5 * SECOND
    named = {event.site for i in range(LIAR) for event in made.events(i, HeadUnproved)}  # type: ignore[attr-defined]
    assert named == {made.sites[LIAR].key}
    assert all(len(made.events(i, HeadUnproved)) == 1 for i in range(LIAR))
    assert made.run(120 * SECOND, until=lambda: all(made.averaging(i).complete for i in range(LIAR)))
    assert not any(made.events(i, SnapshotAdopted) for i in range(LIAR))


def test_a_site_that_says_entries_were_dropped_makes_nobody_fetch_a_snapshot() -> None:
    made = federation(lambda own, to: {own: FAR})
    liar = made.sites[LIAR].key
    for _ in range(60):
        made.network.command(made.host(0), Delivered(liar, Compacted({liar: FAR, made.sites[0].key: FAR})))
        made.run(SECOND)
    assert not made.events(0, SnapshotAdopted)
    assert not made.averaging(0).maintenance.fetcher.active


def test_what_a_site_lost_is_waited_for_although_its_entries_are_slow_to_come() -> None:
    """A header with this site's own signature is proof: it never numbers entries anew that others hold."""
    conditions = Conditions(latency_us=50 * MILLISECOND)
    made = LedgerFederation(toy_world(3, {"entry_limit": 30}, conditions=conditions), seed=5)
    made.start_all()
    key = made.sites[0].key
    made.run(120 * SECOND, until=lambda: made.averaging(1).ledger.head(key) >= 5)
    made.crash(0)
    made.run(10 * SECOND)
    before = made.averaging(1).ledger.head(key)
    made.sites[0].disk.lost()
    for index in (1, 2):
        # They show headers and answer everything else, but give no entries.
        averaging = made.averaging(index)
        averaging.ledger.accepted.get = lambda author, number: None  # type: ignore[method-assign]
    made.start(0)
    made.run(4 * TRUSTED_FOR)
    assert made.averaging(0).publisher.next_number <= before
    assert "its store lost" in made.averaging(0).waiting
    assert not made.averaging(1).ledger.faults


def test_a_site_whose_word_lapsed_is_believed_again_when_it_shows_the_header() -> None:
    made = federation(None)
    made.run(200 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 12)
    made.partition([2], [0, 1, 3])
    made.run(200 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 24)
    statements = made.averaging(2).antientropy.statements
    now = made.network.now
    ahead = made.averaging(0).ledger.vector
    statements.said(made.sites[0].key, ahead, now)
    statements.advance([], now + TRUSTED_FOR)
    here = made.averaging(2).ledger.vector
    assert statements.credible(made.sites[0].key, ahead) == {key: min(here[key], ahead[key]) for key in here}
    assert any(ahead[key] > here[key] for key in here)
    statements.ask(made.sites[0].key, now + TRUSTED_FOR)
    for author, number in ahead.items():
        header = made.averaging(0).ledger.accepted.header(author, number)
        assert header is not None
        statements.shown(header, now + TRUSTED_FOR)
    statements.advance([], now + TRUSTED_FOR)
    assert statements.credible(made.sites[0].key, ahead) == ahead
    host = made.averaging(2)
    told = [effect.event for effect in iter(host.poll, None) if hasattr(effect, "event")]
    assert HeadShown(made.sites[0].key) in told


def test_a_header_that_no_entries_lead_to_counts_only_while_its_log_moves() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[LIAR].key) >= 3)
    liar, statements, now = made.sites[LIAR], made.averaging(0).antientropy.statements, made.network.now
    ledger = made.averaging(0).ledger
    basis = dataclasses.replace(ledger.accepted.basis_for(liar.key), vector={liar.key: FAR - 1})
    header = create(
        made.world.identities[LIAR],
        charter_id=made.world.charter.id,
        number=FAR,
        previous=bytes(32),
        basis=basis,
        weight=1,
        steps=1,
        norm_squared=0,
        codec_id=made.world.codec.codec_id,
        payload=b"",
    )
    vector = {liar.key: FAR}
    statements.said(liar.key, vector, now)
    statements.ask(liar.key, now)
    statements.shown(dataclasses.replace(header, signature=bytes(64)), now)
    assert statements.proved(liar.key) == ledger.head(liar.key)
    statements.shown(header, now)
    assert statements.proved(liar.key) == FAR
    statements.advance([], now + MOVES_WITHIN - 1)
    assert statements.credible(liar.key, vector) == vector
    statements.advance([], now + MOVES_WITHIN)
    assert statements.credible(liar.key, vector) == {liar.key: ledger.head(liar.key)}
    assert statements.proved_behind() == 0


def test_who_says_much_and_shows_nothing_is_not_the_only_one_asked() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    averaging, now = made.averaging(0), made.network.now
    statements, others = averaging.antientropy.statements, sorted(site.key for site in made.sites[1:])
    asked: list[SiteKey] = []
    for sayer in others:
        statements.said(sayer, {made.sites[1].key: FAR}, now)
    for step in range(12):
        statements.advance(others, now + step * ASK_AFTER)
        sent = [effect for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
        asked += [effect.to for effect in sent if isinstance(effect.message, Heads)]
    assert [asked.count(sayer) for sayer in others] == [4, 4, 4]
