"""A bare vector in a file: the same bits come back, and what is not it is refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.tensor_file import read_vector, write_vector

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
