"""How long a suspicion lasts: long with one accuser, shorter with every independent one (Lifeguard, section IV-B)."""

from __future__ import annotations

import math

from kmel_p2p.core.types import Micros


def suspicion_duration_us(confirmations: int, wanted: int, shortest_us: Micros, longest_us: Micros) -> Micros:
    """max - (max - min) * ln(n + 1) / ln(k + 1), never under min; min at once when no confirmation is wanted."""
    if wanted == 0:
        return shortest_us
    # Millionths, so that the last bit of libm's logarithm cannot change a trace.
    fraction = round(1_000_000 * math.log(confirmations + 1) / math.log(wanted + 1))
    return max(shortest_us, longest_us - (longest_us - shortest_us) * fraction // 1_000_000)


class Suspicion:
    """One suspicion. Accusers count once each, and only `wanted` of them beyond the first.

    It is kept after its subject was held dead (`finished`), because it still has to be answered to the subject.
    """

    __slots__ = ("_accusers", "_longest_us", "_shortest_us", "_wanted", "finished", "started_us")

    def __init__(self, accuser: bytes, wanted: int, shortest_us: Micros, longest_us: Micros, now: Micros) -> None:
        self._accusers = {accuser: None}
        self._wanted = wanted
        self._shortest_us = shortest_us
        self._longest_us = longest_us
        self.started_us = now
        self.finished = False

    @property
    def first_accuser(self) -> bytes:
        return next(iter(self._accusers))

    @property
    def accusers(self) -> tuple[bytes, ...]:
        """Everybody counted, first accuser first."""
        return tuple(self._accusers)

    @property
    def confirmations(self) -> int:
        return len(self._accusers) - 1

    @property
    def settled(self) -> bool:
        """Whether further accusers change nothing."""
        return self.confirmations >= self._wanted

    @property
    def deadline_us(self) -> Micros:
        """When the subject is held dead. May lie in the past right after a confirmation."""
        return self.started_us + suspicion_duration_us(
            self.confirmations, self._wanted, self._shortest_us, self._longest_us
        )

    def confirm(self, accuser: bytes) -> bool:
        """Count an accuser; False when it is not new or no more are wanted."""
        if self.settled or accuser in self._accusers:
            return False
        self._accusers[accuser] = None
        return True

    def postpone(self, gap_us: Micros) -> None:
        """We were suspended for `gap_us`: the subject had no chance to refute in that time."""
        self.started_us += gap_us
