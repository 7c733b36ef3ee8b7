"""Signed votes about authors.

A vote says whether the voter would have an author's entries taken out of the trunk, from which one on, and in coarse
classes what they did to the voter's own loss. Of each voter and author the newest vote counts (`VoteBook`). An
amendment that lifts a suspension begins a new *term* for that author: votes of an earlier term no longer count.

As bytes a vote is the msgpack array [voter, author, term, first, number, classes, against, signature].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey, digest, verify
from kmel_p2p.core.roster_vector import MAX_NUMBER
from kmel_p2p.core.wire import KEY, SIGNATURE, flag, mapping, uint

SIGNING_CONTEXT = b"kmel vote 1"

MAX_PLACES = 1024
"""Assay endpoints that a charter may have."""

NO_EVIDENCE = 3
"""Class of an assay endpoint on which an author's part has no visible effect. Higher: it does harm; lower: it helps."""

MAX_VOTE_BYTES = 16 * 1024

_NUMBER = uint(MAX_NUMBER)
_TERM = uint(2**32)
_CLASSES = mapping(uint(MAX_PLACES - 1), uint(2 * NO_EVIDENCE), MAX_PLACES)
_AGAINST = flag()


@dataclass(frozen=True, slots=True)
class HarmVote:
    """What one site says about another's entries. See the module docstring.

    Attributes:
        term: suspensions of the author that amendments had lifted when it was cast.
        first, number: the entries looked at.
        classes: assay endpoint (place in the charter) -> `NO_EVIDENCE` plus the size of the effect, -3 to 3.
        against: the voter wants the entries from `first` on taken out of the trunk.
    """

    voter: SiteKey
    author: SiteKey
    term: int
    first: int
    number: int
    classes: Mapping[int, int]
    against: bool
    signature: bytes

    @property
    def size(self) -> int:
        """The largest harm that it names, 0 to 3."""
        return max(0, *(each - NO_EVIDENCE for each in self.classes.values())) if self.classes else 0

    def encode(self) -> bytes:
        """The bytes `decode` reads: one spelling."""
        packed: bytes = msgpack.packb([*self._values(), self.signature], use_bin_type=True)
        return packed

    def is_signed(self, charter_id: bytes) -> bool:
        """Whether the voter signed it, under this charter."""
        return verify(self.voter, SIGNING_CONTEXT, self._signed(charter_id), self.signature)

    def _signed(self, charter_id: bytes) -> bytes:
        return digest(charter_id, msgpack.packb(self._values(), use_bin_type=True))

    def _values(self) -> list[object]:
        classes = _CLASSES.pack(self.classes)
        return [self.voter, self.author, self.term, self.first, self.number, classes, self.against]


def cast(
    identity: Identity,
    charter_id: bytes,
    author: SiteKey,
    term: int,
    span: tuple[int, int],
    sizes: Mapping[int, int],
    against: bool,
) -> HarmVote:
    """A signed vote of this site.

    Args:
        span: first and last number of the entries looked at.
        sizes: effect by assay endpoint, -3 to 3; zeros are left out.
    """
    classes = {place: NO_EVIDENCE + size for place, size in sorted(sizes.items()) if size}
    unsigned = HarmVote(identity.key, author, term, *span, classes, against, b"")
    signature = identity.sign(SIGNING_CONTEXT, unsigned._signed(charter_id))
    return HarmVote(identity.key, author, term, *span, classes, against, signature)


def decode(data: bytes) -> HarmVote:
    """Read a vote from anybody; its signature is checked apart.

    Raises:
        WireError: not a vote, or it speaks of no entry, or of the voter itself.
    """
    parts = unpack_bounded(data, MAX_VOTE_BYTES)
    if type(parts) is not list or len(parts) != 8:
        raise WireError("not a vote")
    voter, author = KEY.unpack(parts[0]), KEY.unpack(parts[1])
    first, number = _NUMBER.unpack(parts[3]), _NUMBER.unpack(parts[4])
    if not 1 <= first <= number or voter == author:
        raise WireError("a vote speaks of entries of another site, from the first on")
    vote = HarmVote(
        SiteKey(voter),
        SiteKey(author),
        _TERM.unpack(parts[2]),
        first,
        number,
        _CLASSES.unpack(parts[5]),
        _AGAINST.unpack(parts[6]),
        SIGNATURE.unpack(parts[7]),
    )
    if vote.encode() != data:
        raise WireError("a vote has another spelling")
    return vote
