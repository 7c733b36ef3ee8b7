"""The codec's promises: what is decoded plus what is left is what was there, exactly once, in exact integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.delta import CodecParameters, DeltaCodec, Layout, SparseDelta, TensorSpec

PROPERTY = settings(deadline=None, max_examples=60)


def layout_of(*shapes: tuple[int, ...]) -> Layout:
    return Layout(TensorSpec(f"t{n}", shape) for n, shape in enumerate(shapes))


@st.composite
def codecs(draw: st.DrawFn) -> DeltaCodec:
    """Small layouts with empty, scalar and ragged tensors, under any parameters."""
    dims = st.lists(st.integers(0, 40), max_size=2).map(tuple)
    shapes = draw(st.lists(dims, max_size=5))
    chunk = draw(st.integers(16, 64))
    parameters = CodecParameters(chunk, draw(st.integers(1, chunk)), draw(st.sampled_from([1, 2, 4])))
    return DeltaCodec(layout_of(*shapes), parameters)


@st.composite
def residuals(draw: st.DrawFn, size: int) -> NDArray[np.float32]:
    """Dense, sparse, tied, tiny, huge and wildly mixed vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "laplace", "sparse", "tied", "decades", "zero"]))
    scale = 2.0 ** draw(st.integers(-30, 30))
    dense = rng.standard_normal(size)
    values = {
        "normal": dense,
        "laplace": rng.laplace(size=size),
        "sparse": dense * (rng.random(size) < 0.05),
        "tied": np.sign(dense),
        "decades": dense * 10.0 ** rng.uniform(-8, 8, size),
        "zero": np.zeros(size),
    }[kind]
    return (values * scale).astype(np.float32)


@PROPERTY
@given(st.data())
def test_decoded_plus_rest_is_the_residual(data: st.DataObject) -> None:
    codec = data.draw(codecs())
    before = data.draw(residuals(codec.layout.size))
    after = before.copy()
    payload = codec.encode(after)
    delta = codec.decode(payload)
    assert len(payload) <= codec.max_payload_bytes
    assert np.array_equal(after, before - delta.dense(before.size))
    # Every value sent is exact in float32 and has the sign of what it stands for.
    assert np.array_equal(delta.values(), delta.values().astype(np.float32))
    assert np.array_equal(delta.units < 0, before[delta.positions] < 0)


@PROPERTY
@given(st.data())
def test_sending_never_makes_the_residual_longer(data: st.DataObject) -> None:
    codec = data.draw(codecs())
    before = data.draw(residuals(codec.layout.size))
    after = before.copy()
    codec.encode(after)
    assert np.linalg.norm(after.astype(np.float64)) <= np.linalg.norm(before.astype(np.float64)) * (1 + 1e-6)


@PROPERTY
@given(st.data())
def test_at_most_kept_values_per_chunk_and_all_of_them_when_they_are_alike(data: st.DataObject) -> None:
    codec = data.draw(codecs())
    size = codec.layout.size
    before = data.draw(residuals(size))
    alike = np.where(np.arange(size) % 2, 1.0, -1.25).astype(np.float32)
    for vector, full in ((before, False), (alike, True)):
        positions = codec.decode(codec.encode(vector.copy())).positions
        for part in codec.layout.slices.values():
            for start in range(part.start, part.stop, codec.parameters.chunk):
                length = min(codec.parameters.chunk, part.stop - start)
                allowed = math.ceil(length * codec.parameters.kept / codec.parameters.chunk)
                sent = int(((positions >= start) & (positions < start + length)).sum())
                assert sent == allowed if full else sent <= allowed


@PROPERTY
@given(st.data())
def test_the_largest_of_each_chunk_are_sent(data: st.DataObject) -> None:
    codec = data.draw(codecs())
    before = data.draw(residuals(codec.layout.size))
    sent = np.zeros(before.size, bool)
    sent[codec.decode(codec.encode(before.copy())).positions] = True
    for part in codec.layout.slices.values():
        for start in range(part.start, part.stop, codec.parameters.chunk):
            chunk = slice(start, min(start + codec.parameters.chunk, part.stop))
            inside, outside = np.abs(before[chunk][sent[chunk]]), np.abs(before[chunk][~sent[chunk]])
            if inside.size and outside.size:
                assert inside.min() >= outside.max()


