"""An author that shows two faces: honest sites find out by themselves, agree, and go on."""

from __future__ import annotations

import pytest

from kmel_p2p.core.ledger.events import LogEnded
from kmel_p2p.core.ledger.log.entry import Entry, create
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered
from tests.testbed.ledger.toy import ToyCodec, toy_world
from tests.testbed.network.links import Conditions


def made_up(federation: LedgerFederation, index: int, units: int) -> Entry:
    """The next entry of a site as it would be on what site 0 holds, with content of one's choice."""
    ledger = federation.averaging(0).ledger
    who = federation.world.identities[index]
    payload = ToyCodec.encode([1], [units])
    return create(
        who,
        charter_id=federation.world.charter.id,
        number=ledger.head(who.key) + 1,
        previous=ledger.head_hash(who.key),
        basis=ledger.accepted.basis_for(who.key),
        weight=100,
        steps=5,
        norm_squared=ledger.measure(payload) or 0,
        codec_id=ToyCodec.codec_id,
        payload=payload,
    )


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_two_branches_for_two_halves_are_found_proved_and_retracted_alike(loss: float) -> None:
    conditions = Conditions(latency_us=20 * MILLISECOND, loss=loss)
    federation = LedgerFederation(toy_world(6, {"entry_limit": 12}, conditions=conditions), seed=1)
    federation.start_all()
    federation.run(20 * SECOND, until=lambda: federation.averaging(0).ledger.head(federation.sites[5].key) >= 2)
    federation.crash(5)
    federation.run(5 * SECOND, until=lambda: len(federation.digests()) == 1)
    liar = federation.sites[5].key
    faces = [made_up(federation, 5, units) for units in (1001, 1002)]
    # Each half gets its own continuation too, so that numbers alone look the same everywhere.
    for index in range(5):
        host = federation.host(index)
        federation.network.command(host, Delivered(liar, Bodies((faces[index % 2].encode(),))))
    assert federation.run(600 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    for index in range(5):
        ledger = federation.averaging(index).ledger
        assert ledger.faults.keys() == {liar}
        assert ledger.head(liar) == faces[0].number - 1
        assert ledger.waiting == 0
        ended = [event for event in federation.events(index, LogEnded) if isinstance(event, LogEnded)]
        assert [(event.author, event.number) for event in ended] == [(liar, faces[0].number)]
        assert all(ledger.head(site.key) == 12 for site in federation.sites[:5])
