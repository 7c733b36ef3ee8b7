"""Every decoder and reader of files gives a value or an error of ours, whatever the bytes are.

`benchmarks/fuzz.py` runs the same with a million cases.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.testbed.fuzzing import mutate
from tests.testbed.fuzzing import targets as module
from tests.testbed.fuzzing.targets import Target

CASES = 250
"""Damaged samples of each reader; slow ones have less."""

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]


@functools.cache
def by_name() -> dict[str, Target]:
    return {target.name: target for target in module.targets()}


@pytest.fixture(scope="module")
def every() -> dict[str, Target]:
    return by_name()


def test_whole_samples_are_read(every: dict[str, Target]) -> None:
    assert len(every) > 35
    for target in every.values():
        for sample in target.samples:
            target.read(sample)


def test_damaged_samples_raise_errors_of_ours(every: dict[str, Target]) -> None:
    untyped = []
    for target in every.values():
        rng = random.Random(target.name)
        for _ in range(max(3, round(CASES * min(1.0, target.share)))):
            data = target.case(rng)
            if (error := target.untyped(data)) is not None:
                untyped.append((target.name, repr(error)[:200], data[:100]))
    assert untyped == []


@given(data=st.data())
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_made_up_bytes_raise_errors_of_ours(data: st.DataObject) -> None:
    fast = sorted(name for name, target in by_name().items() if target.share >= 0.5)
    target = by_name()[data.draw(st.sampled_from(fast))]
    sample = data.draw(st.sampled_from(list(target.samples)))
    at, length = data.draw(st.integers(0, len(sample))), data.draw(st.integers(0, 8))
    made = sample[:at] + data.draw(st.binary(max_size=64)) + sample[at + length :]
    assert target.untyped(made) is None


@pytest.mark.parametrize(
    "data", [b"[" * 50_000, b'{"a":' * 50_000, b"a = " + b"[" * 50_000], ids=["lists", "maps", "TOML"]
)
def test_what_is_nested_deeply_raises_an_error_of_ours(every: dict[str, Target], data: bytes) -> None:
    read = [target for target in every.values() if mutate.text_changed in target.changes]
    assert len(read) > 8
    assert [target.name for target in read if target.untyped(data) is not None] == []


def test_a_file_that_a_reader_takes_is_left_as_it_was(every: dict[str, Target], tmp_path: Path) -> None:
    """Readers of a whole directory are handed one damaged file: the next case must find the others whole."""
    for target in every.values():
        if target.name.startswith(("model:", "stack", "neighbours", "trunk")):
            target.untyped(b"damaged")
            target.read(target.samples[0])
