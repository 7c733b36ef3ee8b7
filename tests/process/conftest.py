"""What holds for all tests that start whole sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.small_learners import make_learners_small

LONGEST = ("pages_played", "packaged_federation", "upgrade", "campaigns", "amendments", "graph_federation", "packages",
           "notebook", "trainer_process", "simulate", "kills", "bad_input")  # fmt: skip
"""Files that take long begin first: one that came last would leave a core idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in order. xdist goes by it with --no-loadscope-reorder."""
    here = [at for at, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    ordered = sorted((items[at] for at in here), key=lambda item: places.get(item.path.stem, len(places)))
    for at, item in zip(here, ordered, strict=True):
        items[at] = item


@pytest.fixture(autouse=True, scope="session")
def small_learners() -> Iterator[None]:
    """Nobody looks at how good the models are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_learners_small(monkeypatch)
        yield
