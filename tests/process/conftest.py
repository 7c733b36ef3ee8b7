"""What holds for all tests that start whole sites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.small_learners import make_learners_small


@pytest.fixture(autouse=True, scope="session")
def small_learners() -> Iterator[None]:
    """Nobody looks at how good the models are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_learners_small(monkeypatch)
        yield
