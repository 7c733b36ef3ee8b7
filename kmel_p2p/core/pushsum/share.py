"""A share of the sum as bytes: 4, 8 or 16 bits per value with one scale per chunk, or all 64 bits.

Layout: one byte `bits`; then for 64 bits the int64 values; otherwise a uint16 scale per chunk of 256 values (low byte
mantissa m, high byte exponent e, step = m * 2**e; 0 for a chunk that carries nothing) and the levels of the chunks
with a scale, value = level * step. Levels are two's complement little-endian; 4-bit ones are level + 8, two to a
byte, low half first. Rounding is stochastic (QSGD, Alistarh et al., NeurIPS 2017), so shares are unbiased; what it
leaves stays with the sender. All numbers are integers, so both sides compute the same sums.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.core.errors import WireError
from kmel_p2p.core.pushsum.holding import Holding, Sums

CHUNK = 256
BLOCK = 256 * CHUNK

EXACT = 64
"""Bits per value of a share that is not quantised."""

Bits: TypeAlias = Literal[4, 8, 16, 64]

_TOP = {4: 7, 8: 127, 16: 32767}
_MAX_EXPONENT = 60


def encode(holding: Holding, mass: int, bits: Bits, seed: int) -> tuple[bytes, Sums]:
    """The share of `holding` that belongs to `mass`.

    Args:
        holding: not altered.
        mass: below the mass held.
        bits: per value.
        seed: of the stochastic rounding, 0 <= seed < 2**64.

    Returns:
        The payload and what it decodes to, int64[d].
    """
    sums = np.empty(len(holding), np.int64)
    scales: list[bytes] = []
    levels: list[bytes] = []
    words = np.random.Philox(key=seed)
    for start in range(0, len(holding), BLOCK):
        block = slice(start, min(start + BLOCK, len(holding)))
        share = holding.share(mass, block)
        if bits == EXACT:
            sums[block] = np.rint(share)
            levels.append(sums[block].astype("<i8").tobytes())
        else:
            scale, level, sums[block] = _quantise(share, bits, words)
            scales.append(scale)
            levels.append(level)
    return b"".join((bytes([bits]), *scales, *levels)), sums


def decode(payload: bytes, size: int) -> Sums:
    """The sums in `payload`, int64[size].

    Raises:
        WireError: not a share of a trunk of `size` values. Nothing larger than the result is allocated.
    """
    if not payload:
        raise WireError("empty share")
    bits, body = payload[0], memoryview(payload)[1:]
    if bits == EXACT:
        if len(body) != 8 * size:
            raise WireError(f"exact share of {len(body)} bytes where {8 * size} are needed")
        return np.frombuffer(body, "<i8").astype(np.int64)
    if bits not in _TOP:
        raise WireError(f"share of {bits} bits per value")
    return _dequantise(body, size, bits)


def payload_bytes(size: int, bits: Bits) -> int:
    """Largest payload of a trunk of `size` values."""
    if bits == EXACT:
        return 1 + 8 * size
    return 1 + 2 * _chunks(size) + _level_bytes(size, bits)


# ---- inner ------------------------------------------------------------------------------------------------------


def _quantise(share: NDArray[np.float64], bits: int, words: np.random.Philox) -> tuple[bytes, bytes, Sums]:
    """Scales, levels and decoded sums of one block."""
    count, top = share.size, _TOP[bits]
    padded = np.zeros(_chunks(count) * CHUNK)
    padded[:count] = share
    rows = padded.reshape(-1, CHUNK)
    scale, step = _scales(np.abs(rows).max(axis=1), top)
    dither = words.random_raw(rows.size // 4).astype("<u8").view("<u2").reshape(rows.shape)
    level = rows / np.maximum(step, 1)[:, None]
    level += dither * 2.0**-16
    np.floor(level, out=level)
    whole = np.clip(level, -top, top).astype(np.int64)
    whole.reshape(-1)[count:] = 0
    # A chunk that rounded to nothing carries no levels.
    scale[~whole.any(axis=1)] = 0
    kept = np.repeat(scale != 0, CHUNK)[:count]
    packed = _pack(whole.reshape(-1)[:count][kept], bits)
    sums = (whole * step[:, None]).reshape(-1)[:count]
    return scale.astype("<u2").tobytes(), packed, sums


def _scales(largest: NDArray[np.float64], top: int) -> tuple[NDArray[np.uint16], Sums]:
    """Smallest steps of the grid that reach `largest` with `top` levels, as code and as integers."""
    need = np.ceil(largest / top)
    exponent = np.maximum(np.frexp(need)[1] - 8, 0)
    mantissa = np.ceil(np.ldexp(need, -exponent))
    carried = mantissa == 256
    mantissa[carried] = 128
    exponent[carried] += 1
    step = mantissa.astype(np.int64) << exponent.astype(np.int64)
    return (mantissa.astype(np.uint16) | (exponent.astype(np.uint16) << 8)), step


def _dequantise(body: memoryview, size: int, bits: int) -> Sums:
    chunks = _chunks(size)
    if len(body) < 2 * chunks:
        raise WireError(f"share of {len(body)} bytes is too short for {chunks} scales")
    code = np.frombuffer(body[: 2 * chunks], "<u2").astype(np.int64)
    mantissa, exponent = code & 255, code >> 8
    top = _TOP[bits]
    # Steps that no honest sum can need would overflow; so would the shift itself.
    if (exponent > _MAX_EXPONENT).any() or (np.ldexp(mantissa * float(top), exponent) > 2.0**62).any():
        raise WireError("scale of a share out of range")
    if bool(((mantissa == 0) & (exponent != 0)).any()):
        raise WireError("scale of a share without mantissa")
    length = np.full(chunks, CHUNK, np.int64)
    if size % CHUNK:
        length[-1] = size % CHUNK
    carried = int(length[mantissa != 0].sum())
    levels = body[2 * chunks :]
    # Full chunks are even, so only the very last value can leave half a byte.
    if len(levels) != _level_bytes(carried, bits):
        raise WireError(f"levels of a share have {len(levels)} bytes where {_level_bytes(carried, bits)} are needed")
    level = _unpack(levels, carried, bits)
    if carried and not -top <= int(level.min()) <= int(level.max()) <= top:
        raise WireError("level of a share out of range")
    sums = np.zeros(size, np.int64)
    step = np.repeat(mantissa << exponent, length)
    sums[step != 0] = level
    sums *= step
    return sums


def _pack(level: Sums, bits: int) -> bytes:
    if bits == 16:
        return level.astype("<i2").tobytes()
    if bits == 8:
        return level.astype(np.int8).tobytes()
    halves = np.zeros(level.size + level.size % 2, np.uint8)
    halves[: level.size] = level + 8
    return (halves[::2] | (halves[1::2] << 4)).tobytes()


def _unpack(levels: memoryview, count: int, bits: int) -> Sums:
    if bits == 16:
        return np.frombuffer(levels, "<i2").astype(np.int64)
    if bits == 8:
        return np.frombuffer(levels, np.int8).astype(np.int64)
    pairs = np.frombuffer(levels, np.uint8)
    halves = np.empty(2 * pairs.size, np.int64)
    halves[::2] = pairs & 15
    halves[1::2] = pairs >> 4
    if count % 2 and halves[-1]:
        raise WireError("padding of a share is not zero")
    return halves[:count] - 8


def _chunks(size: int) -> int:
    return -(-size // CHUNK)


def _level_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
