"""The accumulator: order does not matter, subtraction leaves no trace, equal sums give equal bits."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import Bug, LocalError, WireError
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.delta import Layout, SparseDelta, TensorSpec, initial_trunk

SIZE = 40
LAYOUT = Layout([TensorSpec("w", (SIZE,), 0.3)])
PROPERTY = settings(deadline=None, max_examples=60)


@st.composite
def weighted(draw: st.DrawFn) -> tuple[SparseDelta, int]:
    values = draw(st.dictionaries(st.integers(0, SIZE - 1), st.integers(-(2**40), 2**40).filter(bool)))
    positions = np.array(sorted(values), np.int64)
    units = np.array([values[p] for p in sorted(values)], np.int64)
    return SparseDelta(positions, units), draw(st.integers(0, 2**16))


@PROPERTY
@given(st.lists(weighted(), max_size=8), st.randoms(use_true_random=False))
def test_order_does_not_matter(deltas: list[tuple[SparseDelta, int]], random: object) -> None:
    one = Accumulator.from_trunk(initial_trunk(LAYOUT, 1))
    other = one.copy()
    for delta, weight in deltas:
        one.add(delta, weight)
    shuffled = list(deltas)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for delta, weight in shuffled:
        other.add(delta, weight)
    assert one.digest(b"v") == other.digest(b"v")
    assert one.trunk().tobytes() == other.trunk().tobytes()


@PROPERTY
@given(st.lists(weighted(), max_size=6), weighted())
def test_subtraction_leaves_no_trace(deltas: list[tuple[SparseDelta, int]], extra: tuple[SparseDelta, int]) -> None:
    with_extra = Accumulator.from_trunk(initial_trunk(LAYOUT, 2))
    without = with_extra.copy()
    with_extra.add(*extra)
    for delta, weight in deltas:
        with_extra.add(delta, weight)
        without.add(delta, weight)
    with_extra.subtract(*extra)
    assert bytes(with_extra.raw()) == bytes(without.raw())


@PROPERTY
@given(st.lists(weighted(), max_size=6))
def test_sums_are_exact(deltas: list[tuple[SparseDelta, int]]) -> None:
    base = initial_trunk(LAYOUT, 3)
    accumulator = Accumulator.from_trunk(base)
    exact = [Fraction(float(v)) for v in base]
    for delta, weight in deltas:
        accumulator.add(delta, weight)
        for position, unit in zip(delta.positions.tolist(), delta.units.tolist(), strict=True):
            exact[position] += Fraction(unit * weight, 2**40)
    assert np.frombuffer(accumulator.raw(), "<i8").tolist() == [int(v * 2**40) for v in exact]
    assert accumulator.trunk().tolist() == [float(np.float32(float(v))) for v in exact]


@PROPERTY
@given(st.lists(st.tuples(st.sampled_from(["copy", "add", "subtract", "drop"]), st.integers(0, 9), weighted())))
def test_copies_are_independent_whoever_changes_first(steps: list[tuple[str, int, tuple[SparseDelta, int]]]) -> None:
    sums = [Accumulator.from_trunk(initial_trunk(LAYOUT, 3))]
    expected = [np.frombuffer(bytes(sums[0].raw()), "<i8").copy()]
    for what, which, (delta, weight) in steps:
        at = which % len(sums)
        if what == "copy":
            sums.append(sums[at].copy())
            expected.append(expected[at].copy())
        elif what == "drop" and len(sums) > 1:
            del sums[at], expected[at]
        elif what in ("add", "subtract"):
            getattr(sums[at], what)(delta, weight)
            expected[at][delta.positions] += (delta.units * weight) * (1 if what == "add" else -1)
        for one, values in zip(sums, expected, strict=True):
            assert bytes(one.raw()) == values.tobytes()


def test_a_copy_takes_memory_only_while_it_lives_and_one_of_both_changes() -> None:
    one = Accumulator.from_trunk(initial_trunk(LAYOUT, 3))
    delta = SparseDelta(np.array([3]), np.array([7]))
    values = one._sum
    other = one.copy()
    assert other._sum is values
    one.add(delta, 1)
    assert one._sum is not values, "the copy goes on reading what it was given"
    assert other._sum is values
    other.add(delta, 1)
    assert other._sum is values, "it has them to itself now"
    third = one.copy()
    del third
    kept = one._sum
    one.subtract(delta, 1)
    assert one._sum is kept, "a copy that is gone costs nothing"


def test_a_thread_reads_its_copy_while_the_sum_goes_on() -> None:
    size = 1 << 18
    one = Accumulator.from_trunk(np.zeros(size, np.float32))
    everywhere = SparseDelta(np.arange(size), np.ones(size, np.int64))
    want = one.digest()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(8):
            copy, expected = one.copy(), want
            digests = [threads.submit(copy.digest) for _ in range(4)]
            one.add(everywhere, 2**16)
            want = one.digest()
            assert {digest.result() for digest in digests} == {expected}


def test_initial_trunk_comes_back_bit_for_bit() -> None:
    layout = Layout([TensorSpec("w", (300, 300), 0.06), TensorSpec("b", (70000,), 1e-3)])
    base = initial_trunk(layout, 4)
    accumulator = Accumulator.from_trunk(base)
    out = np.empty_like(base)
    assert accumulator.trunk(out) is out
    assert out.tobytes() == base.tobytes()


def test_overflow_wraps_and_is_reversible() -> None:
    accumulator = Accumulator.from_trunk(np.zeros(1, np.float32))
    before = bytes(accumulator.raw())
    huge = SparseDelta(np.array([0]), np.array([2**43]))
    for _ in range(50):
        accumulator.add(huge, 2**16)
    for _ in range(50):
        accumulator.subtract(huge, 2**16)
    assert bytes(accumulator.raw()) == before


def test_digest_is_blake2b_of_context_and_little_endian_sums() -> None:
    accumulator = Accumulator.from_trunk(np.array([1.0, -0.5], np.float32))
    expected = hashlib.blake2b(
        b"ab" + (2**40).to_bytes(8, "little") + (-(2**39)).to_bytes(8, "little", signed=True), digest_size=32
    )
    assert accumulator.digest(b"a", b"b") == expected.digest()


def test_raw_round_trips_and_is_independent() -> None:
    accumulator = Accumulator.from_trunk(initial_trunk(LAYOUT, 5))
    raw = bytes(accumulator.raw())
    again = Accumulator.from_raw(raw, SIZE)
    again.add(SparseDelta(np.array([3]), np.array([7])), 1)
    assert bytes(accumulator.raw()) == raw
    assert len(again) == SIZE
    with pytest.raises(TypeError):
        accumulator.raw()[0] = 1


@pytest.mark.parametrize("length", [0, 8 * SIZE - 1, 8 * SIZE + 8])
def test_raw_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(WireError, match=f"{length} bytes where {8 * SIZE}"):
        Accumulator.from_raw(bytes(length), SIZE)


def test_empty_trunk() -> None:
    accumulator = Accumulator.from_trunk(np.zeros(0, np.float32))
    assert bytes(accumulator.raw()) == b""
    assert accumulator.trunk().shape == (0,)
    assert Accumulator.from_raw(b"", 0).digest() == accumulator.digest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**22, -(2.0**30)])
def test_initial_values_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(LocalError, match="must be finite and below"):
        Accumulator.from_trunk(np.array([0.0, value], np.float32))


@pytest.mark.parametrize("weight", [-1, 2**16 + 1])
def test_weights_out_of_range_are_bugs(weight: int) -> None:
    with pytest.raises(Bug, match="weight"):
        Accumulator.from_trunk(np.zeros(1, np.float32)).add(SparseDelta(np.array([0]), np.array([1])), weight)


def test_deltas_beyond_the_trunk_are_bugs() -> None:
    accumulator = Accumulator.from_trunk(np.zeros(4, np.float32))
    with pytest.raises(Bug, match="position 4"):
        accumulator.add(SparseDelta(np.array([4]), np.array([1])), 1)


def test_output_must_fit() -> None:
    with pytest.raises(LocalError, match="output vector"):
        Accumulator.from_trunk(np.zeros(4, np.float32)).trunk(np.zeros(4))  # type: ignore[arg-type]
