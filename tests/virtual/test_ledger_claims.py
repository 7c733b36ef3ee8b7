"""Sites compare what they hold: damage is alarmed with evidence, and only damage is."""

from __future__ import annotations

import dataclasses

from kmel_p2p.core.ledger.events import Divergence, DivergenceRecord, EntryRefused
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.claims import ClaimSettings, claim_is_signed, sign_claim
from kmel_p2p.core.ledger.sync.messages import Claim
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered
from tests.testbed.ledger.toy import toy_world

OFTEN = LedgerSettings(claims=ClaimSettings(interval_us=2 * SECOND))


def slowly(index: int) -> int:
    """Ten steps, so one entry per second."""
    return SECOND // 10


def divergences(federation: LedgerFederation) -> list[Divergence]:
    return [e for site in federation.sites for _, e in site.events if isinstance(e, Divergence)]


def test_sound_ledgers_agree_all_along() -> None:
    federation = LedgerFederation(toy_world(5, {"entry_limit": 15}, settings=OFTEN, step_us=slowly), seed=1)
    matches: list[bytes] = []
    federation.start_all()
    for index in range(5):
        federation.averaging(index).maintenance.claims.on_match = lambda site, claim: matches.append(claim.digest)
    assert federation.run(300 * SECOND, until=federation.all_complete)
    federation.run(10 * SECOND)
    assert not divergences(federation)
    # Claims of the past were checked by subtraction, and the last ones by everybody at everybody.
    assert len(set(matches)) > 5
    assert matches.count(next(iter(federation.digests()))) >= 5 * 4


def test_a_damaged_sum_is_alarmed_once_with_the_signed_claim_as_evidence() -> None:
    federation = LedgerFederation(toy_world(4, settings=OFTEN, step_us=slowly), seed=2)
    federation.start_all()
    assert federation.run(60 * SECOND, until=lambda: bool(federation.averaging(2).ledger.vector))
    federation.averaging(2).ledger.accumulator._own()[3] += 1
    # It counts nobody's vote, or it would be healed before everybody has heard its claim.
    federation.averaging(2).maintenance.claims.vote._others = set
    assert federation.run(120 * SECOND, until=federation.all_complete)
    federation.run(10 * SECOND)
    damaged = federation.sites[2].key
    for index in (0, 1, 3):
        alarms = [e for e in federation.events(index, Divergence) if isinstance(e, Divergence)]
        assert [alarm.site for alarm in alarms] == [damaged]
        federation.sites[index].disk.settle(federation.network.now)
        records = [r for r in federation.sites[index].disk.others if isinstance(r, DivergenceRecord)]
        assert len(records) == 1
        record = records[0]
        evidence = Claim(record.amendment, record.vector, record.chains, record.claimed_digest, record.signature)
        assert claim_is_signed(damaged, federation.world.charter.id, evidence)
        assert record.own_digest != record.claimed_digest


def test_a_claim_in_anothers_name_is_refused_and_one_of_the_future_waits() -> None:
    federation = LedgerFederation(toy_world(3, {"entry_limit": 3}), seed=3)
    federation.start_all()
    assert federation.run(120 * SECOND, until=federation.all_complete)
    one, other = federation.world.identities[:2]
    host = federation.host(2)
    ledger = federation.averaging(2).ledger
    chains = ledger.accepted.chains(ledger.accepted.held)
    assert chains is not None
    lie = sign_claim(one, federation.world.charter.id, bytes(32), ledger.accepted.held, chains, b"x" * 32)
    federation.network.command(host, Delivered(other.key, lie))
    assert [e.sender for e in federation.events(2, EntryRefused) if isinstance(e, EntryRefused)] == [other.key]
    ahead = ledger.accepted.order.vector({**ledger.vector, one.key: 9})
    early = sign_claim(one, federation.world.charter.id, bytes(32), ahead, chains, b"x" * 32)
    federation.network.command(host, Delivered(one.key, early))
    federation.run(60 * SECOND)
    assert not divergences(federation)
    federation.network.command(host, Delivered(one.key, lie))
    federation.run(SECOND)
    assert [d.site for d in divergences(federation)] == [one.key]
    damaged = dataclasses.replace(lie, digest=b"y" * 32)
    assert not claim_is_signed(one.key, federation.world.charter.id, damaged)
