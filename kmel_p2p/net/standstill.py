"""Notices that this process stood still: the machine slept or was paused, or the process was stopped, and goes on."""

from __future__ import annotations

from collections.abc import Callable

from kmel_p2p.core.types import SECOND, Micros

STOOD_STILL: Micros = 10 * SECOND
"""Longer than a busy machine lets a program wait, and less than it takes to start a copy of this site elsewhere and
have it publish."""


class StandstillWatch:
    """Looked at whenever anything comes in, and often when nothing does.

    Time that passed unseen shows in the monotonic clock (a stopped process, a machine that slept) or in the wall clock
    alone (a paused virtual machine, whose clocks stood still until somebody set the time). A wall clock that is set
    forward by hand looks the same: hearing the others anew then costs a moment.

    Args:
        wall: the wall clock, microseconds.
        now: monotonic time.
    """

    def __init__(self, wall: Callable[[], Micros], now: Micros) -> None:
        self._wall = wall
        self._seen_us = now
        self._ahead_us = wall() - now

    def look(self, now: Micros) -> Micros:
        """How long this process stood still since the last look; 0 where it ran."""
        unseen_us = now - self._seen_us
        ahead_us = self._wall() - now
        # What both clocks say is one pause.
        missed_us = unseen_us + max(0, ahead_us - self._ahead_us)
        self._seen_us, self._ahead_us = now, ahead_us
        return missed_us if missed_us > STOOD_STILL else 0
