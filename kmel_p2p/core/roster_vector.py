"""Vectors in roster order: how much of each log a peer holds, without a key for each number.

A site's *place* is its index in the roster order: the founders in the order of their keys, then those that amendments
added, each amendment's in the order of their keys. A place never changes, so a vector made under fewer amendments reads
the same under more, and the sites that a reader does not know yet are those at the end.

On the wire a vector is the numbers by place as variable-length integers (LEB128: seven bits a byte, the lowest first,
the top bit set in all bytes but the last), in their shortest form, without zeros at the end: equal vectors have equal
bytes. A thousand sites take two kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import SiteKey

MAX_NUMBER = 2**40
"""Of an entry."""

NUMBER_BYTES = 6
"""Of the largest number."""

MAX_VECTOR_BYTES = NUMBER_BYTES * MAX_SITES

_DECODED = 1024
"""Vectors whose numbers are kept: those of one entry are looked at several times while it is judged."""

_CONTINUES = 0x80
_BITS = 0x7F


class RosterVector:
    """Numbers of entries by place; 0 beyond the end. Immutable; equal vectors are equal and hash alike."""

    __slots__ = ("packed",)

    def __init__(self, packed: bytes = b"") -> None:
        """`packed`: what another vector packed; bytes from anywhere else go through `read`."""
        self.packed = packed

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> RosterVector:
        """The vector of these numbers, int64[places].

        Raises:
            Bug: there are too many, or one is outside [0, 2**40].
        """
        if numbers.size > MAX_SITES:
            numbers = numbers[: _places(numbers)]
        if numbers.size > MAX_SITES or (numbers.size and not 0 <= numbers.min() <= numbers.max() <= MAX_NUMBER):
            raise Bug(f"a vector of {numbers.size} places, up to {numbers.max()}")
        return cls(_encoded(numbers[: _places(numbers)]))

    @classmethod
    def read(cls, packed: Any) -> RosterVector:
        """A vector as it came over the wire.

        Raises:
            WireError: not the one spelling of a vector, or out of bounds.
        """
        if type(packed) is not bytes or len(packed) > MAX_VECTOR_BYTES:
            raise WireError(f"expected a vector of at most {MAX_VECTOR_BYTES} bytes")
        if packed and (packed[-1] >= _CONTINUES or not packed[-1]):
            raise WireError("a vector is cut off, or ends with zeros")
        numbers = _decoded(packed)
        if numbers.size and int(numbers.max()) > MAX_NUMBER:
            raise WireError(f"a vector with a number above {MAX_NUMBER}")
        return cls(packed)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """By place, int64[len(self)], read-only; the last is not 0."""
        return _decoded(self.packed)

    def at(self, place: int) -> int:
        """The number at a place."""
        numbers = self.numbers
        return int(numbers[place]) if place < numbers.size else 0

    def padded(self, places: int) -> NDArray[np.int64]:
        """A copy for exactly so many places, int64[places].

        Raises:
            Bug: the vector has more.
        """
        numbers = self.numbers
        if numbers.size > places:
            raise Bug(f"a vector of {numbers.size} places where there are {places}")
        padded = np.zeros(places, np.int64)
        padded[: numbers.size] = numbers
        return padded

    def cut(self, places: int) -> RosterVector:
        """The same without what lies beyond so many places."""
        return self if len(self) <= places else RosterVector.of(self.numbers[:places])

    def items(self) -> Iterator[tuple[int, int]]:
        """Place and number, where that is not 0."""
        numbers = self.numbers
        places = np.flatnonzero(numbers)
        return zip(places.tolist(), numbers[places].tolist(), strict=True)

    def __len__(self) -> int:
        return int(self.numbers.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RosterVector) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"RosterVector({self.numbers.tolist()})"


NOTHING = RosterVector()
"""No entry of anybody."""


class RosterOrder:
    """The sites that are or were on a roster, by place. Immutable."""

    __slots__ = ("_place", "_sorted", "by_key", "keys")

    def __init__(self, keys: Iterable[SiteKey]) -> None:
        """`keys` in roster order.

        Raises:
            Bug: one is named twice.
        """
        self.keys = tuple(keys)
        self._place = {key: place for place, key in enumerate(self.keys)}
        if len(self._place) != len(self.keys):
            raise Bug("a site stands in two places")
        self.by_key: NDArray[np.int64] = np.array(sorted(range(len(self.keys)), key=self.keys.__getitem__), np.int64)
        """The places in the order of their sites' keys."""
        self._sorted = tuple(sorted(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def __iter__(self) -> Iterator[SiteKey]:
        return iter(self.keys)

    def place(self, key: SiteKey) -> int:
        """A site's place.

        Raises:
            Bug: it has none.
        """
        place = self._place.get(key)
        if place is None:
            raise Bug(f"{key.hex()} has no place on the roster")
        return place

    def vector(self, numbers: Mapping[SiteKey, int]) -> RosterVector:
        """The vector of these numbers, by site.

        Raises:
            Bug: a site has no place.
        """
        by_place = np.zeros(len(self.keys), np.int64)
        for key, number in numbers.items():
            by_place[self.place(key)] = number
        return RosterVector.of(by_place)

    def named(self, vector: RosterVector) -> dict[SiteKey, int]:
        """Site -> number in the order of keys, without zeros; sites that have no place here are left out."""
        places = len(self.keys)
        by_place = np.zeros(places, np.int64)
        numbers = vector.numbers[:places]
        by_place[: numbers.size] = numbers
        ordered = by_place[self.by_key].tolist()
        return {key: number for key, number in zip(self._sorted, ordered, strict=True) if number}

    def named_at(self, by_place: Mapping[int, int]) -> dict[SiteKey, int]:
        """The same for a few places."""
        return dict(sorted((self.keys[place], n) for place, n in by_place.items() if place < len(self.keys)))


def _places(numbers: NDArray[np.int64]) -> int:
    """Places up to the last number that is not 0."""
    found = np.flatnonzero(numbers)
    return int(found[-1]) + 1 if found.size else 0


def _encoded(numbers: NDArray[np.int64]) -> bytes:
    if not numbers.size or int(numbers.max()) < _CONTINUES:
        return numbers.astype(np.uint8).tobytes()
    shifts = np.arange(0, 7 * NUMBER_BYTES, 7)
    groups = numbers[:, None] >> shifts
    used = np.maximum((groups > 0).sum(axis=1), 1)
    column = np.arange(NUMBER_BYTES)
    octets = (groups & _BITS) | np.where(column < used[:, None] - 1, _CONTINUES, 0)
    encoded: bytes = octets[column < used[:, None]].astype(np.uint8).tobytes()
    return encoded


@lru_cache(maxsize=_DECODED)
def _decoded(packed: bytes) -> NDArray[np.int64]:
    """The numbers that bytes spell, which end with a whole number.

    Raises:
        WireError: a number is too long or not in its shortest form.
    """
    octets = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(octets < _CONTINUES)
    if ends.size > MAX_SITES:
        raise WireError(f"a vector of more than {MAX_SITES} places")
    if ends.size == octets.size:
        numbers = octets.astype(np.int64)
    else:
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if int(lengths.max()) > NUMBER_BYTES or bool(((lengths > 1) & (octets[ends] == 0)).any()):
            raise WireError("a number of a vector is too long, or not in its shortest form")
        shifts = 7 * (np.arange(octets.size) - np.repeat(starts, lengths))
        numbers = np.add.reduceat((octets & _BITS).astype(np.int64) << shifts, starts)
    numbers.setflags(write=False)
    return numbers
