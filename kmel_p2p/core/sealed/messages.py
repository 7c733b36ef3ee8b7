"""What peers say to each other in sealed rounds. The six statements are signed; the other three ask for them.

A statement means the same whoever hands it on, so it is verified by its author's signature alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgpack

from kmel_p2p.agreement.identity import HASH_BYTES, Identity, SiteKey, digest, verify
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed.keystream import SEED_BYTES
from kmel_p2p.core.sealed.masking import MAX_MEMBERS
from kmel_p2p.core.sealed.pairs import PUBLIC_BYTES, SEALED_SHARE_BYTES
from kmel_p2p.core.sealed.sharing import COMMITMENT_BYTES, SHARE_BYTES
from kmel_p2p.core.wire import HASH, KEY, LENGTH_BYTES, SIGNATURE, Field, Schema, blob, listing, record, uint

MAX_ROUND = 2**40
MAX_BALLOT = 63
MAX_PAYLOAD_BYTES = 32 * 1024 * 1024
SAID_BYTES = 8
MAX_PAST = 64
"""Sums in one answer."""
VOID = bytes(HASH_BYTES)
"""The choice that opens nothing: the round ends without a sum."""


@dataclass(frozen=True, slots=True)
class SealKey(Message):
    """This site is ready for the round, with an X25519 key that it uses in no other."""

    context: ClassVar[bytes] = b"kmel seal-key 1"
    author: SiteKey
    round: int
    public: bytes
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group: its `SealKey` for the round, signature and all, so that nobody else can have made it."""

    site: SiteKey
    public: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SealOpen(Message):
    """The group of a round, on the sums so far."""

    context: ClassVar[bytes] = b"kmel seal-open 1"
    author: SiteKey
    round: int
    chain: bytes
    members: tuple[GroupMember, ...]
    """In the order of keys."""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Sealed(Message):
    """A member's masked levels, and what opens them if the member is gone."""

    context: ClassVar[bytes] = b"kmel sealed 2"
    author: SiteKey
    round: int
    open: bytes
    """Hash of the `SealOpen`."""
    payload: bytes
    shares: bytes
    """Of the self seed, encrypted to each other member in the order of keys, 49 bytes each."""
    commitments: bytes
    """To the shares of all members, its own included, 16 bytes each."""
    pair_commitments: bytes
    """To the pair seeds with each other member, 16 bytes each."""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Included:
    """A site whose vector is in the sum, and the hash of its `Sealed`."""

    site: SiteKey
    hash: bytes


@dataclass(frozen=True, slots=True)
class SealClose(Message):
    """The author's vote in a ballot: whose vectors are to be opened. Nobody's: the round is void."""

    context: ClassVar[bytes] = b"kmel seal-close 1"
    author: SiteKey
    round: int
    ballot: int
    open: bytes
    """Zeros where nothing is to be opened."""
    included: tuple[Included, ...]
    """In the order of keys; empty: the round is void."""
    signature: bytes = b""

    @property
    def choice(self) -> bytes:
        """Names what is voted for, whoever votes and in whatever ballot."""
        if not self.included:
            return VOID
        return digest(b"kmel seal-choice 1", self.open, *(sent.site + sent.hash for sent in self.included))


@dataclass(frozen=True, slots=True)
class SealLoose(Message):
    """A quorum voted for this set: the author is in it, and gives its pair seeds with the members that are not.

    Never with a vote: an opener that asks each site for another set would get the seeds of all these sets.
    """

    context: ClassVar[bytes] = b"kmel seal-loose 1"
    author: SiteKey
    round: int
    choice: bytes
    pair_seeds: tuple[bytes, ...]
    """In the order of keys."""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class SealReveal(Message):
    """The author has seen a quorum vote for this in this ballot, and gives what opens it."""

    context: ClassVar[bytes] = b"kmel seal-reveal 1"
    author: SiteKey
    round: int
    ballot: int
    choice: bytes
    shares: tuple[bytes, ...]
    """A member's shares of the self seeds of all that are included, in the order of keys."""
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class SealSum(Message):
    """After this round, the author holds `number` sums, which `chain` names."""

    context: ClassVar[bytes] = b"kmel seal-sum 1"
    author: SiteKey
    round: int
    number: int
    chain: bytes
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class SealHave(Message):
    """Where the sender is and what it has of the round. Sites are bits: place in the order of keys of the roster."""

    round: int
    number: int
    phase: int
    keys: int
    opened: bytes
    """Hash of the Open it goes by; empty: none yet."""
    sealed: int
    votes: tuple[int, ...]
    """For each ballot so far: closes times 2**16, plus reveals."""
    loose: int
    said: bytes
    """Digest of these votes: sites that hold other votes of one author show them to each other."""
    before: bytes
    """The same for the round before; empty: not known any more."""


@dataclass(frozen=True, slots=True)
class SealWant(Message):
    """Asks for a site's `Sealed` of this round, or, with `number` above 0, for sums from that number on."""

    round: int
    author: bytes
    """A site's key; empty: none."""
    number: int


@dataclass(frozen=True, slots=True)
class SealPast(Message):
    """Sums, one after the other. See `sums.SumEntry`."""

    first: int
    sums: tuple[bytes, ...]


