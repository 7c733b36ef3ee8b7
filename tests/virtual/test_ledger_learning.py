"""Twelve sites learn a non-IID task in virtual time: what faults and a hostile author cost them."""

from __future__ import annotations

from functools import cache

import pytest

from tests.testbed.ledger.faults import RunFigures, run_hostile, run_learning
from tests.testbed.ledger.hostile import Malice

SITES = 12
SCORE_LOSS = 0.02
"""AUROC that 30 % loss, delays of two rounds, stragglers, a crash and a late joiner may cost."""
HOSTILE_SHARE = 0.01
"""Share of the score that one hostile author of twelve may cost."""
RESIDUAL_GAP = 1e-6
"""Published plus residual against the sum of the drifts: float32 rounding, nothing more."""


@cache
def without_hostile(seed: int) -> RunFigures:
    return run_hostile(SITES, seed, None)


def test_faults_cost_time_but_neither_agreement_nor_score() -> None:
    """One seed; benchmarks/faults.py plays twenty."""
    calm, faulty = run_learning(SITES, 0, faults=False), run_learning(SITES, 0, faults=True)
    for run in (calm, faulty):
        assert run.complete
        assert run.digests == 1
        assert run.faults == 0
        assert run.worst_gap < RESIDUAL_GAP
    assert faulty.score >= calm.score - SCORE_LOSS


@pytest.mark.parametrize("malice", Malice, ids=lambda malice: malice.name.lower())
def test_a_hostile_author_changes_no_honest_digest_and_hardly_the_score(malice: Malice) -> None:
    run = run_hostile(SITES, 1, malice)
    assert run.complete
    assert run.digests == 1
    assert run.faults == 0
    assert run.worst_gap < RESIDUAL_GAP
    assert run.score >= without_hostile(1).score * (1 - HOSTILE_SHARE)
