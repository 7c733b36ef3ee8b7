"""Slow sites take fewer steps, one boaster changes little, and a plateau is a plateau."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.core.rounds.pacing import MAX_REDUCTION, Plateau, StepTime, steps_for
from kmel_p2p.core.types import MILLISECOND, SECOND


def test_a_site_three_times_slower_takes_a_third_of_the_steps() -> None:
    assert steps_for(30, 300, [100, 100, 100]) == 10
    assert steps_for(30, 100, [300, 100, 0]) == 30
    assert steps_for(30, 140, [100]) == 30
    assert steps_for(30, 0, [1, 1]) == 30


def test_one_site_that_claims_great_speed_does_not_set_the_pace_of_many() -> None:
    honest = [100] * 6
    assert steps_for(32, 100, [1, *honest]) == 32
    assert steps_for(32, 100, [1, 100]) == 32
    assert steps_for(32, 100, [1, 100, 100]) == 32
    assert steps_for(32, 100, [1]) == 2


@given(st.integers(1, 1000), st.integers(0, SECOND), st.lists(st.integers(0, SECOND), max_size=20))
def test_steps_stay_within_the_charters_and_at_least_one(steps: int, own: int, others: list[int]) -> None:
    taken = steps_for(steps, own, others)
    assert math.ceil(steps / MAX_REDUCTION) <= taken <= steps


def test_the_first_round_does_not_count_for_long() -> None:
    time = StepTime()
    time.measured(10 * SECOND, 10)
    time.measured(SECOND, 10)
    assert time.value_us == 100 * MILLISECOND
    time.measured(2 * SECOND, 10)
    assert time.value_us == 125 * MILLISECOND


def test_a_plateau_is_noticed_after_the_charters_patience() -> None:
    plateau = Plateau(3)
    figures = [1.0, 0.9, 0.9, 0.8995, 0.89, 0.95, None, math.nan, 0.9, 0.9]
    assert [plateau.seen(figure) for figure in figures] == [False] * 9 + [True]
    assert not any(Plateau(0).seen(1.0) for _ in range(100))
