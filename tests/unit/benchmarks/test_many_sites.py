"""Many sites in few workers: every entry stands by the ledger's rules, however the sites are divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.many_sites import Ask, Plan, SiteHost, federate_many

PLAN = Plan(sites=3, compounds=12, rounds=3, steps=4, hidden=(8,))


def here(host: SiteHost, bounds_seen: list[Mapping[int, float]]) -> Ask:
    def ask(number: int, trunk: NDArray[np.float32], bounds: Mapping[int, float]) -> Any:
        bounds_seen.append(dict(bounds))
        return lambda: host.train(number, trunk, bounds)

    return ask


def run(workers: int) -> tuple[dict[str, Any], list[Mapping[int, float]]]:
    seen: list[Mapping[int, float]] = []
    hosts = [SiteHost(PLAN, first, workers) for first in range(workers)]
    found = federate_many(PLAN, [here(host, seen) for host in hosts])
    for host in hosts:
        host.close()
    return {name: value for name, value in found.items() if name != "seconds"}, seen


def test_how_sites_are_divided_among_workers_changes_nothing() -> None:
    alone, bounds = run(1)
    assert run(2)[0] == alone
    assert alone["refused"] == 0
    assert alone["sites"] == 3
    assert alone["received_bytes"] == 2 * alone["sent_bytes"] > 0
    assert 0 < alone["auroc"] < 1
    first, second, _ = bounds
    assert len(set(first.values())) == 1, "before any entry, all have the bound of a first one"
    assert first != second, "then it follows the others' norms"
