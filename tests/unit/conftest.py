"""What holds for all unit tests: which of them share a process."""

from __future__ import annotations

import pytest

APART = "test_smoke"
"""Runs of whole benchmarks, up to a minute each: every one of them goes where there is room."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests of one file in one process (xdist's `--dist loadgroup`), or what its fixtures make is made twice.

    Files that share something costly name a group themselves.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.stem != APART and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
