"""Two processes with one key: proved by what both sign, told to everybody, and one command decides."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest

from kmel_p2p.agreement.errors import LocalError, ProtocolError
from kmel_p2p.core.effects import Effect, LinkUp, Send
from kmel_p2p.core.membership import LAN, GoOn, Membership, OwnDescription, make_descriptor
from kmel_p2p.core.membership.descriptor import Descriptor, prove_twins
from kmel_p2p.core.membership.events import TwinDecided, TwinFound
from kmel_p2p.core.membership.messages import TwinEvidence
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.support.virtual_membership import CHARTER, Virtual, identity, roster_of

SITES = (1, 2, 3)
ORIGINAL, TWIN = 3, 4


def life(number: int, nonce: bytes, now: int, generation: int = 1) -> Membership:
    own = OwnDescription(generation, ("tcp://10.0.0.3:5000",), size_class=3, nonce=nonce)
    key = ORIGINAL if number == TWIN else number
    return Membership(identity(key), CHARTER, roster_of(*SITES), own, LAN, random.Random(number), now)


class Copied(Virtual):
    """Three sites; the third also runs as a copy. Whichever of the two spoke last to a site is who it answers."""

    def __init__(self) -> None:
        super().__init__(*SITES)
        self.peers = {n: life(n, bytes([n]) * 8, 0) for n in SITES}
        self.spoke = dict.fromkeys(SITES, ORIGINAL)
        self.run(5 * SECOND)

    def start_copy(self) -> None:
        self.numbers = (*SITES, TWIN)
        self.peers[TWIN] = life(TWIN, b"copycopy", self.now)
        self.events[TWIN], self.records[TWIN], self.sent_bytes[TWIN] = [], [], 0
        for n in (1, 2):
            self.command(TWIN, LinkUp(self.key(n)))

    def key(self, number: int):  # type: ignore[no-untyped-def]
        return super().key(ORIGINAL if number == TWIN else number)

    def _execute(self, number: int, effect: Effect) -> None:
        if isinstance(effect, Send) and effect.to == self.key(ORIGINAL):
            self._order += 1
            at = self.now + 2 * MILLISECOND
            heapq.heappush(self._queue, (at, self._order, number, self.spoke[number], self.wire.encode(effect.message)))
            return
        super()._execute(number, effect)

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if source in (ORIGINAL, TWIN):
            self.spoke[target] = source
        super()._deliver(source, target, data)

    def told(self, number: int, kind: type) -> list[object]:
        return [event for event in self.events[number] if isinstance(event, kind)]


def test_a_copy_is_proved_to_both_and_to_everybody_within_seconds() -> None:
    made = Copied()
    made.start_copy()
    made.run(20 * SECOND)
    for number in (1, 2, ORIGINAL, TWIN):
        assert made.told(number, TwinFound) == [TwinFound(made.key(ORIGINAL))], number


def test_the_operator_of_one_decides_and_the_other_is_told() -> None:
    made = Copied()
    made.start_copy()
    made.run(20 * SECOND)
    made.command(ORIGINAL, GoOn())
    made.run(20 * SECOND)
    assert made.told(TWIN, TwinFound)[-1] == TwinFound(made.key(ORIGINAL), chosen=True)
    for number in (1, 2, ORIGINAL):
        assert made.told(number, TwinDecided) == [TwinDecided(made.key(ORIGINAL))], number
        assert len(made.told(number, TwinFound)) == 1
    with pytest.raises(LocalError, match="chosen already"):
        made.command(TWIN, GoOn())


def test_a_site_that_lost_its_disk_is_no_twin_of_its_earlier_life() -> None:
    made = Copied()
    made.down.add(ORIGINAL)
    made.run(SECOND)
    made.down.discard(ORIGINAL)
    made.peers[ORIGINAL] = life(ORIGINAL, b"anewanew", made.now, generation=0)
    made.run(30 * SECOND)
    assert not any(made.told(number, TwinFound) for number in SITES)
    descriptor = made.peers[1].descriptor(made.key(ORIGINAL))
    assert descriptor is not None
    assert descriptor.nonce == b"anewanew"


def test_only_where_there_is_a_twin_there_is_something_to_decide() -> None:
    with pytest.raises(LocalError, match="no other process"):
        Copied().command(1, GoOn())


def signed(**changes: object) -> Descriptor:
    return make_descriptor(identity(ORIGINAL), CHARTER, replace(OwnDescription(1), **changes), 0)  # type: ignore[arg-type]


ONE, OTHER = signed(nonce=b"1" * 8, outranks=b"2" * 8), signed(nonce=b"2" * 8, outranks=b"1" * 8)


@pytest.mark.parametrize(
    ("one", "other", "proved"),
    [
        (ONE, OTHER, True),
        (ONE, signed(nonce=b"2" * 8), False),
        (ONE, signed(nonce=b"2" * 8, outranks=b"3" * 8), False),
        (signed(), signed(), False),
        (ONE, replace(OTHER, key=identity(1).key), False),
        (signed(nonce=b"1" * 8, outranks=b"1" * 8), signed(nonce=b"1" * 8, outranks=b"1" * 8), False),
    ],
)
def test_what_proves_two_processes(one: Descriptor, other: Descriptor, proved: bool) -> None:
    assert prove_twins(one, other) is proved


@pytest.mark.parametrize("facts", [(), (ONE,), (ONE, ONE), (ONE, replace(OTHER, signature=bytes(64)))])
def test_a_false_proof_is_refused(facts: tuple[Descriptor, ...]) -> None:
    made = Copied()
    with pytest.raises(ProtocolError):
        made.peers[1].receive(made.key(2), TwinEvidence(facts), made.now)
    made.run(SECOND)
    assert not made.told(1, TwinFound)
