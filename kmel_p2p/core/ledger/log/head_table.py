"""All logs' newest numbers as arrays, and every header that is held in one table: what judging an entry looks up.

With n sites a base names n entries. Comparing it with what is here is one comparison of arrays, and finding the headers
that it names one pass over a table, instead of n walks through n logs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector

_NUMBER_BITS = 41
"""Of a number in a name of the table; the place is above them."""


class HeadTable:
    """See the module docstring. Says nothing about whether a log has ended.

    Attributes:
        order: the sites by place.
        heads: number of each site's newest entry by place, int64[places].
        used: the newest of its entries that the base of any entry here named, int64[places]; never too low.
    """

    def __init__(self, order: RosterOrder) -> None:
        self.order = order
        self.heads = np.zeros(len(order), np.int64)
        self.used = np.zeros(len(order), np.int64)
        self._headers: dict[int, SignedHeader] = {}
        self._vector: RosterVector | None = None
        self._named: dict[SiteKey, int] | None = None

    def grow(self, order: RosterOrder) -> None:
        """Go on with an order that begins like the present one."""
        more = len(order) - len(self.order)
        self.order = order
        self.heads, self.used = np.pad(self.heads, (0, more)), np.pad(self.used, (0, more))
        self._changed()

    @property
    def vector(self) -> RosterVector:
        """The newest numbers."""
        if self._vector is None:
            self._vector = RosterVector.of(self.heads)
        return self._vector

    @property
    def named(self) -> dict[SiteKey, int]:
        """The same by site, in the order of keys, without zeros. Not to be changed."""
        if self._named is None:
            self._named = self.order.named(self.vector)
        return self._named

    def holds(self, header: SignedHeader) -> None:
        """The header is held, and so is every one below it that counts."""
        place = self.order.place(header.author)
        self._headers[_name(place, header.number)] = header
        if header.number > self.heads[place]:
            self.heads[place] = header.number
            self._changed()
        numbers = header.base.numbers
        known = min(numbers.size, self.used.size)
        np.maximum(self.used[:known], numbers[:known], out=self.used[:known])

    def replace(self, header: SignedHeader) -> None:
        """The header takes the place of an entry, whose payload is dropped."""
        self._headers[_name(self.order.place(header.author), header.number)] = header

    def drop(self, author: SiteKey, numbers: Iterable[int]) -> None:
        """Headers are held no longer."""
        place = self.order.place(author)
        for number in numbers:
            self._headers.pop(_name(place, number), None)

    def cut(self, author: SiteKey, head: int) -> None:
        """The newest entry of a log is now this one."""
        self.heads[self.order.place(author)] = head
        self._changed()

    def reaches(self, numbers: NDArray[np.int64]) -> bool:
        """Whether every one of these numbers, int64[any], is here."""
        places = self.heads.size
        return bool((numbers[:places] <= self.heads[: numbers.size]).all()) and not numbers[places:].any()

    def named_by(self, numbers: NDArray[np.int64]) -> list[SignedHeader | None]:
        """The header of each number that is not 0, in the order of keys; None where it is not held.

        Args:
            numbers: by place, int64[places].
        """
        by_key = self.order.by_key
        ordered = numbers[by_key]
        names = (by_key << _NUMBER_BITS) | ordered
        return list(map(self._headers.get, names[ordered > 0].tolist()))

    def _changed(self) -> None:
        self._vector = self._named = None


def _name(place: int, number: int) -> int:
    return place << _NUMBER_BITS | number
