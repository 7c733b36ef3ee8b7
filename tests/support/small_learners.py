"""Small learners for tests that start whole sites: growing trees is a good part of what such a test would do.

Nobody looks at how good the models are there, only at what becomes of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.small.sitecustomize import SIZES

PLACE = Path(__file__).with_name("small")


def path_with_small_learners(path: str) -> str:
    """PYTHONPATH for processes whose learners are small, and those of all that they start."""
    return os.pathsep.join(filter(None, (str(PLACE), path)))


def make_learners_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all processes that are started from now on."""
    monkeypatch.setenv("PYTHONPATH", path_with_small_learners(os.environ.get("PYTHONPATH", "")))


def make_learners_small_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process."""
    from kmel_p2p.learn.stack import learners

    for name, size in SIZES.items():
        monkeypatch.setattr(learners, name, size)
