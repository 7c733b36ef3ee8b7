"""The trunk as an exact sum: int64 fixed point at 2**-40.

Values of a delta are integers times 2**-24 and weights integers times 2**-16, so every contribution is an integer here:
the sum does not depend on order, and subtracting an entry leaves no trace. Arithmetic is modulo 2**64, so even an
overflow is reversible and the same at every site; the ledger's norm bound keeps honest sums far from one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, LocalError, WireError
from kmel_p2p.agreement.identity import HASH_BYTES
from kmel_p2p.delta.layout import NO_HEAD, check_flat
from kmel_p2p.delta.sparse import SparseDelta

SCALE_BITS = 40
"""The trunk is the accumulator times 2**-40."""

MAX_MAGNITUDE = 2.0**22
"""Initial values must stay below this; the rest of the range is room for the sum."""

WEIGHT_ONE = 2**16
"""The weight that adds a delta in full."""

NO_HEADS: Mapping[int, int] = MappingProxyType({})
"""No weights of shared heads."""

_BLOCK = 1 << 16


class Accumulator:
    """Initial trunk plus weighted deltas, int64[size]. Every call is exact.

    Copies share the values until one of them changes: it then takes values of its own, and never touches those that
    others read. So a copy costs nothing where nothing changes while it lives, and may be read, or changed, in another
    thread than the one that it was copied from; each by itself is single-threaded.
    """

    __slots__ = ("__weakref__", "_holders", "_sum")

    def __init__(self, fixed_point: NDArray[np.int64]) -> None:
        self._sum = fixed_point
        self._holders: WeakSet[Accumulator] = WeakSet((self,))
        """All that have these values."""

    @classmethod
    def from_trunk(cls, base: NDArray[np.float32]) -> Accumulator:
        """Start from float32[d], rounded to multiples of 2**-40 (exact for `delta.initial_trunk`).

        Raises:
            LocalError: not a float32 vector, or a value is not finite or not below 2**22 in magnitude.
        """
        check_flat(base, base.size, "initial trunk")
        fixed_point = np.empty(base.size, np.int64)
        for block in _blocks(base.size):
            scaled = base[block].astype(np.float64)
            if not bool((np.abs(scaled) < MAX_MAGNITUDE).all()):
                raise LocalError(
                    f"every value of the initial trunk must be finite and below {MAX_MAGNITUDE:.0f} in magnitude"
                )
            fixed_point[block] = np.rint(scaled * 2.0**SCALE_BITS)
        return cls(fixed_point)

    @classmethod
    def from_raw(cls, raw: bytes | bytearray | memoryview, size: int) -> Accumulator:
        """Read what `raw` wrote: `size` little-endian int64.

        Raises:
            WireError: the length differs.
        """
        found = memoryview(raw).nbytes
        if found != 8 * size:
            raise WireError(f"an accumulator of {found} bytes where {8 * size} are needed")
        return cls(np.frombuffer(raw, "<i8").astype(np.int64))

    def __len__(self) -> int:
        return int(self._sum.size)

    def add(self, delta: SparseDelta, weight: int, heads: Mapping[int, int] = NO_HEADS) -> None:
        """Add `delta`, weighted.

        Args:
            delta: what to add.
            weight: of everything outside the shared heads, in units of 2**-16.
            heads: weights of the shared heads by head number; a head not named gets nothing.

        Raises:
            Bug: a weight is outside [0, 2**16], or the delta reaches beyond the trunk.
        """
        positions, change = self._checked(delta), delta.units * weights_at(delta, weight, heads)
        self._own()[positions] += change

    def subtract(self, delta: SparseDelta, weight: int, heads: Mapping[int, int] = NO_HEADS) -> None:
        """Undo `add` of the same delta and weights exactly. Raises as `add` does."""
        positions, change = self._checked(delta), delta.units * weights_at(delta, weight, heads)
        self._own()[positions] -= change

    def remove(self, other: Accumulator) -> None:
        """Subtract a sum made with the same weights, exactly: as if its entries had never been added.

        Raises:
            Bug: it has another size.
        """
        if len(other) != len(self):
            raise Bug(f"a sum of {len(other)} values taken from one of {len(self)}")
        own = self._own()
        own -= other._sum

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The trunk, float32[d]: each value rounded to float64, then to float32; equal sums give equal bits.

        Args:
            out: where to write; None: a new vector.

        Raises:
            LocalError: `out` is not a float32 vector of this size.
        """
        if out is None:
            out = np.empty(self._sum.size, np.float32)
        check_flat(out, self._sum.size, "output vector")
        scaled = np.empty(min(_BLOCK, self._sum.size), np.float64)
        for block in _blocks(self._sum.size):
            part = scaled[: block.stop - block.start]
            np.multiply(self._sum[block], 2.0**-SCALE_BITS, out=part)
            out[block] = part
        return out

    def copy(self) -> Accumulator:
        """An independent accumulator with the same sum; shares its memory until either changes."""
        other = Accumulator(self._sum)
        self._holders.add(other)
        other._holders = self._holders
        return other

    def digest(self, *context: bytes) -> bytes:
        """BLAKE2b-256 (RFC 7693) of the context parts followed by `raw`, 32 bytes."""
        h = hashlib.blake2b(digest_size=HASH_BYTES)
        for part in context:
            h.update(part)
        h.update(self.raw())
        return h.digest()

    def raw(self) -> memoryview:
        """The sum as little-endian int64, 8 bytes per value: a read-only view, which may follow later changes. Where it
        is read meanwhile, take it of a copy.
        """
        if not self._sum.size:
            return memoryview(b"")
        ordered = self._sum if sys.byteorder == "little" else self._sum.byteswap()
        return ordered.data.cast("B").toreadonly()

    def _own(self) -> NDArray[np.int64]:
        """The values, to be changed: nobody else has them."""
        if len(self._holders) > 1:
            before = self._holders
            self._sum, self._holders = self._sum.copy(), WeakSet((self,))
            # Only now: whoever finds itself alone changes the values in place.
            before.discard(self)
        return self._sum

    def _checked(self, delta: SparseDelta) -> NDArray[np.int64]:
        if len(delta) and int(delta.positions[-1]) >= self._sum.size:
            raise Bug(f"a delta reaches position {int(delta.positions[-1])} of a trunk of {self._sum.size}")
        return delta.positions


def weights_at(delta: SparseDelta, weight: int, heads: Mapping[int, int]) -> NDArray[np.int64] | int:
    """The weight of each value of a delta, int64[n], or one for all.

    Raises:
        Bug: a weight is outside [0, 2**16].
    """
    for each in (weight, *heads.values()):
        if not 0 <= each <= WEIGHT_ONE:
            raise Bug(f"weight {each} is outside [0, {WEIGHT_ONE}]")
    if delta.heads is None:
        return weight
    # The last place belongs to values outside all heads: NO_HEAD is -1.
    by_head = np.zeros(max(0, int(delta.heads.max(initial=0)), *heads) + 2, np.int64)
    for head, each in heads.items():
        by_head[head] = each
    by_head[NO_HEAD] = weight
    found: NDArray[np.int64] = by_head[delta.heads]
    return found


def _blocks(size: int) -> Iterator[slice]:
    """Slices small enough for temporary arrays to fit the processor's cache."""
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))
