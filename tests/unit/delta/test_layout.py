"""Layouts, their hash, and the initial trunk that every site must build bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.delta import Layout, TensorSpec, initial_trunk

SPECS = (
    TensorSpec("hidden.0.weight", (5, 3), 0.5),
    TensorSpec("hidden.0.bias", (5,), 0.25),
    TensorSpec("empty", (0, 7)),
    TensorSpec("temperature", (), 0.0),
)


def test_tensors_lie_end_to_end_in_order() -> None:
    layout = Layout(SPECS)
    assert layout.size == 21
    assert layout.slices == {
        "hidden.0.weight": slice(0, 15),
        "hidden.0.bias": slice(15, 20),
        "empty": slice(20, 20),
        "temperature": slice(20, 21),
    }


def test_split_gives_views_and_join_copies_back() -> None:
    layout = Layout(SPECS)
    flat = np.arange(21, dtype=np.float32)
    parts = layout.split(flat)
    assert {name: part.shape for name, part in parts.items()} == {s.name: s.shape for s in SPECS}
    parts["temperature"][...] = 99.0
    assert flat[20] == 99.0
    joined = layout.join(parts)
    assert np.array_equal(joined, flat)
    assert joined is not flat
    out = np.zeros(21, np.float32)
    assert layout.join(parts, out) is out
    assert np.array_equal(out, flat)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extra": np.zeros(1, np.float32)}, "'extra'"),
        ({"hidden.0.bias": np.zeros(4, np.float32)}, r"float32\[4\]"),
        ({"hidden.0.bias": np.zeros(5, np.float64)}, r"float64\[5\]"),
    ],
)
def test_join_names_what_does_not_fit_and_leaves_the_output_alone(change: dict[str, np.ndarray], says: str) -> None:
    layout = Layout(SPECS)
    tensors = {s.name: np.ones(s.shape, np.float32) for s in SPECS} | change
    out = np.zeros(21, np.float32)
    with pytest.raises(LocalError, match=says):
        layout.join(tensors, out)
    assert not out.any()


@pytest.mark.parametrize(
    "flat",
    [np.zeros(20, np.float32), np.zeros(21), np.zeros(42, np.float32)[::2], np.zeros((1, 21), np.float32), [0.0] * 21],
)
def test_split_refuses_anything_but_a_contiguous_float32_vector(flat: np.ndarray) -> None:
    with pytest.raises(LocalError, match="flat vector"):
        Layout(SPECS).split(flat)


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ((TensorSpec("a", (1,)), TensorSpec("a", (2,))), "two tensors called 'a'"),
        ((TensorSpec("", (1,)),), "1 to 255 bytes"),
        ((TensorSpec("a" * 256, (1,)),), "1 to 255 bytes"),
        ((TensorSpec("a", (-1,)),), "non-negative"),
        ((TensorSpec("a", (1,) * 9),), "at most 8"),
        ((TensorSpec("a", (1,), float("nan")),), "bound"),
        ((TensorSpec("a", (1,), -0.1),), "bound"),
        ((TensorSpec("a", (2**17, 2**17)),), "at most 4294967296"),
        (tuple(TensorSpec(f"t{n}", ()) for n in range(4097)), "4097 tensors"),
    ],
)
def test_bad_layouts_are_refused(specs: tuple[TensorSpec, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Layout(specs)


def test_hash_covers_names_shapes_and_order_but_not_bounds() -> None:
    base = Layout(SPECS).hash
    assert len(base) == 32
    assert Layout(TensorSpec(s.name, s.shape, 0.125) for s in SPECS).hash == base
    assert Layout(reversed(SPECS)).hash != base
    assert Layout([TensorSpec("x" + s.name, s.shape) for s in SPECS]).hash != base
    assert Layout([TensorSpec(s.name, s.shape[::-1]) for s in SPECS]).hash != base


def test_hash_has_not_changed() -> None:
    assert Layout(SPECS).hash.hex() == "51ead271d846e15cded911156779ade92aaea7347da7a7186eea3bc5b22a1a32"


def test_initial_trunk_has_not_changed() -> None:
    layout = Layout(SPECS)
    trunk = initial_trunk(layout, 20261125)
    assert [float(v).hex() for v in trunk[[0, 1, 15]]] == [
        "0x1.5a6d620000000p-2",
        "-0x1.744daa0000000p-2",
        "-0x1.d7a64a0000000p-3",
    ]
    everything = hashlib.blake2b(trunk.astype("<f4").tobytes(), digest_size=16)
    assert everything.hexdigest() == "866cc18344615bd963d325cf376c4a4a"


def test_initial_trunk_is_uniform_within_its_bounds() -> None:
    layout = Layout([TensorSpec("w", (200, 100), 0.05), TensorSpec("b", (100,), 0.0)])
    parts = layout.split(initial_trunk(layout, 7))
    w = parts["w"]
    assert not parts["b"].any()
    assert float(np.abs(w).max()) <= 0.05
    assert abs(float(w.mean())) < 4 * 0.05 / np.sqrt(3 * w.size)
    assert np.histogram(w, bins=10, range=(-0.05, 0.05))[0] == pytest.approx(2000, abs=6 * 2000**0.5)


def test_each_tensor_has_its_own_stream() -> None:
    longer = Layout([*SPECS, TensorSpec("more", (4,), 1.0)])
    assert np.array_equal(initial_trunk(longer, 3)[:21], initial_trunk(Layout(SPECS), 3))
    assert not np.array_equal(initial_trunk(longer, 3), initial_trunk(longer, 4))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_must_fit(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        initial_trunk(Layout(SPECS), seed)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**64 - 1), bound=st.floats(1e-9, 1024.0))
def test_initial_values_are_multiples_of_the_grid(seed: int, bound: float) -> None:
    trunk = initial_trunk(Layout([TensorSpec("w", (50,), bound)]), seed).astype(np.float64)
    scaled = trunk * 2.0**30
    assert np.array_equal(scaled, np.rint(scaled))
    assert float(np.abs(trunk).max()) <= bound + 2.0**-30
