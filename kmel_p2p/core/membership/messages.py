"""Messages of membership and their place in the message table (type ids 1 to 19, append-only).

Facts ride on every message: descriptors (signed) and accusations (unsigned, the only thing a member can make up).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.core.effects import Message
from kmel_p2p.core.membership.descriptor import (
    GENERATION_MAX,
    HANDLE_BYTES,
    MAX_ADDRESS_CHARS,
    MAX_ADDRESSES,
    MAX_SIZE_CLASS,
    MAX_SOFTWARE_CHARS,
    NONCE_BYTES,
    SERIAL_MAX,
    Descriptor,
)
from kmel_p2p.core.wire import KEY, SIGNATURE, Schema, blob, either, flag, listing, record, text, uint

MAX_FACTS = 256
"""Facts in one message; a full sync is cut into pages."""
MAX_ACCUSERS = 8
"""More than any preset waits for."""
MAX_BUCKETS = 256


@dataclass(frozen=True, slots=True)
class Accusation:
    """`accusers` could not reach the subject, which spoke last at exactly this version. Handles are leading key bytes.

    All accusers known to the sender travel together, so that a newer fact never displaces an older confirmation.
    """

    subject: bytes
    generation: int
    serial: int
    dead: bool
    accusers: tuple[bytes, ...]


Fact: TypeAlias = Descriptor | Accusation


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? Carries the sender's own version, so that a stale or unknown one is noticed at once."""

    sequence: int
    generation: int
    serial: int
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """Answer to a `Ping`, or a helper's report that its target answered."""

    sequence: int
    generation: int
    serial: int
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class PingRequest(Message):
    """Probe `target` (a handle) in my place, and answer with `Ack` or, before my patience ends, `Nack`."""

    sequence: int
    target: bytes
    patience_us: int


@dataclass(frozen=True, slots=True)
class Nack(Message):
    """The helper is well, but its target did not answer."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Gossip(Message):
    """Facts alone."""

    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncDigest(Message):
    """One 8-byte digest per bucket of the sender's table; equal digests need no answer."""

    digests: tuple[bytes, ...]


class MemberVersion(NamedTuple):
    """What is held about a site, ordered: alive (rank 0) < suspect < dead < left of one descriptor < a newer one."""

    generation: int
    serial: int
    rank: int


@dataclass(frozen=True, slots=True)
class SyncEntry:
    """One line of a table summary."""

    site: bytes
    version: MemberVersion


@dataclass(frozen=True, slots=True)
class SyncSummary(Message):
    """What the sender holds in the buckets that differ."""

    buckets: int
    differing: tuple[int, ...]
    entries: tuple[SyncEntry, ...]


@dataclass(frozen=True, slots=True)
class SyncFacts(Message):
    """Facts the receiver lacks, and the handles of sites about which the sender wants the receiver's facts."""

    facts: tuple[Fact, ...]
    wanted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TwinEvidence(Message):
    """Two descriptors that prove that two processes run with one key (`prove_twins`)."""

    facts: tuple[Fact, ...]


HANDLE = blob(HANDLE_BYTES, HANDLE_BYTES)
_GENERATION = uint(GENERATION_MAX)
_SERIAL = uint(SERIAL_MAX)
_SEQUENCE = uint(2**32 - 1)

_DESCRIPTOR_FIELDS = {
    "key": KEY,
    "generation": _GENERATION,
    "serial": _SERIAL,
    "left": flag(),
    "addresses": listing(text(MAX_ADDRESS_CHARS), MAX_ADDRESSES),
    "size_class": uint(MAX_SIZE_CLASS),
    "outbound_only": flag(),
    "software": text(MAX_SOFTWARE_CHARS),
    "nonce": blob(NONCE_BYTES),
    "outranks": blob(NONCE_BYTES),
    "decided": flag(),
    "signature": SIGNATURE,
}
_ACCUSATION_FIELDS = {
    "subject": HANDLE,
    "generation": _GENERATION,
    "serial": _SERIAL,
    "dead": flag(),
    "accusers": listing(HANDLE, MAX_ACCUSERS),
}
FACT = either((Descriptor, _DESCRIPTOR_FIELDS), (Accusation, _ACCUSATION_FIELDS))
_FACTS = listing(FACT, MAX_FACTS)
_VERSION = record(MemberVersion, generation=_GENERATION, serial=_SERIAL, rank=uint(3))
_ENTRY = record(SyncEntry, site=HANDLE, version=_VERSION)
_ALIVE = {"sequence": _SEQUENCE, "generation": _GENERATION, "serial": _SERIAL, "facts": _FACTS}

SCHEMAS: tuple[Schema, ...] = (
    Schema(1, Ping, _ALIVE),
    Schema(2, Ack, _ALIVE),
    Schema(3, PingRequest, {"sequence": _SEQUENCE, "target": HANDLE, "patience_us": uint(2**40)}),
    Schema(4, Nack, {"sequence": _SEQUENCE}),
    Schema(5, Gossip, {"facts": _FACTS}),
    Schema(6, SyncDigest, {"digests": listing(blob(8, 8), MAX_BUCKETS)}),
    Schema(
        7,
        SyncSummary,
        {
            "buckets": uint(MAX_BUCKETS),
            "differing": listing(uint(MAX_BUCKETS - 1), MAX_BUCKETS),
            "entries": listing(_ENTRY, MAX_SITES),
        },
    ),
    Schema(9, TwinEvidence, {"facts": listing(FACT, 2)}),
    Schema(8, SyncFacts, {"facts": _FACTS, "wanted": listing(HANDLE, MAX_SITES)}),
)
