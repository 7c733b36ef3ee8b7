"""What can happen to a message between two hosts: every condition holds per direction."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kmel_p2p.core.types import MILLISECOND, SECOND, Micros


@dataclass(frozen=True, slots=True)
class Conditions:
    """One direction of a link. Probabilities are per message, durations in microseconds."""

    latency_us: Micros = 5 * MILLISECOND
    jitter_us: Micros = 5 * MILLISECOND
    """Added to the latency, uniform in [0, jitter]."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Probability that a message may overtake or be overtaken; otherwise order is kept, as on one connection."""
    reorder_us: Micros = 200 * MILLISECOND
    """How much later a reordered message may arrive."""
    corrupt: float = 0.0
    """Probability that one byte is altered (needs a carrier of bytes)."""
    lanes_apart: bool = False
    """Control may overtake bulk, as on the two connections of the real transport; otherwise one order holds."""
    bits_per_second: int = 0
    """Bandwidth; 0 is unlimited."""
    queue_bytes: int = 4 * 1024 * 1024
    """Bytes that may wait for bandwidth; beyond it the sender's transport refuses."""


class Direction:
    """The changing state of one direction."""

    __slots__ = ("blocks", "bulk_free_us", "clog_until_us", "conditions", "control_free_us", "last_arrival_us")

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.blocks = 0
        self.clog_until_us: Micros = 0
        self.control_free_us: Micros = 0
        self.bulk_free_us: Micros = 0
        self.last_arrival_us: list[Micros] = [0, 0]
        """Per lane (control, bulk), if they are apart."""

    @property
    def blocked(self) -> bool:
        return self.blocks > 0

    def transmit(self, size_bytes: int, bulk: bool, now: Micros, rng: random.Random) -> list[Micros] | None:
        """Arrival times of one message: none when lost, two when duplicated, None when refused for want of room."""
        c = self.conditions
        leaves = now
        if c.bits_per_second:
            queued = self._enqueue(size_bytes, bulk, now)
            if queued is None:
                return None
            leaves = queued
        if self.blocks or (c.loss and rng.random() < c.loss):
            return []
        arrivals = [self._arrival(leaves, bulk, rng)]
        if c.duplicate and rng.random() < c.duplicate:
            arrivals.append(self._arrival(leaves, bulk, rng))
        return arrivals

    def _enqueue(self, size_bytes: int, bulk: bool, now: Micros) -> Micros | None:
        """When the last bit leaves. Control overtakes waiting bulk, bulk waits for both."""
        c = self.conditions
        duration = size_bytes * 8 * SECOND // c.bits_per_second
        start = max(now, self.control_free_us, self.bulk_free_us if bulk else now)
        if (start - now) * c.bits_per_second > c.queue_bytes * 8 * SECOND:
            return None
        if bulk:
            self.bulk_free_us = start + duration
        else:
            self.control_free_us = start + duration
            self.bulk_free_us = max(self.bulk_free_us, start) + duration
        return start + duration

    def _arrival(self, leaves: Micros, bulk: bool, rng: random.Random) -> Micros:
        c = self.conditions
        arrival = leaves + c.latency_us + (rng.randrange(c.jitter_us + 1) if c.jitter_us else 0)
        arrival = max(arrival, self.clog_until_us)
        if c.reorder and rng.random() < c.reorder:
            return arrival + rng.randrange(c.reorder_us + 1)
        lane = bulk and c.lanes_apart
        arrival = max(arrival, self.last_arrival_us[lane])
        self.last_arrival_us[lane] = arrival
        return arrival