@PROPERTY
@given(st.data())
def test_norm_bound_holds_exactly_and_the_rest_stays(data: st.DataObject) -> None:
    codec = data.draw(codecs())
    before = data.draw(residuals(codec.layout.size))
    norm = codec.decode(codec.encode(before.copy())).norm
    bound = norm * data.draw(st.sampled_from([0.0, 1e-6, 0.1, 0.9, 0.999999, 1.0, 2.0, math.inf]))
    bound = 0.0 if math.isnan(bound) else bound
    after = before.copy()
    delta = codec.decode(codec.encode(after, bound))
    if math.isfinite(bound):
        assert delta.norm_squared <= math.ldexp(bound, 24) ** 2 * (1 + 1e-15)
        assert delta.norm_squared <= math.floor(math.ldexp(bound, 24)) ** 2
    assert np.array_equal(after, before - delta.dense(before.size))


def test_norm_bound_costs_at_most_one_grid_step() -> None:
    codec = DeltaCodec(layout_of((40, 4096)))
    residual = np.random.default_rng(1).standard_normal(codec.layout.size).astype(np.float32)
    norm = codec.decode(codec.encode(residual.copy())).norm
    limited = codec.decode(codec.encode(residual.copy(), norm / 3)).norm
    assert norm / 3 * (1 - 1 / 8) < limited <= norm / 3


@PROPERTY
@given(st.data())
def test_residual_telescopes_over_many_entries(data: st.DataObject) -> None:
    """Sum of what was published plus the residual is the sum of what was learned: error feedback loses nothing."""
    codec = data.draw(codecs())
    size = codec.layout.size
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    residual = np.zeros(size, np.float32)
    learned = np.zeros(size)
    published = np.zeros(size, np.int64)
    for _ in range(8):
        drift = (rng.standard_normal(size) * 1e-2).astype(np.float32)
        learned += drift
        residual += drift
        delta = codec.decode(codec.encode(residual))
        published[delta.positions] += delta.units
    assert published * 2.0**-24 + residual == pytest.approx(learned, abs=1e-6)


def test_everything_is_sent_in_the_end() -> None:
    codec = DeltaCodec(layout_of((50, 50), (50,)), CodecParameters(chunk=512, kept=32, bits=2))
    target = np.random.default_rng(2).laplace(size=codec.layout.size).astype(np.float32)
    residual = target.copy()
    total = np.zeros(target.size, np.int64)
    entries = 0
    while residual.any() and entries < 400:
        delta = codec.decode(codec.encode(residual))
        if not len(delta):
            break
        total[delta.positions] += delta.units
        entries += 1
    # What is left lies below half the lowest magnitude of the grid, 16 units.
    assert np.abs(target - total * 2.0**-24).max() <= 8 * 2.0**-24
    assert entries < 400


@pytest.mark.parametrize("size", [0, 1])
def test_smallest_layouts(size: int) -> None:
    codec = DeltaCodec(layout_of(*[()] * size))
    residual = np.full(size, 0.5, np.float32)
    delta = codec.decode(codec.encode(residual))
    assert delta.units.tolist() == [2**23] * size
    assert not residual.any()


def test_a_zero_chunk_costs_one_bit() -> None:
    """Eight more zero chunks are one more byte."""

    def bytes_with(zero_chunks: int) -> int:
        codec = DeltaCodec(layout_of((4096 * (1 + zero_chunks),)))
        residual = np.zeros(codec.layout.size, np.float32)
        residual[:4096] = np.random.default_rng(3).standard_normal(4096)
        return len(codec.encode(residual))

    assert bytes_with(15) - bytes_with(7) == 1
    assert bytes_with(1007) - bytes_with(7) == 125


def test_values_below_the_grid_wait_in_the_residual() -> None:
    codec = DeltaCodec(layout_of((4096,)))
    residual = np.full(4096, 7 * 2.0**-24, np.float32)
    delta = codec.decode(codec.encode(residual))
    assert len(delta) == 0
    assert (residual == np.float32(7 * 2.0**-24)).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_above_the_grid_saturate_and_the_rest_stays(bits: int) -> None:
    codec = DeltaCodec(layout_of((100,)), CodecParameters(bits=bits))
    residual = np.zeros(100, np.float32)
    residual[[3, 77]] = (3e38, -3e38)
    before = residual.copy()
    delta = codec.decode(codec.encode(residual))
    assert delta.positions.tolist() == [3, 77]
    assert delta.units[0] > 2**37
    assert delta.units[1] < -(2**37)
    assert np.array_equal(residual, before - delta.dense(100))