MESSAGES: tuple[type[Message], ...] = (
    *(SealKey, SealOpen, Sealed, SealClose, SealLoose, SealReveal, SealSum),
    *(SealHave, SealWant, SealPast),
)

Statement: TypeAlias = SealKey | SealOpen | Sealed | SealClose | SealLoose | SealReveal | SealSum
S = TypeVar("S", SealKey, SealOpen, Sealed, SealClose, SealLoose, SealReveal, SealSum)

_ROUND = uint(MAX_ROUND)
_SEED = blob(SEED_BYTES, SEED_BYTES)
_MEMBER = record(GroupMember, site=KEY, public=blob(PUBLIC_BYTES, PUBLIC_BYTES), signature=SIGNATURE)
_SENT = record(Included, site=KEY, hash=HASH)
_OTHERS = MAX_MEMBERS - 1
_FIELDS: dict[type[Message], dict[str, Field]] = {
    SealKey: {"author": KEY, "round": _ROUND, "public": blob(PUBLIC_BYTES, PUBLIC_BYTES)},
    SealOpen: {"author": KEY, "round": _ROUND, "chain": HASH, "members": listing(_MEMBER, MAX_MEMBERS)},
    Sealed: {
        "author": KEY,
        "round": _ROUND,
        "open": HASH,
        "payload": blob(MAX_PAYLOAD_BYTES),
        "shares": blob(_OTHERS * SEALED_SHARE_BYTES),
        "commitments": blob(MAX_MEMBERS * COMMITMENT_BYTES),
        "pair_commitments": blob(_OTHERS * COMMITMENT_BYTES),
    },
    SealClose: {
        "author": KEY,
        "round": _ROUND,
        "ballot": uint(MAX_BALLOT),
        "open": HASH,
        "included": listing(_SENT, MAX_MEMBERS),
    },
    SealReveal: {
        "author": KEY,
        "round": _ROUND,
        "ballot": uint(MAX_BALLOT),
        "choice": HASH,
        "shares": listing(blob(SHARE_BYTES, SHARE_BYTES), MAX_MEMBERS),
    },
    SealSum: {"author": KEY, "round": _ROUND, "number": _ROUND, "chain": HASH},
    SealLoose: {"author": KEY, "round": _ROUND, "choice": HASH, "pair_seeds": listing(_SEED, MAX_MEMBERS)},
}
_TYPE_IDS = {SealKey: 60, SealOpen: 61, Sealed: 62, SealClose: 63, SealReveal: 64, SealSum: 65, SealLoose: 69}

SCHEMAS = (
    *(Schema(_TYPE_IDS[cls], cls, {**fields, "signature": SIGNATURE}) for cls, fields in _FIELDS.items()),
    Schema(
        66,
        SealHave,
        {
            "round": _ROUND,
            "number": _ROUND,
            "phase": uint(2),
            "keys": uint(2**MAX_MEMBERS - 1),
            "opened": blob(HASH_BYTES),
            "sealed": uint(2**MAX_MEMBERS - 1),
            "votes": listing(uint(2 ** (2 * MAX_MEMBERS) - 1), MAX_BALLOT + 1),
            "loose": uint(2**MAX_MEMBERS - 1),
            "said": blob(SAID_BYTES, SAID_BYTES),
            "before": blob(SAID_BYTES),
        },
    ),
    Schema(67, SealWant, {"round": _ROUND, "author": blob(len(VOID)), "number": _ROUND}),
    Schema(
        68,
        SealPast,
        {"first": _ROUND, "sums": listing(blob(MAX_PAYLOAD_BYTES), MAX_PAST)},
        at_most=2 * MAX_PAYLOAD_BYTES + LENGTH_BYTES,
    ),
)


def signed_part(charter_id: bytes, statement: Statement) -> bytes:
    """The bytes that are signed: a msgpack array of charter id and fields, those of a vector by their hash."""
    body: list[Any] = [charter_id]
    for name, field in _FIELDS[type(statement)].items():
        value = getattr(statement, name)
        body.append(digest(value) if name == "payload" else field.pack(value))
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return packed


def signed(identity: Identity, charter_id: bytes, statement: S) -> S:
    """The statement with its author's signature."""
    return replace(statement, signature=identity.sign(statement.context, signed_part(charter_id, statement)))


def is_signed(charter_id: bytes, statement: Statement) -> bool:
    """Whether its author signed it."""
    return verify(statement.author, statement.context, signed_part(charter_id, statement), statement.signature)


def hash_of(charter_id: bytes, statement: Statement) -> bytes:
    """Names a statement, 32 bytes. The signature is not part of it."""
    return digest(statement.context, signed_part(charter_id, statement))


def member_key(member: GroupMember, round_number: int) -> SealKey:
    """The `SealKey` that a member was taken into the group by."""
    return SealKey(member.site, round_number, member.public, member.signature)


def bits(sites: Sequence[SiteKey], present: Any) -> int:
    """The places of the sites that are `present`, as bits."""
    return sum(1 << place for place, site in enumerate(sites) if site in present)
