"""The headers that a vector names, and carrying them over from one vector to the next.

Entries that come one after the other were made on nearly the same vector. So what judging takes of the headers there
(their hashes in the order of keys, their norms in ascending order) is kept, and brought to the next vector by the
places at which the two differ.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import HASH_BYTES
from kmel_p2p.core.ledger.log.entry import SignedHeader, context_hash

NUMBER_BITS = 41
"""Of a number in a name; the place is above them."""


def name_of(place: int, number: int) -> int:
    """What an entry is called in the table of all headers."""
    return place << NUMBER_BITS | number


class NamedHeaders(Collection[SignedHeader]):
    """Headers that a vector names, in the order of keys, as far as they are held. Good until the next vector.

    Attributes:
        norms: their squared norms (units 2**-48), ascending. Not to be changed.
        unknown: how many others the vector names that are not held.
    """

    __slots__ = ("_cursor", "norms", "unknown")

    def __init__(self, cursor: NamedCursor, unknown: int) -> None:
        self._cursor = cursor
        self.norms: Sequence[int] = cursor.norms
        self.unknown = unknown

    @property
    def context(self) -> bytes:
        """The context hash of those that are held (`entry.context_hash`)."""
        return context_hash(self._cursor.hashes())

    def lacking(self, more: int) -> NamedHeaders:
        """The same where the vector names so many more that are not held."""
        return NamedHeaders(self._cursor, self.unknown + more)

    def __iter__(self) -> Iterator[SignedHeader]:
        return (header for header in self._cursor.found if header is not None)

    def __len__(self) -> int:
        return len(self.norms)

    def __contains__(self, header: object) -> bool:
        return header is not None and header in self._cursor.found


class NamedCursor:
    """See the module docstring. Goes by a table of headers; whoever takes a header out of it makes a new cursor.

    Attributes:
        found: by site in the order of keys; None where no header is named, or it is not held.
        norms: squared norms of those found, ascending.
    """

    def __init__(self, table: Mapping[int, SignedHeader], by_key: NDArray[np.int64]) -> None:
        """`by_key`: the places in the order of their sites' keys, int64[places]."""
        self.found: list[SignedHeader | None] = []
        self.norms: list[int] = []
        self._table = table
        self._by_key = by_key
        self._numbers: NDArray[np.int64] = np.zeros(by_key.size, np.int64)
        self._hashes = bytearray()
        """One after the other, also where none is found."""
        self._empty: list[int] = []
        """Where none is found, ascending."""
        self._unknown = 0
        self._clear()

    def at(self, numbers: NDArray[np.int64]) -> NamedHeaders:
        """The headers of each of these numbers that is not 0.

        Args:
            numbers: by place, int64[places].
        """
        ordered = numbers[self._by_key]
        changed = (ordered != self._numbers).nonzero()[0]
        if 2 * changed.size > ordered.size or self._unknown:
            # What was not held may be by now.
            self._clear()
            changed = np.flatnonzero(ordered)
        to = ordered[changed]
        names = (self._by_key[changed] << NUMBER_BITS) | to
        for at, name, number in zip(changed.tolist(), names.tolist(), to.tolist(), strict=True):
            self._put(at, self._table.get(name) if number else None)
            self._unknown += number > 0 and self.found[at] is None
        self._numbers = ordered
        return NamedHeaders(self, self._unknown)

    def hashes(self) -> Iterator[memoryview]:
        """The hashes of those found, in the order of keys, as few runs."""
        every = memoryview(self._hashes)
        start = 0
        for at in self._empty:
            if at > start:
                yield every[HASH_BYTES * start : HASH_BYTES * at]
            start = at + 1
        yield every[HASH_BYTES * start :]

    def _clear(self) -> None:
        places = self._by_key.size
        self.found, self.norms = [None] * places, []
        self._numbers = np.zeros(places, np.int64)
        self._hashes, self._empty = bytearray(HASH_BYTES * places), list(range(places))
        self._unknown = 0

    def _put(self, at: int, header: SignedHeader | None) -> None:
        before = self.found[at]
        if before is not None:
            del self.norms[bisect_left(self.norms, before.norm_squared)]
            insort(self._empty, at)
        self.found[at] = header
        if header is not None:
            insort(self.norms, header.norm_squared)
            del self._empty[bisect_left(self._empty, at)]
            self._hashes[HASH_BYTES * at : HASH_BYTES * (at + 1)] = header.hash
