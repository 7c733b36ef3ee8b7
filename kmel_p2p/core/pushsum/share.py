"""A share of the sum as bytes: 4, 8 or 16 bits per value with one scale per chunk, or all 64 bits.

Layout: one byte `bits`; then for 64 bits the int64 values; otherwise a uint16 scale per chunk of 256 values (low byte
mantissa m, high byte exponent e, step = m * 2**e; 0 for a chunk that carries nothing) and the levels of the chunks
with a scale, value = level * step. Levels are two's complement little-endian; 4-bit ones are level + 8, two to a
byte, low half first. Rounding is stochastic (QSGD, Alistarh et al., NeurIPS 2017), so shares are unbiased; what it
leaves stays with the sender. All numbers are integers, so both sides compute the same sums.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.pushsum.holding import Holding, Sums

CHUNK = 256
BLOCK = 256 * CHUNK

EXACT: Final = 64
"""Bits per value of a share that is not quantised."""

Bits: TypeAlias = Literal[4, 8, 16, 64]

_TOP = {4: 7, 8: 127, 16: 32767}
_MAX_EXPONENT = 60

_HALVES = np.stack([np.arange(256) % 16 - 8, np.arange(256) // 16 - 8], axis=1).astype(np.int8)
"""Both levels in a byte."""


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
    chunks = _chunks(count)
    rows = np.zeros((chunks, CHUNK))
    rows.reshape(-1)[:count] = share
    scale, step = _scales(np.maximum(rows.max(axis=1), -rows.min(axis=1)), top)
    rows *= (1.0 / np.maximum(step, 1))[:, None]
    dither = words.random_raw(rows.size // 4).astype("<u8", copy=False).view("<u2").reshape(rows.shape)
    rows += dither * np.float32(2.0**-16)
    np.floor(rows, out=rows)
    np.clip(rows, -top, top, out=rows)
    rows.reshape(-1)[count:] = 0.0
    level = rows.astype(np.int16)
    # A chunk that rounded to nothing carries no levels.
    full = level.any(axis=1)
    scale[~full] = 0
    sums = np.multiply(level, step[:, None], dtype=np.int64).reshape(-1)[:count]
    carried = level.reshape(-1)[:count] if full.all() else level.reshape(-1)[:count][np.repeat(full, CHUNK)[:count]]
    return scale.astype("<u2").tobytes(), _pack(carried, bits), sums


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
    return _exchange(level, mantissa << exponent, size)


def _exchange(level: NDArray[np.int16] | NDArray[np.int8], step: Sums, size: int) -> Sums:
    """Levels of the chunks with a step, times it, at their places: int64[size]."""
    sums = np.zeros((step.size, CHUNK), np.int64)
    flat = sums.reshape(-1)
    if step.all():
        flat[: level.size] = level
    else:
        flat[np.flatnonzero(np.repeat(step != 0, CHUNK))[: level.size]] = level
    sums *= step[:, None]
    return flat[:size]


def _pack(level: NDArray[np.int16], bits: int) -> bytes:
    if bits == 16:
        return level.astype("<i2").tobytes()
    if bits == 8:
        return level.astype(np.int8).tobytes()
    halves = np.zeros(level.size + level.size % 2, np.uint8)
    np.add(level, 8, out=halves[: level.size], casting="unsafe")
    return (halves[::2] | (halves[1::2] << 4)).tobytes()


def _unpack(levels: memoryview, count: int, bits: int) -> NDArray[np.int16] | NDArray[np.int8]:
    if bits == 16:
        return np.frombuffer(levels, "<i2").astype(np.int16, copy=False)
    if bits == 8:
        return np.frombuffer(levels, np.int8)
    pairs = np.frombuffer(levels, np.uint8)
    if count % 2 and pairs[-1] >> 4:
        raise WireError("padding of a share is not zero")
    halves: NDArray[np.int8] = _HALVES[pairs].reshape(-1)
    return halves[:count]


def _chunks(size: int) -> int:
    return -(-size // CHUNK)


def _level_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
