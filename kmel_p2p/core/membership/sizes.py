"""Exact encoded sizes without encoding, so that budgets are kept and large simulations stay fast.

A property test holds these figures equal to what `Wire.encode` produces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kmel_p2p.core.effects import Message
from kmel_p2p.core.membership.descriptor import HANDLE_BYTES
from kmel_p2p.core.membership.messages import (
    Accusation,
    Ack,
    Fact,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    SyncDigest,
    SyncFacts,
    SyncSummary,
    TwinEvidence,
)
from kmel_p2p.core.wire import CHARTER_TAG_BYTES

_HEAD = 1 + 1 + (2 + CHARTER_TAG_BYTES) + 1
"""Array header, protocol, charter tag, type id: every message has fewer than 16 fields and small ids."""
_HANDLE = 2 + HANDLE_BYTES


def uint_size(value: int) -> int:
    """Bytes of a msgpack unsigned integer."""
    if value < 128:
        return 1
    if value < 256:
        return 2
    if value < 65536:
        return 3
    return 5 if value < 2**32 else 9


def blob_size(length: int) -> int:
    """Bytes of a msgpack binary of `length`."""
    return length + (2 if length < 256 else 3 if length < 65536 else 5)


def text_size(value: str) -> int:
    """Bytes of a msgpack string."""
    length = len(value.encode())
    return length + (1 if length < 32 else 2 if length < 256 else 3)


def list_size(count: int) -> int:
    """Bytes of a msgpack array header."""
    return 1 if count < 16 else 3


def fact_size(fact: Fact) -> int:
    """Bytes of one fact."""
    numbers = uint_size(fact.generation) + uint_size(fact.serial)
    if isinstance(fact, Accusation):
        return 1 + _HANDLE + numbers + 1 + 1 + _HANDLE * len(fact.accusers)
    return (
        1 + 34 + numbers + 1 + list_size(len(fact.addresses)) + sum(map(text_size, fact.addresses))
        + uint_size(fact.size_class) + 1 + text_size(fact.software)
        + blob_size(len(fact.nonce)) + blob_size(len(fact.outranks)) + 1 + 66
    )  # fmt: skip


def _facts_size(facts: tuple[Fact, ...], size_of: Callable[[Fact], int]) -> int:
    return list_size(len(facts)) + sum(map(size_of, facts))


def message_size(message: Message, size_of: Callable[[Fact], int] = fact_size) -> int:
    """Encoded bytes of a membership message. `size_of` may remember sizes of facts."""
    if isinstance(message, Ping | Ack):
        head = _HEAD + uint_size(message.sequence) + uint_size(message.generation) + uint_size(message.serial)
        return head + _facts_size(message.facts, size_of)
    if isinstance(message, Gossip | TwinEvidence):
        return _HEAD + _facts_size(message.facts, size_of)
    if isinstance(message, PingRequest):
        return _HEAD + uint_size(message.sequence) + _HANDLE + uint_size(message.patience_us)
    if isinstance(message, Nack):
        return _HEAD + uint_size(message.sequence)
    if isinstance(message, SyncDigest):
        return _HEAD + list_size(len(message.digests)) + sum(blob_size(len(d)) for d in message.digests)
    if isinstance(message, SyncSummary):
        return _HEAD + uint_size(message.buckets) + _summary_size(message)
    if isinstance(message, SyncFacts):
        wanted = list_size(len(message.wanted)) + _HANDLE * len(message.wanted)
        return _HEAD + _facts_size(message.facts, size_of) + wanted
    raise TypeError(f"{type(message).__name__} is not a membership message")


def _summary_size(message: SyncSummary) -> int:
    differing = list_size(len(message.differing)) + _sum(uint_size(b) for b in message.differing)
    entries = _sum(
        1 + _HANDLE + 1 + uint_size(e.version.generation) + uint_size(e.version.serial) + 1 for e in message.entries
    )
    return differing + list_size(len(message.entries)) + entries


def _sum(values: Iterable[int]) -> int:
    return sum(values)


PING_BASE_BYTES = _HEAD + 5 + 9 + 5 + 3
"""Upper bound of a probe message without cargo; what remains of the budget is for facts."""
