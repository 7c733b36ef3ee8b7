"""The series behind the curves: bounded, evenly spread, and kept over restarts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.site.observe.course import MOST, ROUND, SAMPLE, Course, Series
from kmel_p2p.site.observe.status import EgressStatus
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.page_sample import status


@given(st.lists(st.floats(0.1, 500.0), max_size=300), st.integers(2, 20))
def test_a_series_is_bounded_and_keeps_first_order_and_newest(gaps: list[float], most: int) -> None:
    series, at, taken = Series([], most, 1.0), 0.0, []
    for gap in gaps:
        at += gap
        if series.add({"at": at}) is not None:
            taken.append(at)
        kept = [point["at"] for point in series.points]
        assert len(kept) <= most
        assert kept == sorted(kept)
        assert set(kept) <= set(taken)
        # The newest that was taken is always there, so a curve never ends in the past.
        assert kept[-1] == taken[-1]


def test_points_of_a_long_run_are_evenly_spread() -> None:
    series = Series([], 64, 2.0)
    for at in range(100_000):
        series.add({"at": float(at)})
    kept = [point["at"] for point in series.points]
    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert 32 <= len(kept) <= 64
    assert max(gaps) <= 2 * min(gaps)
    assert kept[0] < max(gaps)


@pytest.mark.parametrize("spacing_s", [0.0, 2.0])
def test_a_series_begins_with_what_is_kept_whatever_its_spacing(spacing_s: float) -> None:
    kept = [{"at": float(at)} for at in range(0, 20_000, 10)]
    series = Series(kept, 64, spacing_s)
    assert 32 <= len(series.points) <= 64
    assert series.points[-1] == kept[-1]
    assert series.add({"at": 20_000.0}) is (None if spacing_s else True)
    assert Series(kept[:2], 64, spacing_s).points == kept[:2]


def test_a_clock_that_was_set_back_stops_no_series() -> None:
    series = Series([{"at": 1000.0}], 8, 2.0)
    assert series.add({"at": 1001.0}) is None
    assert series.add({"at": 5.0}) is True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / STORE_NAME)
    yield opened
    opened.close()


def test_a_course_goes_on_after_a_restart(store: Store) -> None:
    now = [100.0]
    first = Course(store, lambda work: work(store), lambda: now[0])
    sent = dataclasses.replace(status(), egress=EgressStatus(bytes_out=700))
    first.sample(sent)
    now[0] += 0.5
    first.sample(dataclasses.replace(sent, egress=EgressStatus(bytes_out=1000)))
    assert [point["sent"] for point in first.samples] == [700]
    first.close()
    for number in (1, 2):
        store.add_history(ROUND, 100.0 + number, {"number": number, "scores": {"logd": {"valid": 0.5}}})
    second = Course(store, lambda work: work(store), lambda: now[0])
    assert [point["sent"] for point in second.samples] == [700, 1000]
    assert [point["number"] for point in second.rounds] == [1, 2]
    assert second.samples[-1]["vector"]["north"] == 12
    # What was sent counts on over the restart.
    assert second.sent(dataclasses.replace(sent, egress=EgressStatus(bytes_out=11))) == 1011


def test_a_long_run_stays_small_on_the_disk(store: Store) -> None:
    now = [0.0]
    course = Course(store, lambda work: work(store), lambda: now[0])
    document = dataclasses.replace(status(), members=())
    for _ in range(4 * MOST):
        now[0] += 2.0
        course.sample(document)
    assert store.history_length(SAMPLE) <= MOST
    assert [row["at"] for row in store.history(SAMPLE)] == [point["at"] for point in course.samples]
    assert now[0] - course.samples[-1]["at"] < 16


def test_what_an_earlier_version_kept_without_a_limit_is_thinned_out(store: Store) -> None:
    store.replace_history(SAMPLE, [{"at": float(at), "alive": 1} for at in range(3000)])
    store.add_history("other", 1.0, {"stays": True})
    course = Course(store, lambda work: work(store), lambda: 3000.0)
    assert MOST // 2 < store.history_length(SAMPLE) <= MOST
    assert course.samples[-1]["at"] == 2999.0
    assert store.history_length("other") == 1