def test_one_large_value_among_tiny_ones_is_sent_without_noise() -> None:
    """A short chunk: sending the tiny ones at the lowest level would add more error than it removes."""
    codec = DeltaCodec(layout_of((4096,)), CodecParameters(bits=1))
    residual = np.full(4096, 1e-5, np.float32)
    residual[1234] = 1.0
    assert codec.decode(codec.encode(residual)).positions.tolist() == [1234]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 5000, 9999])
def test_values_that_are_not_finite_are_refused_untouched(poison: float, at: int) -> None:
    codec = DeltaCodec(layout_of((10000,)))
    residual = np.random.default_rng(4).standard_normal(10000).astype(np.float32)
    residual[at] = poison
    before = residual.tobytes()
    with pytest.raises(LocalError, match=f"residual value {at} is"):
        codec.encode(residual)
    assert residual.tobytes() == before


def _read_only(size: int) -> NDArray[np.float32]:
    vector = np.ones(size, np.float32)
    vector.flags.writeable = False
    return vector


@pytest.mark.parametrize(
    ("residual", "says"),
    [
        (np.zeros(99, np.float32), r"float32\[99\]"),
        (np.zeros(100), r"float64\[100\]"),
        (np.zeros(200, np.float32)[::2], "contiguous"),
        (np.zeros((10, 10), np.float32), r"float32\[10, 10\]"),
        (np.zeros(100, np.float32).astype(">f4"), "float32"),
        ([0.0] * 100, "list"),
        (_read_only(100), "read-only"),
    ],
)
def test_unusable_residuals_are_refused(residual: NDArray[np.float32], says: str) -> None:
    with pytest.raises(LocalError, match=says):
        DeltaCodec(layout_of((100,))).encode(residual)


@pytest.mark.parametrize("bound", [-1.0, math.nan, -math.inf])
def test_unusable_norm_bounds_are_refused(bound: float) -> None:
    residual = np.ones(100, np.float32)
    with pytest.raises(LocalError, match="norm bound"):
        DeltaCodec(layout_of((100,))).encode(residual, bound)
    assert (residual == 1).all()


@pytest.mark.parametrize(
    ("chunk", "kept", "bits"),
    [(15, 1, 2), (65537, 1, 2), (4096, 0, 2), (4096, 4097, 2), (4096, 64, 3), (64.0, 1, 2), (True, 1, 1)],
)
def test_unusable_parameters_are_refused(chunk: int, kept: int, bits: int) -> None:
    with pytest.raises(ConfigError):
        CodecParameters(chunk, kept, bits)


def test_encoding_is_a_function_of_the_residual() -> None:
    codec = DeltaCodec(layout_of((300, 300)))
    residual = np.random.default_rng(5).standard_normal(90000).astype(np.float32)
    assert codec.encode(residual.copy()) == codec.encode(residual.copy())


def test_sizes_and_errors_at_the_reference_point() -> None:
    """Regression guard on the figures of docs/benchmarks.md, here on one million values."""
    codec_bits = {1: (235.0, 0.0130), 2: (212.0, 0.0046), 4: (175.0, 0.0005)}
    residual = np.random.default_rng(6).standard_normal(2**20).astype(np.float32)
    for bits, (ratio, error) in codec_bits.items():
        codec = DeltaCodec(layout_of((1024, 1024)), CodecParameters(bits=bits))
        after = residual.copy()
        payload = codec.encode(after)
        sent = codec.decode(payload).positions
        assert 4 * residual.size / len(payload) >= ratio
        assert float((after[sent] ** 2).sum() / (residual[sent] ** 2).sum()) <= error


@pytest.mark.parametrize("bits", [2, 4])
def test_few_levels_move_to_the_lowest_table_that_has_them(bits: int) -> None:
    """Two distinct magnitudes ask for few levels; the same levels may be in several tables."""
    codec = DeltaCodec(layout_of((64,)), CodecParameters(chunk=64, kept=16, bits=bits))
    for ratio in np.geomspace(1.05, 20.0, 120):
        residual = np.zeros(64, np.float32)
        residual[::4] = 1.0
        residual[::16] = ratio
        before = residual.copy()
        delta = codec.decode(codec.encode(residual))
        assert np.array_equal(residual, before - delta.dense(64))
        assert float(np.abs(residual[::4]).max()) <= 0.35 * ratio


def test_decoded_delta_is_read_only() -> None:
    codec = DeltaCodec(layout_of((100,)))
    delta = codec.decode(codec.encode(np.ones(100, np.float32)))
    assert isinstance(delta, SparseDelta)
    with pytest.raises(ValueError, match="read-only"):
        delta.units[0] = 5
