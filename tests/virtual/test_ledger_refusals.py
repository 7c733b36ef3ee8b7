"""Who sends forged things costs the others a bounded number of signatures; who only lacks a giver asks ever less."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kmel_p2p.core.effects import Emit
from kmel_p2p.core.ledger.events import EntryRefused, SnapshotProgress
from kmel_p2p.core.ledger.snapshot.attempt import FetchStage
from kmel_p2p.core.ledger.snapshot.server import SnapshotServer
from kmel_p2p.core.ledger.sync.messages import Bodies, Claim
from kmel_p2p.core.ledger.sync.refusals import AT_ONCE, LEFT_OUT
from kmel_p2p.core.roster_vector import NOTHING
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world


def after_a_run() -> LedgerFederation:
    federation = LedgerFederation(toy_world(3), seed=5)
    federation.start_all()
    assert federation.run(300 * SECOND, until=federation.all_complete)
    return federation


@pytest.mark.parametrize("kind", ["entries", "claims"])
def test_forged_signatures_are_checked_within_a_budget(kind: str) -> None:
    federation = after_a_run()
    victim, now = federation.averaging(0), federation.network.now
    liar, honest = federation.sites[2].key, federation.sites[1].key
    last = next(entry for entry in victim.ledger.entries() if entry.author == honest)
    signed = last.encode()
    at = signed.index(last.signature)

    def forged(number: int) -> Bodies | Claim:
        signature = number.to_bytes(64, "big")
        if kind == "claims":
            return Claim(bytes(32), NOTHING, bytes(32), bytes(32), signature)
        # Another header, so that it is no entry that is known: its first bytes are those of the format and charter.
        header = last.header.replace(last.previous, number.to_bytes(32, "big"))
        return Bodies((signed[:at].replace(last.header, header) + signature + signed[at + 64 :],) * 2)

    def refused(times: int, at_us: int, sender: bytes = liar) -> list[str]:
        for number in range(times):
            victim.receive(sender, forged(number + 1), at_us)  # type: ignore[arg-type]
        told = [effect.event for effect in iter(victim.poll, None) if isinstance(effect, Emit)]
        return [event.reason for event in told if isinstance(event, EntryRefused) and event.sender == sender]

    first = refused(1000, now)
    assert AT_ONCE <= len(first) <= AT_ONCE + 4
    assert first.count(LEFT_OUT) == 1
    assert len(refused(1000, now + 1)) == 0
    assert len(refused(1, now + 1, honest)) > 0, "each site has a budget of its own"
    assert len(refused(1, now + 60 * SECOND)) > 0
    # A minute of it costs what a minute forgives.
    spread = sum(len(refused(20, now + (60 + second) * SECOND)) for second in range(1, 61))
    assert spread <= AT_ONCE + 4 * 60 + 10


def test_a_site_that_only_a_snapshot_helps_asks_ever_less_where_nobody_gives_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = after_a_run()
    monkeypatch.setattr(SnapshotServer, "on_ask", lambda *given: None)
    monkeypatch.setattr(type(federation.averaging(0).ledger.accepted), "stale", property(lambda accepted: True))
    began = federation.network.now
    federation.run(1800 * SECOND)
    sought = [
        at
        for at, event in federation.sites[0].events
        if isinstance(event, SnapshotProgress) and event.stage == FetchStage.SEEKING.value and at > began
    ]
    # Two givers fail in each attempt.
    assert 4 <= len(sought) <= 24
    pauses = [later - earlier for earlier, later in pairwise(sought)]
    assert max(pauses) >= 150 * SECOND
