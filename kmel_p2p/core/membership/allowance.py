"""A token bucket in integers: bounds what may happen per time, exactly and without a clock of its own."""

from __future__ import annotations

from kmel_p2p.core.types import Micros


class Allowance:
    """`burst` units at once, refilled by `rate` units per `period_us`."""

    __slots__ = ("_burst", "_level", "_period_us", "_rate", "_updated_us")

    def __init__(self, rate: int, period_us: Micros, burst: int, now: Micros) -> None:
        self._rate = rate
        self._period_us = period_us
        self._burst = burst * period_us  # the level is kept in units * period_us, so nothing is rounded
        self._level = self._burst
        self._updated_us = now

    def _refill(self, now: Micros) -> None:
        if now > self._updated_us:
            self._level = min(self._burst, self._level + (now - self._updated_us) * self._rate)
            self._updated_us = now

    def available(self, now: Micros) -> int:
        """Whole units that may be spent now; negative while in debt."""
        self._refill(now)
        return self._level // self._period_us

    def spend(self, units: int, now: Micros) -> None:
        """Take units; may go into debt, so that one large item is never stuck."""
        self._refill(now)
        self._level -= units * self._period_us

    def ready_at(self, units: int, now: Micros) -> Micros:
        """When `units` (or the whole burst, if that is less) will be available."""
        self._refill(now)
        missing = min(units * self._period_us, self._burst) - self._level
        return now if missing <= 0 else now + -(-missing // self._rate)
