"""The clocks of transport, protocol and status."""

from __future__ import annotations

import time

from kmel_p2p.core.types import Micros

_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""On Linux, the one that goes on while the machine sleeps: what others said before is as old as it is."""


def now_us() -> Micros:
    """Monotonic time in microseconds."""
    return time.clock_gettime_ns(_MONOTONIC) // 1000


def wall_us() -> Micros:
    """Time since 1970 in microseconds; may be set at any time."""
    return time.time_ns() // 1000
