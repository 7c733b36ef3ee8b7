"""What peers say to each other about the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kmel_p2p.core.effects import Message
from kmel_p2p.core.ledger.entry import MAX_PAYLOAD_BYTES, MAX_STUB_BYTES
from kmel_p2p.core.ledger.proof import MAX_EVIDENCE
from kmel_p2p.core.types import SiteKey, Vector
from kmel_p2p.core.wire import (
    HASH,
    KEY,
    MAX_SITES,
    SIGNATURE,
    VECTOR,
    Schema,
    blob,
    flag,
    listing,
    mapping,
    record,
    uint,
)

MAX_NEWS = 256
"""Entries told of in one announcement."""

MAX_BODIES = 64
"""Entries in one answer; also the most one pull asks for."""


MAX_FAULTS = 64
"""Faults proved in one message."""

MAX_STUBS = 256
"""Headers in one message."""


@dataclass(frozen=True, slots=True)
class Have(Message):
    """What the sender has applied. Sent to one random peer per interval and whenever its phase changes."""

    vector: Vector
    chains: bytes
    """Hash of the headers at the vector: shows a fork that numbers hide."""
    phase: int
    ended: dict[SiteKey, int]
    """Authors whose log it holds ended, and before which sequence number."""
    reply: bool
    """Whether the sender wants a `Have` back."""


@dataclass(frozen=True, slots=True)
class Range:
    """Entries `first..last` of one author."""

    author: SiteKey
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Want(Message):
    """Asks for entries by number, and for the evidence against authors."""

    ranges: tuple[Range, ...]
    evidence: tuple[SiteKey, ...]


@dataclass(frozen=True, slots=True)
class Bodies(Message):
    """Encoded entries: pushed by their author, or the answer to a `Want`."""

    entries: tuple[bytes, ...]


class Item(NamedTuple):
    """Names one entry."""

    author: SiteKey
    seq: int


@dataclass(frozen=True, slots=True)
class Announce(Message):
    """Numbers of new entries that the sender holds; who lacks one asks for it."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Claim(Message):
    """The sender's signed digest of what it holds at a vector; see `claims`."""

    vector: Vector
    chains: bytes
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proofs(Message):
    """Evidence against authors, asked for by `Want`: per fault the parts that `proof.prove` reads."""

    faults: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class Head:
    """The hash of one header as the sender holds it."""

    author: SiteKey
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Heads(Message):
    """Asks the receiver to answer with its own headers where it holds others: somebody's log has two branches."""

    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class Stubs(Message):
    """Signed headers without payloads."""

    stubs: tuple[bytes, ...]


_SEQ = uint(2**40)

SCHEMAS = (
    Schema(
        20,
        Have,
        {
            "vector": VECTOR,
            "chains": HASH,
            "phase": uint(2),
            "ended": mapping(KEY, _SEQ, MAX_SITES),
            "reply": flag(),
        },
    ),
    Schema(
        21,
        Want,
        {
            "ranges": listing(record(Range, author=KEY, first=_SEQ, last=_SEQ), MAX_SITES),
            "evidence": listing(KEY, MAX_SITES),
        },
    ),
    Schema(
        22,
        Bodies,
        {"entries": listing(blob(MAX_STUB_BYTES + MAX_PAYLOAD_BYTES), MAX_BODIES)},
    ),
    Schema(23, Announce, {"items": listing(record(Item, author=KEY, seq=_SEQ), MAX_NEWS)}),
    Schema(24, Claim, {"vector": VECTOR, "chains": HASH, "digest": HASH, "signature": SIGNATURE}),
    Schema(
        25,
        Proofs,
        {"faults": listing(listing(blob(MAX_STUB_BYTES + MAX_PAYLOAD_BYTES), MAX_EVIDENCE), MAX_FAULTS)},
    ),
    Schema(26, Heads, {"heads": listing(record(Head, author=KEY, seq=_SEQ, hash=HASH), MAX_SITES)}),
    Schema(27, Stubs, {"stubs": listing(blob(MAX_STUB_BYTES), MAX_STUBS)}),
)
