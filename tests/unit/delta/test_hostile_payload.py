"""Bytes from outside: whatever they are, `WireError` or one valid delta with this one spelling; never more memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta import CodecParameters, DeltaCodec, Layout, TensorSpec
from kmel_p2p.delta.payload import Body, pack, parse
from kmel_p2p.delta.structure import describe

LAYOUT = Layout(
    [TensorSpec("w", (60, 40)), TensorSpec("b", (60,)), TensorSpec("s", ()), TensorSpec("v", (64,))],
)
HOT = np.random.default_rng(0).permutation(40) < 4
CODECS = {bits: DeltaCodec(LAYOUT, CodecParameters(chunk=64, kept=8, bits=bits)) for bits in (1, 2, 4)}
HEADER = 14


def valid(bits: int, seed: int) -> bytes:
    """A payload with full, short and zero chunks; with hot columns when `seed` is odd."""
    rng = np.random.default_rng(seed)
    residual = rng.laplace(size=LAYOUT.size).astype(np.float32)
    if seed % 2:
        residual[:2400].reshape(60, 40)[:, ~HOT] *= 0.1
    residual[64:192] *= rng.random(128) < 0.04
    residual[192:256] = 0.0
    return CODECS[bits].encode(residual)


def test_both_kinds_of_support_are_fuzzed() -> None:
    for seed, flat in ((0, True), (1, False)):
        positions = CODECS[2].decode(valid(2, seed)).positions
        assert describe(positions[positions < 2400], 60, 40).is_flat is flat


def accepts(bits: int, payload: bytes) -> bool:
    """Whether `payload` is valid; when it is, it must be the only spelling of what it says."""
    codec = CODECS[bits]
    try:
        codec.decode(payload)
    except WireError:
        return False
    body = parse(payload, codec._plan, LAYOUT.hash)
    assert pack(body, codec._plan, LAYOUT.hash) == payload
    return True


BITS = st.sampled_from([1, 2, 4])


@settings(deadline=None, max_examples=60)
@given(bits=BITS, seed=st.integers(0, 2**32))
def test_what_encode_writes_is_accepted(bits: int, seed: int) -> None:
    assert accepts(bits, valid(bits, seed))


@settings(deadline=None, max_examples=150)
@given(bits=BITS, payload=st.binary(max_size=600))
@example(bits=2, payload=b"")
def test_random_bytes_are_refused(bits: int, payload: bytes) -> None:
    assert not accepts(bits, payload)


@settings(deadline=None, max_examples=250)
@given(bits=BITS, body=st.binary(max_size=300))
def test_random_bodies_under_a_good_header(bits: int, body: bytes) -> None:
    # One tensor of one value is sent: from here on the sections are reached.
    accepts(bits, valid(bits, 0)[:HEADER] + b"\x10\x80" + body)
    accepts(bits, valid(bits, 0)[:HEADER] + body)


@settings(deadline=None, max_examples=250)
@given(bits=BITS, seed=st.integers(0, 50), flips=st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_flipped_bits(bits: int, seed: int, flips: list[int]) -> None:
    payload = bytearray(valid(bits, seed))
    for flip in flips:
        at = flip % (8 * len(payload))
        payload[at // 8] ^= 128 >> at % 8
    accepts(bits, bytes(payload))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_every_single_bit_flip_gives_another_delta_or_an_error(bits: int) -> None:
    codec = DeltaCodec(LAYOUT, CodecParameters(chunk=512, kept=8, bits=bits))
    rng = np.random.default_rng(5)
    payload = codec.encode((rng.laplace(size=LAYOUT.size) * (rng.random(LAYOUT.size) < 0.02)).astype(np.float32))
    original = codec.decode(payload)
    refused = 0
    for at in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[at // 8] ^= 128 >> at % 8
        try:
            delta = codec.decode(bytes(damaged))
        except WireError:
            refused += 1
            continue
        same = np.array_equal(delta.positions, original.positions) and np.array_equal(delta.units, original.units)
        assert not same, f"bit {at} changes nothing"
    assert refused > 8 * HEADER


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_every_truncation_and_every_tail_is_refused(bits: int) -> None:
    payload = valid(bits, 2)
    assert not any(accepts(bits, payload[:end]) for end in range(len(payload)))
    assert not any(accepts(bits, payload + bytes([tail])) for tail in range(256))


def test_the_worked_example_of_the_documentation() -> None:
    """docs/delta.md takes these bytes apart; the format must not change without its version."""
    layout = Layout([TensorSpec("w", (2, 12)), TensorSpec("b", (3,))])
    payload = bytes.fromhex("01 02 000f 0003 874901fb198e98d5 c0 e0 4a80 0066 20 00 d0 000602 000100 e5a0 c4 e0 48 84")
    codec = DeltaCodec(layout, CodecParameters(chunk=16, kept=4, bits=2))
    delta = codec.decode(payload)
    assert delta.positions.tolist() == [2, 5, 6, 13, 17, 20, 25]
    assert delta.units.tolist() == [7962624, -4718592, 4718592, 4718592, -40960, 69120, 491520]
    assert pack(parse(payload, codec._plan, layout.hash), codec._plan, layout.hash) == payload


def test_too_long_payload_is_refused_before_it_is_read() -> None:
    codec = CODECS[2]
    with pytest.raises(WireError, match=f"at most {codec.max_payload_bytes}"):
        codec.decode(valid(2, 0)[:HEADER] + b"\xff" * codec.max_payload_bytes)


@pytest.mark.parametrize(
    ("layout", "parameters", "says"),
    [
        (Layout([TensorSpec("other", (2525,))]), CodecParameters(64, 8, 2), "layout"),
        (LAYOUT, CodecParameters(64, 8, 4), "bits"),
        (LAYOUT, CodecParameters(64, 9, 2), "kept"),
        (LAYOUT, CodecParameters(65, 8, 2), "chunk"),
    ],
)
def test_payloads_of_another_trunk_say_what_differs(layout: Layout, parameters: CodecParameters, says: str) -> None:
    with pytest.raises(WireError, match=says):
        DeltaCodec(layout, parameters).decode(valid(2, 0))


def test_another_format_version_is_named() -> None:
    with pytest.raises(WireError, match="format 2; this trunk has 1"):
        CODECS[2].decode(b"\x02" + valid(2, 0)[1:])


def _body(**change: object) -> Body:
    """One value in the first chunk of `v`, or what `change` makes of it."""
    chunks = CODECS[2]._plan.chunks
    counts = np.zeros(chunks, np.int64)
    counts[-1] = 2
    fields: dict[str, object] = {
        "counts": counts,
        "scales": np.array([50]),
        "tables": np.array([0, 0, 0, 1]),
        "positions": np.array([2461, 2520]),
        "codes": np.array([0, 1]),
        "negative": np.array([True, False]),
    }
    return Body(**(fields | change))  # type: ignore[arg-type]


def test_a_hand_made_body_is_accepted() -> None:
    codec = CODECS[2]
    delta = codec.decode(pack(_body(), codec._plan, LAYOUT.hash))
    assert delta.positions.tolist() == [2461, 2520]
    # Scale number 50 is 11 * 2**5; table 1 has levels 16 and 20.
    assert delta.units.tolist() == [-16 * 11 * 32, 20 * 11 * 32]


def test_no_payload_is_longer_than_the_bound() -> None:
    """The least favourable supports: every value kept in turn, evenly spaced or bunched."""
    for chunk, kept, bits in ((64, 1, 4), (64, 8, 4), (64, 64, 4), (65536, 3, 1)):
        codec = DeltaCodec(LAYOUT, CodecParameters(chunk, kept, bits))
        for residual in (
            np.ones(LAYOUT.size),
            1e6 ** np.linspace(0, 1, LAYOUT.size),
            1e6 ** np.linspace(1, 0, LAYOUT.size),
        ):
            assert len(codec.encode(residual.astype(np.float32))) <= codec.max_payload_bytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codes": np.array([1, 1])}, "lowest level"),
        ({"codes": np.array([0, 0])}, "lower table"),
        ({"tables": np.array([0, 0, 0, 8])}, "table 8 does not exist"),
    ],
)
def test_rule_breakers_are_refused(change: dict[str, object], says: str) -> None:
    codec = CODECS[2]
    with pytest.raises(WireError, match=says):
        codec.decode(pack(_body(**change), codec._plan, LAYOUT.hash))


def test_memory_is_bounded_by_the_layout() -> None:
    """Bombs: all-ones, all-zeros and damaged bodies as long as the layout allows."""
    codec = DeltaCodec(Layout([TensorSpec("w", (1000, 1000))]))
    residual = np.random.default_rng(0).standard_normal(10**6).astype(np.float32)
    good = codec.encode(residual)
    room = codec.max_payload_bytes - HEADER
    bodies = [b"\xff" * room, bytes(room), b"\x80" * room, good[HEADER : HEADER + 8] + b"\xff" * (room - 8)]
    bodies += [good[HEADER:][:at] + b"\xff" * 64 + good[HEADER:][at + 64 :] for at in (0, 40, 200, 9000)]
    tracemalloc.start()
    try:
        for body in bodies:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(WireError):
                codec.decode(good[:HEADER] + body)
            assert tracemalloc.get_traced_memory()[1] - before < 160 * codec.max_payload_bytes
    finally:
        tracemalloc.stop()
