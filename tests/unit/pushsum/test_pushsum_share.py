"""Shares: what is sent is exactly what is debited, in few bits, without bias; hostile bytes are refused in bounds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.pushsum.holding import MAX_MASS, Holding
from kmel_p2p.core.pushsum.share import BLOCK, CHUNK, EXACT, Bits, decode, encode, payload_bytes

BITS: tuple[Bits, ...] = (4, 8, 16, EXACT)
sums = hnp.arrays(
    np.int64, st.integers(0, 600), elements=st.integers(-(2**61), 2**61) | st.integers(-9, 9) | st.just(0)
)


def holding(values: np.ndarray, mass: int = 2**40) -> Holding:
    return Holding(np.zeros(values.size, np.float32), values.copy(), mass)


@given(sums, st.sampled_from(BITS), st.integers(0, 2**64 - 1), st.integers(1, 2**40 - 1))
@settings(deadline=None, max_examples=150)
def test_the_receiver_decodes_exactly_what_the_sender_debits(values, bits, seed, mass) -> None:  # type: ignore[no-untyped-def]
    held = holding(values)
    payload, debited = encode(held, mass, bits, seed)
    np.testing.assert_array_equal(decode(payload, values.size), debited)
    assert len(payload) <= payload_bytes(values.size, bits)
    held.take(debited, mass)
    np.testing.assert_array_equal(held.sums + debited, values)
    assert held.mass + mass == 2**40


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_error_is_below_one_step_of_the_chunk_and_unbiased(bits: int) -> None:
    values = np.random.default_rng(1).integers(-(2**50), 2**50, 3 * CHUNK + 17)
    held = holding(values)
    mass = 2**39
    errors = np.stack([encode(held, mass, bits, seed)[1] - values / 2 for seed in range(400)])  # type: ignore[arg-type]
    step = 2**49 / (2 ** (bits - 1) - 1)
    assert np.abs(errors).max() <= 1.01 * step
    # The mean of 400 errors with a standard deviation of at most half a step.
    assert np.abs(errors.mean(axis=0)).max() <= 5 * 0.5 * step / 20


def test_sizes_are_what_the_bits_say() -> None:
    values = np.random.default_rng(2).integers(-(2**40), 2**40, 100 * CHUNK)
    for bits, per_value in ((4, 4.0625), (8, 8.0625), (16, 16.0625), (EXACT, 64)):
        payload, _ = encode(holding(values), 2**39, bits, 3)  # type: ignore[arg-type]
        assert 8 * (len(payload) - 1) == per_value * values.size
        assert len(payload) == payload_bytes(values.size, bits)  # type: ignore[arg-type]


def test_chunks_without_content_cost_their_scale_alone_and_blocks_join() -> None:
    values = np.zeros(BLOCK + 3 * CHUNK + 1, np.int64)
    values[[5, BLOCK + CHUNK, -1]] = 2**30, -(2**31), 77
    payload, debited = encode(holding(values), 2**39, 8, 4)
    assert len(payload) == 1 + 2 * (BLOCK // CHUNK + 4) + 2 * CHUNK + 1
    np.testing.assert_array_equal(decode(payload, values.size), debited)
    assert set(np.flatnonzero(debited)) <= {5, BLOCK + CHUNK, BLOCK + 3 * CHUNK}


def test_the_largest_holding_stays_inside_the_integers() -> None:
    top = 2**62
    for bits in BITS:
        held = holding(np.array([top, -top, 1, 0]), MAX_MASS)
        _, debited = encode(held, MAX_MASS // 2, bits, 5)
        assert np.abs(debited).max() <= 1.01 * top / 2
        held.take(debited, MAX_MASS // 2)
        held.put(debited, MAX_MASS // 2)
        assert list(held.sums) == [top, -top, 1, 0]


@given(st.binary(max_size=700), st.integers(0, 600))
@settings(deadline=None, max_examples=200)
def test_random_bytes_decode_or_are_refused(data: bytes, size: int) -> None:
    try:
        found = decode(data, size)
    except WireError:
        return
    assert found.shape == (size,)
    assert np.abs(found.astype(object)).max(initial=0) <= 2**63


@given(st.data(), st.sampled_from(BITS))
@settings(deadline=None, max_examples=150)
def test_damaged_shares_decode_or_are_refused(data, bits) -> None:  # type: ignore[no-untyped-def]
    values = np.arange(-200, 401) * 2**33
    payload = bytearray(encode(holding(values), 2**39, bits, 6)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(payload), bytes(payload[:cut]), bytes(payload) + b"\0"):
        try:
            assert decode(damaged, values.size).shape == values.shape
        except WireError:
            continue


@pytest.mark.parametrize("head", [b"\x40", b"\x04", b"\x08", b"\x10", b"\x08\xff\xff", b""])
def test_a_short_payload_for_a_large_trunk_allocates_nothing(head: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(head, 2**32)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**16


def test_levels_and_scales_outside_their_range_are_refused() -> None:
    for body in (
        b"\x04\x01\x00\x80",  # level -8 (and padding 8)
        b"\x04\x01\x00\x10",  # padding not zero
        b"\x08\x01\x00\x80",  # level -128
        b"\x10\x01\x00\x00\x80",  # level -32768
        b"\x08\x00\x01",  # exponent without mantissa
        b"\x08\xff\x3d\x01",  # step of 2**61 and more
        b"\x08\x01\xff\x01",  # shift beyond 64 bits
        b"\x07\x01\x00\x01",  # no such bits
    ):
        with pytest.raises(WireError):
            decode(body, 1)
    assert list(decode(b"\x04\x03\x02\x09", 1)) == [12]
