"""A bare vector in a file: the same bits come back, and what is not it is refused with the file's name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.learn.tensor_file import Stream, read_piece, read_state, read_vector, write_state, write_vector

VALUES = arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_every_bit_comes_back(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("vector") / "others-trunk.f32"
    write_vector(path, values)
    assert read_vector(path, len(values)).tobytes() == values.tobytes()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes where 12 are needed"),
        (bytes(11), "has 11 bytes"),
        (bytes(16), "has 16 bytes"),
        (np.array([1, np.nan, 2], "<f4").tobytes(), "not finite"),
        (np.array([1, np.inf, 2], "<f4").tobytes(), "not finite"),
        (None, "cannot be read"),
    ],
)
def test_what_is_not_the_vector_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "others-trunk.f32"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"others-trunk\.f32: .*{words}"):
        read_vector(path, 3)


def test_a_streamed_file_is_the_one_that_the_library_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"b": rng.random((3, 5), np.float32), "a": rng.random(7, np.float32), "none": np.empty(0, np.float32)}
    facts = {"site": 'Zürich \u2028 "x" \\', "loss": 0.1}
    parts = iter([tensors["a"][:4], tensors["a"][4:]])
    write_state(tmp_path / "state", {**tensors, "a": Stream(7, parts)}, facts)
    expected = save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)})
    assert (tmp_path / "state").read_bytes() == expected
    found, told = read_state(tmp_path / "state", {name: tensor.shape for name, tensor in tensors.items()})
    assert told == facts
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    np.testing.assert_array_equal(read_piece(tmp_path / "state", "a", slice(2, 6)), tensors["a"][2:6])
    with pytest.raises(ConfigError, match="out of bounds"):
        read_piece(tmp_path / "state", "a", slice(2, 8))
    with pytest.raises(Bug, match="has 4 values where 7 were announced"):
        write_state(tmp_path / "state", {"a": Stream(7, iter([tensors["a"][:4]]))}, {})
    assert (tmp_path / "state").read_bytes() == expected, "a stream that ends early replaces nothing"
