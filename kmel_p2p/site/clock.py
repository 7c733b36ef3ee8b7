"""The clock of transport, protocol and status."""

from __future__ import annotations

import time

from kmel_p2p.core.types import Micros


def now_us() -> Micros:
    """Monotonic time in microseconds."""
    return time.monotonic_ns() // 1000
