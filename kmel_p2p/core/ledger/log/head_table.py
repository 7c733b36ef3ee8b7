"""All logs' newest numbers as arrays, and every header that is held in one table: what judging an entry looks up.

With n sites a base names n entries. Comparing it with what is here is one comparison of arrays, and the headers that it
names are those of the base before, but for a few (`named_headers`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.named_headers import NamedCursor, NamedHeaders, name_of
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector

KEPT_BASES = 3
"""Newest bases of each author that are kept as rows of one array: entries on their way name one of those mostly."""

MOST_CELLS = 2**22
"""Of that array, 16 MiB; in a larger federation no rows are kept, and bases are read where they are needed."""

_LARGEST = 2**31 - 1
"""In a row of that array."""

_NEVER = 2**62
"""After every turn."""


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
        self._rows = _Rows(len(order))
        self._bases = NamedCursor(self._headers, order.by_key)
        self._own = NamedCursor(self._headers, order.by_key)
        """Another one for what is held here: it differs more from the bases of others than those do."""
        self._turn = 0
        self._vector: RosterVector | None = None
        self._named: dict[SiteKey, int] | None = None

    def grow(self, order: RosterOrder) -> None:
        """Go on with an order that begins like the present one."""
        more = len(order) - len(self.order)
        self.order = order
        self.heads, self.used = np.pad(self.heads, (0, more)), np.pad(self.used, (0, more))
        if more:
            self._rows = _Rows(len(order))
        self._lost()
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

    def holds(self, header: SignedHeader, at_once: bool = False) -> None:
        """The header is held, and so is every one below it that counts.

        `at_once`: it came together with the one before, as in a snapshot, and not after what its base names.
        """
        place = self.order.place(header.author)
        self._headers[name_of(place, header.number)] = header
        if header.number > self.heads[place]:
            self.heads[place] = header.number
            self._changed()
        numbers = header.base.numbers
        self._turn += not at_once
        self._rows.put(place, header.number, numbers, self._turn)
        known = min(numbers.size, self.used.size)
        np.maximum(self.used[:known], numbers[:known], out=self.used[:known])

    def replace(self, header: SignedHeader) -> None:
        """The header takes the place of an entry, whose payload is dropped."""
        self._headers[name_of(self.order.place(header.author), header.number)] = header
        self._lost()

    def drop(self, author: SiteKey, numbers: Iterable[int]) -> None:
        """Headers are held no longer."""
        place = self.order.place(author)
        for number in numbers:
            self._headers.pop(name_of(place, number), None)
            self._rows.drop(place, number)
        self._lost()

    def cut(self, author: SiteKey, head: int) -> None:
        """The newest entry of a log is now this one."""
        self.heads[self.order.place(author)] = head
        self._changed()

    def reaches(self, numbers: NDArray[np.int64]) -> bool:
        """Whether every one of these numbers, int64[any], is here."""
        places = self.heads.size
        if numbers.size > places and numbers[places:].any():
            return False
        return not np.count_nonzero(numbers[:places] > self.heads[: numbers.size])

    def closed(self, base: NDArray[np.int64], own: int, doubtful: NDArray[np.bool_]) -> bool:
        """Whether `base` certainly holds all that the entries in it were made on; False when it takes a closer look.

        Args:
            base: by place, int64[places].
            own: the place of its author, whose log does not count.
            doubtful: the only places that need a look, bool[places].
        """
        named = base > 0
        named[own] = False
        columns = doubtful.copy()
        columns[own] = False
        return self._rows.within(named.nonzero()[0], base, columns.nonzero()[0])

    def named_by(self, numbers: NDArray[np.int64]) -> NamedHeaders:
        """The header of each number of a base that is not 0.

        Args:
            numbers: by place, int64[places].
        """
        return self._bases.at(numbers)

    def named_here(self, numbers: NDArray[np.int64]) -> NamedHeaders:
        """The same for numbers near those that are held here."""
        return self._own.at(numbers)

    def _lost(self) -> None:
        """Headers are not what they were."""
        self._bases = NamedCursor(self._headers, self.order.by_key)
        self._own = NamedCursor(self._headers, self.order.by_key)

    def _changed(self) -> None:
        self._vector = self._named = None


class _Rows:
    """The newest bases of every author, each a row, and in which turn it came."""

    def __init__(self, places: int) -> None:
        kept = KEPT_BASES if KEPT_BASES * places * places <= MOST_CELLS else 0
        self._numbers = np.zeros(kept * places, np.int64)
        """Number of the entry whose base stands in a row; 0: of none."""
        self._turns = np.zeros(kept * places, np.int64)
        """When it came: an entry comes after all that its base names."""
        self._rows = np.zeros((kept * places, places), np.int32)

    def put(self, place: int, number: int, base: NDArray[np.int64], turn: int) -> None:
        """The base of an entry. An older one of its author gives way."""
        if not self._numbers.size or base.size > self._rows.shape[1]:
            return
        row = KEPT_BASES * place + number % KEPT_BASES
        fits = not base.size or int(base[base.argmax()]) <= _LARGEST
        self._numbers[row], self._turns[row] = number if fits else 0, turn
        if fits:
            self._rows[row, : base.size] = base
            self._rows[row, base.size :] = 0

    def drop(self, place: int, number: int) -> None:
        """An entry is held no longer."""
        row = KEPT_BASES * place + number % KEPT_BASES
        if self._numbers.size and self._numbers[row] == number:
            self._numbers[row] = 0

    def within(self, named: NDArray[np.int64], base: NDArray[np.int64], columns: NDArray[np.int64]) -> bool:
        """Whether the bases of the entries that `base` names are here and go nowhere beyond it.

        Args:
            named: places whose entries count.
            base: by place.
            columns: places that are looked at.
        """
        if not self._numbers.size:
            return False
        numbers = base[named]
        rows = KEPT_BASES * named + numbers % KEPT_BASES
        if np.count_nonzero(self._numbers[rows] != numbers):
            return False
        # What came before all that is looked at was not made on any of it.
        rows = rows[self._turns[rows] >= self._first_beyond(base, columns)]
        return not rows.size or not np.count_nonzero(self._rows[rows[:, None], columns] > base[columns])

    def _first_beyond(self, base: NDArray[np.int64], columns: NDArray[np.int64]) -> int:
        """The turn in which the first entry beyond `base` came at these places, or an earlier one."""
        following = base[columns] + 1
        rows = KEPT_BASES * columns + following % KEPT_BASES
        if np.count_nonzero(self._numbers[rows] != following):
            return 0
        return int(self._turns[rows].min(initial=_NEVER))
