"""Local health (Lifeguard, section IV-A): doubt yourself before you accuse others."""

from __future__ import annotations

from kmel_p2p.core.types import Micros


class LocalHealth:
    """A score from 0 (well) to `limit` - 1. Probing slows down by the factor score + 1."""

    __slots__ = ("_enabled", "_limit", "score")

    def __init__(self, limit: int, enabled: bool) -> None:
        self._limit = limit
        self._enabled = enabled
        self.score = 0

    def change(self, delta: int) -> None:
        """Worse by `delta` > 0 (failed probe, missing nack, own refutation, late timer), better by < 0."""
        if self._enabled:
            self.score = min(self._limit - 1, max(0, self.score + delta))

    def stretch(self, duration_us: Micros) -> Micros:
        """A probing duration at the present score."""
        return duration_us * (self.score + 1)
