"""When a process that goes on is said to have stood still."""

from __future__ import annotations

from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.net.standstill import STOOD_STILL, StandstillWatch


class Clocks:
    """Two clocks that are turned by hand."""

    def __init__(self) -> None:
        self.now: Micros = 5 * SECOND
        self.wall: Micros = 1_800_000_000 * SECOND
        self.watch = StandstillWatch(lambda: self.wall, self.now)

    def after(self, monotonic_us: Micros, wall_us: Micros) -> Micros:
        self.now += monotonic_us
        self.wall += wall_us
        return self.watch.look(self.now)


def test_a_process_that_runs_stood_still_for_no_time() -> None:
    clocks = Clocks()
    assert not any(clocks.after(100 * MILLISECOND, 100 * MILLISECOND) for _ in range(200))


def test_a_stopped_process_shows_in_both_clocks_and_counts_once() -> None:
    clocks = Clocks()
    assert clocks.after(60 * SECOND, 60 * SECOND) == 60 * SECOND
    assert clocks.after(SECOND, SECOND) == 0


def test_a_paused_machine_shows_when_somebody_sets_its_clock() -> None:
    clocks = Clocks()
    assert clocks.after(100 * MILLISECOND, 3600 * SECOND) == 3600 * SECOND
    assert clocks.after(100 * MILLISECOND, 100 * MILLISECOND) == 0


def test_a_busy_machine_and_a_clock_that_is_put_right_are_no_pause() -> None:
    clocks = Clocks()
    assert clocks.after(STOOD_STILL, STOOD_STILL) == 0
    assert clocks.after(SECOND, -3600 * SECOND) == 0
    assert clocks.after(SECOND, 3 * SECOND) == 0
