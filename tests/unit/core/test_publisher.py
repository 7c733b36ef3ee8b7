"""A site never signs what the others would end its log for."""

from __future__ import annotations

from collections import deque

from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.rounds import RoundTrained
from tests.support.plain_ledgers import PlainCodec, identities, new_ledger

SITES = identities(2)


def test_a_trainers_bad_delta_is_abandoned_before_it_is_signed() -> None:
    outbox: deque[Effect] = deque()
    publisher = Publisher(SITES[0], new_ledger(SITES), outbox)
    reasons = []
    for payload in (b"nonsense", PlainCodec.encode([0], [2**40])):
        publisher.open(weight=1000)
        reasons.append(publisher.store(RoundTrained(1, payload, 10, 1000, "round-1.safetensors")))
    assert reasons == [
        "the trainer's delta would not stand: its payload does not decode",
        "the trainer's delta would not stand: its norm is above the bound that its base allows",
    ]
    assert not any(isinstance(e, Persist) for e in outbox)
