"""Messages an honest member would never send, as seen from a member that holds its key and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgpack

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.membership import Descriptor, OwnDescription, make_descriptor
from kmel_p2p.core.membership.descriptor import GENERATION_MAX, SERIAL_MAX
from kmel_p2p.core.membership.members import handle_of
from kmel_p2p.core.membership.messages import Accusation, Ack, Fact, Gossip, Nack, PingRequest, SyncFacts, SyncSummary
from kmel_p2p.core.wire import PROTOCOL
from tests.testbed.membership.federation import CHARTER_ID, VirtualSigner, membership_of
from tests.testbed.network.carrier import RawBytes
from tests.testbed.network.host import Host

if TYPE_CHECKING:
    from tests.testbed.membership.stage import Stage

STRANGER = SiteKey(bytes(range(100, 132)))


def _held(target: Host, subject: Host) -> tuple[int, int]:
    """The version of `subject` that `target` holds: a hostile member would know it."""
    membership = membership_of(target)
    descriptor = membership.descriptor(subject.key) if membership is not None else None
    return (descriptor.generation, descriptor.serial) if descriptor is not None else (1, 0)


def _accusation(target: Host, subject: Host, accuser: bytes, dead: bool = True) -> Accusation:
    generation, serial = _held(target, subject)
    return Accusation(handle_of(subject.key), generation, serial, dead, (accuser,))


def _by_subject(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return Gossip((_accusation(target, subject, handle_of(subject.key)),))


def _by_stranger(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return Gossip((_accusation(target, subject, handle_of(STRANGER)),))


def _by_zero(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return Gossip((_accusation(target, subject, bytes(8)),))


def _by_source(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return Gossip((_accusation(target, subject, handle_of(source.key), dead=False),))


def _dead(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return Gossip((_accusation(target, subject, handle_of(source.key)),))


def _from_future(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    fact = Accusation(handle_of(subject.key), GENERATION_MAX, SERIAL_MAX, True, (handle_of(source.key),))
    return Gossip((fact,))


def _forged_alive(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    """A descriptor of `subject` signed by somebody else."""
    generation, serial = _held(target, subject)
    own = make_descriptor(VirtualSigner(source.key), CHARTER_ID, OwnDescription(generation), serial + 1)
    fact: Fact = Descriptor(subject.key, generation, serial + 1, True, (), 0, False, "", b"", b"", False, own.signature)
    return SyncFacts((fact,), ())


def _unusable_address(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    """What a container without settings would advertise, well signed by itself."""
    generation, serial = _held(target, source)
    own = OwnDescription(generation, ("tcp://0.0.0.0:4600", "tcp://127.0.0.1:4600", "tcp://[::]:4600"))
    return Gossip((make_descriptor(VirtualSigner(source.key), CHARTER_ID, own, serial + 1),))


def _late_answers(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    """Answers to probes that were never made, or long ago."""
    sequence = rng.randrange(2**32)
    return Ack(sequence, *_held(target, source)) if rng.random() < 0.5 else Nack(sequence)


def _probe_yourself(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return PingRequest(1, handle_of(target.key), 1)


def _summary_of_nothing(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return SyncSummary(3, (0, 1, 2), ())


def _garbage(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    return RawBytes(bytes(rng.randrange(256) for _ in range(rng.randrange(200))))


def _bomb(source: Host, target: Host, subject: Host, rng: random.Random) -> Message:
    """Lengths that promise gigabytes, deep nesting, counts without content."""
    head = msgpack.packb([PROTOCOL, CHARTER_ID[:8], 5])[1:]
    tails = (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 500, b"\xdc\xff\xff" + b"\xc0" * 100)
    return RawBytes(b"\x95" + head + tails[rng.randrange(len(tails))] + b"\x90")


FORGERIES: dict[str, Callable[[Host, Host, Host, random.Random], Message]] = {
    "accusation by subject": _by_subject,
    "accusation by stranger": _by_stranger,
    "accusation by nobody": _by_zero,
    "accusation by source": _by_source,
    "dead": _dead,
    "accusation from future": _from_future,
    "forged alive": _forged_alive,
    "unusable address": _unusable_address,
    "late answers": _late_answers,
    "probe yourself": _probe_yourself,
    "summary of nothing": _summary_of_nothing,
    "garbage": _garbage,
    "bomb": _bomb,
}


def forge(stage: Stage, kind: str, source: Host, target: Host, subject: Host, count: int) -> None:
    """Send `count` made-up messages from `source` to `target`."""
    for _ in range(count):
        message = FORGERIES[kind](source, target, subject, stage.rng)
        packed = stage.network.carrier.pack(message)
        stage.network.inject(source, target, packed, stage.network.carrier.size(packed))
