"""Bit sections: arrays to bytes and back, without a Python loop over values.

A section starts at a byte, holds its bits most significant first and ends with zero bits up to the next byte. Rice
codes (Rice 1979; Golomb 1966 with a power of two) are written as two sections, all quotients in unary and then all
remainders, so that both can be read with whole-array operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.core.errors import WireError

MAX_WIDTH = 16
_BLOCK = 1 << 16


def pack_flags(flags: NDArray[np.bool_]) -> bytes:
    """One bit per flag."""
    return np.packbits(flags).tobytes()


def pack_unary(quotients: NDArray[np.int64]) -> bytes:
    """Each quotient q as q zero bits and a one bit."""
    ends = np.cumsum(quotients + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.bool_)
    bits[ends] = True
    return pack_flags(bits)


def pack_fixed(values: NDArray[np.int64], counts: NDArray[np.int64], widths: NDArray[np.int64]) -> bytes:
    """Values below 2**width in `width` bits each; the width (at most 16) changes from segment to segment."""
    columns = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    parts, start = [], 0
    for count, width in zip(counts.tolist(), widths.tolist(), strict=True):
        parts.append(columns[start : start + count, MAX_WIDTH - width :].reshape(-1))
        start += count
    return np.packbits(np.concatenate(parts)).tobytes() if parts else b""


class BitReader:
    """Reads sections in order; everything it allocates is bounded by the counts asked for and the bytes there are."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._at = 0

    def octets(self, count: int) -> NDArray[np.uint8]:
        """The next `count` whole bytes.

        Raises:
            WireError: the payload ends before.
        """
        if count > self._data.size - self._at:
            raise WireError(f"payload ends at byte {self._data.size}, {count} more needed at {self._at}")
        self._at += count
        return self._data[self._at - count : self._at]

    def flags(self, count: int) -> NDArray[np.bool_]:
        """A section of `count` single bits.

        Raises:
            WireError: it is cut off, or its padding is not zero.
        """
        section = self.octets(-(-count // 8))
        if count % 8 and int(section[-1]) & (0xFF >> count % 8):
            raise WireError("padding bits are not zero")
        return np.unpackbits(section, count=count).view(np.bool_)

    def unary(self, count: int) -> NDArray[np.int64]:
        """A section of `count` unary numbers, int64[count].

        Raises:
            WireError: it is cut off, or its padding is not zero.
        """
        ends = np.empty(count, np.int64)
        found, at = 0, self._at
        while found < count:
            block = np.unpackbits(self._data[at : at + _BLOCK]).view(np.bool_)
            if not block.size:
                raise WireError(f"payload ends after {found} of {count} unary numbers")
            ones = np.flatnonzero(block)[: count - found]
            ends[found : found + ones.size] = ones + 8 * (at - self._at)
            found += ones.size
            at += _BLOCK
        self.flags(int(ends[-1]) + 1 if count else 0)
        ends[1:] -= ends[:-1] + 1
        return ends

    def fixed(self, counts: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """A section written by `pack_fixed`, int64[sum of counts].

        Raises:
            WireError: it is cut off, or its padding is not zero.
        """
        bits = self.flags(int(counts @ widths)).view(np.uint8)
        values = np.zeros(int(counts.sum()), np.int64)
        bit = start = 0
        for count, width in zip(counts.tolist(), widths.tolist(), strict=True):
            columns = np.zeros((count, MAX_WIDTH), np.uint8)
            columns[:, MAX_WIDTH - width :] = bits[bit : bit + count * width].reshape(count, width)
            values[start : start + count] = np.packbits(columns, axis=1).view(">u2")[:, 0]
            bit += count * width
            start += count
        return values

    def finish(self) -> None:
        """Require that nothing is left.

        Raises:
            WireError: bytes follow the last section.
        """
        if self._at != self._data.size:
            raise WireError(f"{self._data.size - self._at} bytes follow the payload")


def rice_parameters(values: NDArray[np.int64], counts: NDArray[np.int64], largest: int) -> NDArray[np.int64]:
    """The cheapest Rice parameter of each segment, the smallest one among equals; 0 for an empty segment.

    A reader recomputes it, so that a payload has one spelling only.

    Args:
        values: the non-negative values of all segments, end to end.
        counts: int64[segments], values per segment.
        largest: largest parameter the format can hold.
    """
    best = np.zeros(counts.size, np.int64)
    filled = np.flatnonzero(counts)
    if not filled.size:
        return best
    starts = (np.cumsum(counts) - counts)[filled]
    costs = np.add.reduceat(values, starts)
    for r in range(1, min(int(values.max()).bit_length(), largest) + 1):
        candidate = np.add.reduceat(values >> r, starts) + r * counts[filled]
        better = candidate < costs
        costs[better] = candidate[better]
        best[filled[better]] = r
    return best
