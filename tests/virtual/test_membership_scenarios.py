"""Every scenario file of tests/testbed/scenarios over its first seeds, in two processes.

With ALL_SEEDS=1 in the environment, over all of them: four times as long. Do that after a change of the membership.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.testbed.membership.run import SEEDS_PER_TASK, WORKERS, SeedRun, judge, run_seeds
from tests.testbed.membership.scenario import load_scenario

FILES = sorted((Path(__file__).parents[1] / "testbed" / "scenarios").glob("*.toml"))
FIRST_SEEDS = 12
Pending = dict[Path, list[Future[list[SeedRun]]]]


@pytest.fixture(scope="module")
def pending(request: pytest.FixtureRequest) -> Iterator[Pending]:
    """All the work that was selected, queued at once so that no process waits."""
    chosen = {item.callspec.params["path"] for item in request.session.items if hasattr(item, "callspec")
              and "path" in item.callspec.params and item.path == request.path}  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        yield {path: _submit(pool, path) for path in FILES if path in chosen}
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, path: Path) -> list[Future[list[SeedRun]]]:
    count = load_scenario(path).seeds
    if not os.environ.get("ALL_SEEDS"):
        count = min(count, FIRST_SEEDS)
    seeds = range(1, count + 1)
    return [pool.submit(run_seeds, path, seeds[i : i + SEEDS_PER_TASK]) for i in range(0, len(seeds), SEEDS_PER_TASK)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_holds_over_its_seeds(pending: Pending, path: Path) -> None:
    runs = [run for future in pending[path] for run in future.result()]
    result = judge(load_scenario(path), path, runs)
    assert result.ok, [line for line in result.lines if not line.ok]
