"""Lazy push: every body moves once when nothing is lost, and little more when much is."""

from __future__ import annotations

import statistics

import pytest

from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.spread import measure_spread
from tests.testbed.ledger.toy import toy_world


def test_without_loss_exactly_one_body_per_receiver_within_six_rounds() -> None:
    for seed in range(3):
        figures = measure_spread(30, 0.0, seed)
        assert figures.bodies_per_receiver == 1.0
        assert figures.rounds_mean <= 6


def test_with_a_third_lost_at_most_half_a_body_more_within_ten_rounds() -> None:
    figures = [measure_spread(30, 0.3, seed) for seed in range(4)]
    # Every body is lost with the same probability as any message: 1 / 0.7 is what cannot be avoided.
    assert statistics.mean(f.bodies_per_receiver for f in figures) <= 1.5
    assert statistics.mean(f.rounds_mean for f in figures) <= 10


def test_a_small_entry_is_uploaded_by_its_author_alone() -> None:
    federation = LedgerFederation(toy_world(6, {"entry_limit": 3}), seed=1)
    federation.start_all()
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert set(federation.bodies_sent.values()) == {1}
    assert len(federation.bodies_sent) == 6 * 5 * 3


@pytest.mark.parametrize("eager_bytes", [0, 2**40])
def test_an_entry_reaches_a_site_that_its_author_cannot_reach(eager_bytes: int) -> None:
    settings = LedgerSettings(hear_us=5 * SECOND, antientropy=AntiEntropySettings(eager_bytes=eager_bytes))
    federation = LedgerFederation(toy_world(4, {"entry_limit": 4}, settings=settings), seed=2)
    federation.start_all()
    federation.partition([0], [3])

    def everything_is_everywhere() -> bool:
        return all(sum(federation.averaging(i).ledger.vector.values()) == 16 for i in range(4))

    assert federation.run(300 * SECOND, until=everything_is_everywhere)
    assert len(federation.digests()) == 1
