"""One signed notice. As bytes it is the msgpack array [author, slot, version, until, body, signature].

An author has a bounded number of *slots*; a notice with a higher version takes the place of the one before in its slot.
An empty body withdraws what was there. A notice keeps its slot for longer than it stands (`kept_until`), so that
what was withdrawn or replaced does not come back from a site that was away.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey, digest, verify
from kmel_p2p.agreement.notice import MAX_BODY_BYTES, kind_of
from kmel_p2p.core.wire import KEY, SIGNATURE, blob, uint

SIGNING_CONTEXT = b"kmel notice 1"

MAX_SLOTS = 16
"""Notices that a site has on the board at the same time, withdrawn ones included."""

MAX_DAYS = 400
"""Days for which a notice is posted at most."""

CLOCKS_APART = 2
"""Days by which the clocks of two sites may differ."""

MAX_NOTICE_BYTES = MAX_BODY_BYTES + 192

_SLOT = uint(MAX_SLOTS - 1)
_VERSION = uint(2**40)
_DAY = uint(2**20)
_BODY = blob(MAX_BODY_BYTES)


@dataclass(frozen=True, slots=True)
class Notice:
    """See the module docstring.

    Attributes:
        until: last day on which it stands, in days since 1970-01-01.
        body: what it says (`agreement.notice`), also where only a later version can read it; empty: withdrawn.
    """

    author: SiteKey
    slot: int
    version: int
    until: int
    body: bytes
    signature: bytes

    @property
    def withdrawn(self) -> bool:
        """Whether its author took it back."""
        return not self.body

    def stands(self, today: int) -> bool:
        """Whether people see it on a day."""
        return not self.withdrawn and self.until >= today

    @property
    def kept_until(self) -> int:
        """Last day on which it keeps its slot.

        A notice may end before one that it took the place of would have, which some site may still hold. That one was
        posted earlier, so it has ended by then. A withdrawal is dated that far ahead by its author.
        """
        return self.until if self.withdrawn else self.until + MAX_DAYS + CLOCKS_APART

    @property
    def place(self) -> tuple[SiteKey, int]:
        """What it takes the place of."""
        return self.author, self.slot

    @property
    def hash(self) -> bytes:
        """Of its bytes, 32 bytes."""
        return digest(self.encode())

    @property
    def rank(self) -> tuple[int, bytes]:
        """Of two notices in one place the one of higher rank stands, whichever came first."""
        return self.version, self.hash

    def encode(self) -> bytes:
        """The bytes `decode` reads: one spelling."""
        packed: bytes = msgpack.packb([*self._values(), self.signature], use_bin_type=True)
        return packed

    def is_signed(self, charter_id: bytes) -> bool:
        """Whether its author signed it, under this charter."""
        return verify(self.author, SIGNING_CONTEXT, self._signed(charter_id), self.signature)

    def _signed(self, charter_id: bytes) -> bytes:
        return digest(charter_id, msgpack.packb(self._values(), use_bin_type=True))

    def _values(self) -> list[object]:
        return [self.author, self.slot, self.version, self.until, self.body]


def sign(identity: Identity, charter_id: bytes, slot: int, version: int, until: int, body: bytes) -> Notice:
    """A notice of this site; an empty `body` withdraws."""
    unsigned = Notice(identity.key, slot, version, until, body, b"")
    signature = identity.sign(SIGNING_CONTEXT, unsigned._signed(charter_id))
    return Notice(identity.key, slot, version, until, body, signature)


def decode(data: bytes) -> Notice:
    """Read a notice from anybody; its signature is checked apart.

    Raises:
        WireError: not a notice of any version.
    """
    parts = unpack_bounded(data, MAX_NOTICE_BYTES, containers=1, length=6)
    if type(parts) is not list or len(parts) != 6:
        raise WireError("not a notice")
    notice = Notice(
        SiteKey(KEY.unpack(parts[0])),
        _SLOT.unpack(parts[1]),
        _VERSION.unpack(parts[2]),
        _DAY.unpack(parts[3]),
        _BODY.unpack(parts[4]),
        SIGNATURE.unpack(parts[5]),
    )
    if notice.encode() != data:
        raise WireError("a notice has another spelling")
    if notice.body:
        kind_of(notice.body)
    return notice
