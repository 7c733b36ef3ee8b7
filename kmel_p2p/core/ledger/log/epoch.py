"""A new epoch of a log: how a site goes on that signed two branches because its store had lost the first.

A site whose disk was lost or put back cannot always know what it signed before. Numbers that it signs anew fork its
log. So it states, signed, which entries it disowns: those of the branch that it made afterwards, by their hashes. The
other branch stands, as every site has it that holds it, and two headers prove no fork any longer when one of them is
disowned. What a site holds follows from the set of entries, proofs and epochs, in whatever order they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import HASH_BYTES, Identity, SiteKey, digest, verify
from kmel_p2p.core.ledger.log.entry import SignedHeader, decode_stub
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.roster_vector import MAX_NUMBER
from kmel_p2p.core.wire import HASH, KEY, SIGNATURE, listing, uint

SIGNING_CONTEXT = b"kmel epoch 1"

MAX_EPOCHS = 16
"""Of one log, in all its time. Each takes back entries of its author and nothing else, so a few more would not hurt."""

MAX_DISOWNED = 512
"""Entries that one epoch disowns: as long as a site went on without knowing its log's other branch."""

NO_EPOCHS = bytes(HASH_BYTES)
"""In place of the hash of all epochs, when there is none."""

MAX_EPOCH_BYTES = 256 + MAX_DISOWNED * (HASH_BYTES + 2)

_NUMBER = uint(MAX_EPOCHS)
_FIRST = uint(MAX_NUMBER)
_HASHES = listing(HASH, MAX_DISOWNED)

TWO_EPOCHS = "its author signed two different epochs with one number"

BRANCHED = (Refusal.FORK.value, Refusal.CHAIN.value, Refusal.REPLAY.value)
"""Faults of two headers that one of which may have been disowned."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An author's statement about its own log. Reading it does not check the signature: see `is_signed`.

    Attributes:
        number: from 1, of this author's epochs.
        first: number of the first entry that is disowned.
        disowned: header hashes of the entries disowned, in the order of their numbers, without gaps.
    """

    author: SiteKey
    number: int
    first: int
    disowned: tuple[bytes, ...]
    signature: bytes

    @property
    def last(self) -> int:
        """Number of the last entry that is disowned."""
        return self.first + len(self.disowned) - 1

    def encode(self) -> bytes:
        """The bytes `decode` reads."""
        packed: bytes = msgpack.packb([*self._values(), self.signature], use_bin_type=True)
        return packed

    def is_signed(self, charter_id: bytes) -> bool:
        """Whether the author signed it, under this charter."""
        return verify(self.author, SIGNING_CONTEXT, self._signed(charter_id), self.signature)

    def _signed(self, charter_id: bytes) -> bytes:
        return digest(charter_id, msgpack.packb(self._values(), use_bin_type=True))

    def _values(self) -> list[object]:
        return [self.author, self.number, self.first, list(self.disowned)]


def begin(identity: Identity, charter_id: bytes, number: int, first: int, disowned: tuple[bytes, ...]) -> Epoch:
    """A signed epoch of this site's log; see `Epoch` for the arguments."""
    unsigned = Epoch(identity.key, number, first, disowned, b"")
    signature = identity.sign(SIGNING_CONTEXT, unsigned._signed(charter_id))
    return Epoch(identity.key, number, first, disowned, signature)


def decode(data: bytes) -> Epoch:
    """Read an epoch from anybody; its signature is checked apart.

    Raises:
        WireError: not an epoch, one that disowns nothing, or another spelling of one.
    """
    parts = unpack_bounded(data, MAX_EPOCH_BYTES, containers=2, length=MAX_DISOWNED)
    if type(parts) is not list or len(parts) != 5:
        raise WireError("not an epoch")
    epoch = Epoch(
        SiteKey(KEY.unpack(parts[0])),
        _NUMBER.unpack(parts[1]),
        _FIRST.unpack(parts[2]),
        tuple(_HASHES.unpack(parts[3])),
        SIGNATURE.unpack(parts[4]),
    )
    if not epoch.number or not epoch.first or not epoch.disowned:
        raise WireError("an epoch has a number and disowns entries, both counted from 1")
    if epoch.encode() != data:
        raise WireError("an epoch has another spelling")
    return epoch


