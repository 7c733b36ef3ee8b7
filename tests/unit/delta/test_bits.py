"""Bit sections round-trip and refuse dirty padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta.bits import BitReader, pack_fixed, pack_flags, pack_unary, pack_varint

PROPERTY = settings(deadline=None, max_examples=60)
SEGMENTS = st.lists(st.tuples(st.integers(0, 16), st.lists(st.integers(0, 2**16 - 1), max_size=20)), max_size=6)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@PROPERTY
@given(st.lists(st.booleans(), max_size=70))
def test_flags_round_trip(flags: list[bool]) -> None:
    reader = BitReader(pack_flags(np.array(flags, bool)))
    assert reader.flags(len(flags)).tolist() == flags
    reader.finish()


@PROPERTY
@given(st.lists(st.integers(0, 300), max_size=50))
def test_unary_round_trip(values: list[int]) -> None:
    packed = pack_unary(ints(values))
    assert len(packed) == -(-(sum(values) + len(values)) // 8)
    reader = BitReader(packed)
    assert reader.unary(len(values)).tolist() == values
    reader.finish()


def test_unary_spans_blocks() -> None:
    values = [3, 600_000, 0, 0, 1_200_000, 5]
    reader = BitReader(pack_unary(ints(values)) + b"\xaa")
    assert reader.unary(6).tolist() == values
    assert reader.octets(1).tolist() == [0xAA]


@PROPERTY
@given(SEGMENTS)
def test_fixed_round_trip(segments: list[tuple[int, list[int]]]) -> None:
    widths = ints([width for width, _ in segments])
    counts = ints([len(values) for _, values in segments])
    values = [v & ((1 << width) - 1) for width, vs in segments for v in vs]
    packed = pack_fixed(ints(values), counts, widths)
    assert len(packed) == -(-int(counts @ widths) // 8)
    reader = BitReader(packed)
    assert reader.fixed(counts, widths).tolist() == values
    reader.finish()


def test_sections_are_most_significant_bit_first() -> None:
    assert pack_flags(np.array([1, 0, 1], bool)) == b"\xa0"
    assert pack_unary(ints([0, 2, 1])) == bytes([0b10010100])
    assert pack_fixed(ints([5, 1]), ints([1, 1]), ints([3, 2])) == bytes([0b10101000])


@pytest.mark.parametrize("damaged", [b"\xa1", b"\xb0"])
def test_dirty_padding_is_refused(damaged: bytes) -> None:
    with pytest.raises(WireError, match="padding"):
        BitReader(damaged).flags(3)


def test_dirty_padding_after_unary_and_fixed_is_refused() -> None:
    with pytest.raises(WireError, match="padding"):
        BitReader(bytes([0b10010101])).unary(3)
    with pytest.raises(WireError, match="padding"):
        BitReader(bytes([0b10101001])).fixed(ints([1, 1]), ints([3, 2]))


def test_cut_off_sections_are_refused() -> None:
    with pytest.raises(WireError, match="1 more are needed at 0"):
        BitReader(b"").flags(1)
    with pytest.raises(WireError, match="2 of 3 unary"):
        BitReader(bytes([0b00100100])).unary(3)
    with pytest.raises(WireError, match="1 bytes follow"):
        BitReader(b"x").finish()


@PROPERTY
@given(st.integers(0, 2**40))
def test_varint_round_trip(value: int) -> None:
    packed = pack_varint(value)
    assert len(packed) == max(1, -(-value.bit_length() // 7))
    reader = BitReader(packed)
    assert reader.varint(value) == value
    reader.finish()


@pytest.mark.parametrize("data", [b"\x80", b"\xff" * 20, b"\x81\x01", b"\x81\x00", b"\x80\x00", b""])
def test_varints_that_are_cut_off_too_large_or_too_long_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        BitReader(data).varint(128)
