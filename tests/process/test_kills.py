"""`kill -9` at random moments of a real federation: no entry is lost or published twice, and the books balance."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.site.state.own_state import GAP_SHARE
from tests.support.local_run import small_federation
from tests.testbed.kills import KillPlan, kill_at_random

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

KILLS = 4


def test_killed_at_random_moments_they_end_with_one_ledger(tmp_path: Path) -> None:
    federation = small_federation(tmp_path, entry_limit=100_000, steps_per_entry=10, retain_entries=1024)
    plan = KillPlan(KILLS, longest_pause_s=2.0, longest_down_s=1.0, daemon_share=0.67)
    with federation:
        found = kill_at_random(federation, plan, seed=11)
    assert len(found.kills) == KILLS
    assert {kill.what for kill in found.kills} == {"daemon", "trainer"}
    assert found.problems == []
    assert (found.digests, found.vectors, found.missing, found.contradictions) == (1, 1, 0, 0)
    assert found.entries == sum(found.published.values()) > 3
    assert found.looks > KILLS // 2 + len(federation.sites)
    assert set(found.balances) == {site.name for site in federation}
    assert max(found.balances.values()) <= GAP_SHARE