def prove_two_epochs(one: Epoch, other: Epoch) -> FaultProof:
    """The fault that two different epochs of one author and number prove. Both must be signed."""
    evidence = tuple(sorted((one.encode(), other.encode())))
    return FaultProof(one.author, min(one.first, other.first), TWO_EPOCHS, evidence)


def read_two_epochs(evidence: tuple[bytes, ...], charter_id: bytes) -> FaultProof | None:
    """What `evidence` proves if it is two epochs, else None."""
    if len(evidence) != 2:
        return None
    try:
        one, other = map(decode, evidence)
    except WireError:
        return None
    same = (one.author, one.number) == (other.author, other.number) and one != other
    return prove_two_epochs(one, other) if same and one.is_signed(charter_id) and other.is_signed(charter_id) else None


class EpochBook:
    """The epochs of all logs, and what they disown."""

    def __init__(self) -> None:
        self._of: dict[SiteKey, dict[int, Epoch]] = {}
        self._disowned: dict[bytes, SiteKey] = {}
        self._disregarded: set[SiteKey] = set()
        self._hash: bytes | None = NO_EPOCHS

    def __bool__(self) -> bool:
        return bool(self._of)

    def __iter__(self) -> Iterator[Epoch]:
        for author in sorted(self._of):
            yield from self.of(author)

    @property
    def authors(self) -> set[SiteKey]:
        """Sites whose log has begun another epoch."""
        return set(self._of)

    def of(self, author: SiteKey) -> tuple[Epoch, ...]:
        """The epochs of a log, by number."""
        epochs = self._of.get(author, {})
        return tuple(epochs[number] for number in sorted(epochs))

    def get(self, author: SiteKey, number: int) -> Epoch | None:
        """The epoch with this number."""
        return self._of.get(author, {}).get(number)

    def add(self, epoch: Epoch) -> None:
        """Take in an epoch whose signature was checked, and of whose number there is no other."""
        self._hash = None
        self._of.setdefault(epoch.author, {})[epoch.number] = epoch
        for hash_ in epoch.disowned:
            self._disowned[hash_] = epoch.author

    def disregard(self, author: SiteKey) -> None:
        """An author signed two epochs with one number: sites may hold different ones of it, and need not compare."""
        self._hash = None
        self._disregarded.add(author)

    def disowns(self, header: SignedHeader) -> bool:
        """Whether its author says that the entry does not belong to its log."""
        return self._disowned.get(header.hash) == header.author

    @property
    def hash(self) -> bytes:
        """Of all epochs here: sites with equal ones hold the same. Zeros when there is none."""
        if self._hash is None:
            encoded = sorted(epoch.encode() for epoch in self if epoch.author not in self._disregarded)
            self._hash = digest(b"kmel epochs 1", *encoded) if encoded else NO_EPOCHS
        return self._hash

    def covers(self, author: SiteKey, number: int) -> bool:
        """Whether a proof that ended the log before `number` may have come from a branch that is disowned."""
        return any(epoch.first <= number <= epoch.last + 1 for epoch in self._of.get(author, {}).values())

    def usable(self, author: SiteKey, number: int) -> int:
        """`number`, or that of the last entry before all branches where it may mean an entry that is disowned."""
        for epoch in reversed(self.of(author)):
            if epoch.first <= number <= epoch.last:
                number = epoch.first - 1
        return number

    def voids(self, fault: FaultProof) -> bool:
        """Whether a fault rests on a header that its author has disowned since."""
        if fault.reason not in BRANCHED or not self._of:
            return False
        return any(self.disowns(decode_stub(part)) for part in fault.evidence)
