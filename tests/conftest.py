"""Settings of all tests: how long an example may take says something of the machine, and nothing of the code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

APART = "tests/unit/benchmarks/test_smoke.py"
"""Runs of whole benchmarks, up to a minute each: no two share anything that is costly to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, tests of one file share a process, and so what its fixtures make; but those of `APART` go
    one by one to where there is room.

    (xdist 3.8's `loadgroup` does nothing under pytest 9.2, and does not say so.)
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else super()._split_scope(nodeid)

    return FilesTogether(config, log)
