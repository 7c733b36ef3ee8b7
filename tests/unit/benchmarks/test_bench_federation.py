"""Costs in a federation as ratios with wide margins: what would have to be a defect to fail them."""

from __future__ import annotations

import pytest

from benchmarks import federation, spread
from benchmarks.parts import measure


def test_a_body_moves_once_and_its_author_sends_a_small_part() -> None:
    figures = spread.spread(16, 0.0, runs=1, entries=6)
    assert figures.bodies_per_receiver == 1.0
    assert figures.author_bodies / figures.bodies < 0.5
    assert max(figures.rounds) <= 10


def test_losses_cost_little_more_than_the_lost_bodies() -> None:
    figures = spread.spread(16, 0.3, runs=1, entries=6)
    assert 1.0 <= figures.bodies_per_receiver <= 1.5 / 0.7
    assert len(figures.rounds) == 6


def test_sites_of_pushsum_are_quiet_between_rounds() -> None:
    cost, apart = federation.pushsum_federation(6, rounds=6)
    assert cost.agree
    assert apart < 0.05
    # An exchange per second and its answer are 2; a site that answers the echo of its own words says ten times as much.
    assert cost.messages_per_peer / cost.virtual_s < 4


def test_bytes_of_a_ledger_grow_with_the_entries_and_their_bases() -> None:
    few, many = federation.ledger_federation(4, rounds=4), federation.ledger_federation(12, rounds=4)
    assert few.agree
    assert many.agree
    # Three times the sites: three times the entries, whose bases are three times as long.
    assert many.bytes_per_peer / few.bytes_per_peer < 9


def test_an_entry_grows_by_what_its_base_names() -> None:
    few = federation.ledger_peer(8, sample=4).entry_bytes
    many = federation.ledger_peer(64, sample=4).entry_bytes
    # Two bytes per site named at the base, and no more.
    assert many - few <= 2 * 56


def test_slope_follows_a_trend_and_not_one_jump() -> None:
    moments = [float(n) for n in range(20)]
    assert measure.slope(moments, [2.0 * at + 1.0 for at in moments]) == pytest.approx(2.0)
    assert measure.slope(moments, [0.0] * 3 + [100.0] * 17) == pytest.approx(0.0)


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert measure.percentile(values, 0.5) == 3.0
    assert measure.percentile(values, 0.95) == 5.0
    assert measure.percentile(values, 0.0) == 1.0
