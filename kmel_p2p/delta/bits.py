"""Sections of bits: arrays to bytes and back, without a Python loop over values.

A section starts at a byte, holds its bits most significant first and ends with zero bits up to the next byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError

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
    """The low `width` bits of each value; the width (at most 16) changes from segment to segment."""
    parts, start = [], 0
    for count, width in zip(counts.tolist(), widths.tolist(), strict=True):
        octets = 1 if width <= 8 else 2
        column = values[start : start + count].astype(f">u{octets}").view(np.uint8).reshape(count, octets)
        parts.append(np.unpackbits(column, axis=1)[:, 8 * octets - width :].reshape(-1))
        start += count
    return np.packbits(np.concatenate(parts)).tobytes() if parts else b""


def pack_varint(value: int) -> bytes:
    """LEB128: seven bits per byte, the low ones first, the top bit set on all bytes but the last."""
    packed = bytearray()
    while value > 127:
        packed.append(value & 127 | 128)
        value >>= 7
    packed.append(value)
    return bytes(packed)


class BitReader:
    """Reads sections in order. What it allocates is bounded by the counts asked for and by the length of the data."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._at = 0

    def octets(self, count: int) -> NDArray[np.uint8]:
        """The next `count` whole bytes.

        Raises:
            WireError: the payload is too short.
        """
        if count > self._data.size - self._at:
            raise WireError(f"the payload ends at byte {self._data.size}; {count} more are needed at {self._at}")
        self._at += count
        return self._data[self._at - count : self._at]

    def flags(self, count: int) -> NDArray[np.bool_]:
        """A section of `count` single bits.

        Raises:
            WireError: it is cut off, or its padding is not zero.
        """
        return np.unpackbits(self._section(count), count=count).view(np.bool_)

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
                raise WireError(f"the payload ends after {found} of {count} unary numbers")
            ones = np.flatnonzero(block)[: count - found]
            ends[found : found + ones.size] = ones + 8 * (at - self._at)
            found += ones.size
            at += _BLOCK
        self._section(int(ends[-1]) + 1 if count else 0)
        ends[1:] -= ends[:-1] + 1
        return ends

    def fixed(self, counts: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """A section written by `pack_fixed`, int64[sum of counts]. Widths must be at most 16.

        Raises:
            WireError: it is cut off, or its padding is not zero.
        """
        bits = int(counts @ widths)
        if bits == int(counts.sum()) and (widths[counts > 0] == 1).all():
            return self.flags(bits).astype(np.int64)
        # Every value lies within three bytes; spare bytes let the last windows reach beyond the section.
        section = np.concatenate([self._section(bits), np.zeros(3, np.uint8)]).astype(np.int32)
        windows = section[:-2] << 16 | section[1:-1] << 8 | section[2:]
        width = np.repeat(widths.astype(np.int32), counts)
        bit = np.cumsum(width, dtype=np.int64) - width
        shift = 24 - width - (bit & 7).astype(np.int32)
        values: NDArray[np.int32] = windows[bit >> 3] >> shift & ((np.int32(1) << width) - 1)
        return values.astype(np.int64)

    def varint(self, largest: int) -> int:
        """A number written by `pack_varint`.

        Raises:
            WireError: it is cut off, above `largest`, or longer than necessary.
        """
        value = shift = 0
        while True:
            octet = int(self.octets(1)[0])
            value |= (octet & 127) << shift
            shift += 7
            if value > largest or shift > 63:
                raise WireError(f"a count is above {largest}")
            if octet < 128:
                break
        if octet == 0 and shift > 7:
            raise WireError("a count is longer than necessary")
        return value

    def _section(self, bits: int) -> NDArray[np.uint8]:
        section = self.octets(-(-bits // 8))
        if bits % 8 and int(section[-1]) & (0xFF >> bits % 8):
            raise WireError("padding bits are not zero")
        return section

    def finish(self) -> None:
        """Require that nothing is left.

        Raises:
            WireError: bytes follow the last section.
        """
        if self._at != self._data.size:
            raise WireError(f"{self._data.size - self._at} bytes follow the payload")
