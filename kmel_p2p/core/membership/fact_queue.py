"""Facts waiting to be told: each a limited number of times, least-told first and newest first among equals."""

from __future__ import annotations

from typing import Generic, TypeVar

from kmel_p2p.core.types import Micros

T = TypeVar("T")

MIN_FACT_BYTES = 8
"""Nothing smaller exists, so a message with less room than this is full."""
MAX_EXAMINED = 64
"""Facts looked at per message: bounds the work when many large ones do not fit."""
HEARD_ENOUGH = 4
"""A fact heard this often from others is nearly done with ..."""
OWN_SHARE = 4
"""... but everybody sends it this often, or a rumour that runs fast would stop before it reached the last."""


class FactQueue(Generic[T]):
    """Facts by subject, ordered by how often they were sent."""

    __slots__ = ("_births", "_levels", "_sizes", "subjects")

    def __init__(self) -> None:
        self._levels: list[dict[bytes, T]] = []
        self.subjects: dict[bytes, int] = {}
        """Subject -> how often its fact was sent."""
        self._sizes: dict[bytes, int] = {}
        self._births: dict[bytes, Micros] = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def put(self, subject: bytes, fact: T, size_bytes: int, now: Micros, sent: int = 0) -> None:
        """Queue `fact` as sent `sent` times already, in place of any older one about `subject`."""
        self.discard(subject)
        while len(self._levels) <= sent:
            self._levels.append({})
        self._levels[sent][subject] = fact
        self.subjects[subject] = sent
        self._sizes[subject] = size_bytes
        self._births[subject] = now

    def discard(self, subject: bytes) -> None:
        """Stop telling about `subject`."""
        level = self.subjects.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]
            del self._sizes[subject]
            del self._births[subject]

    def heard(self, subject: bytes, fact: T, limit: int) -> None:
        """Somebody told us what we are telling: count it as a quarter of all transmissions.

        Feedback of this kind (Demers et al., PODC 1987) stops a rumour once nearly everybody knows it.
        """
        level = self.subjects.get(subject)
        if level is not None and self._levels[level][subject] == fact:
            new = min(level + max(1, limit // HEARD_ENOUGH), max(level, limit - OWN_SHARE))
            self._move(subject, level, new, limit)

    def drop_most_sent(self) -> None:
        """Give up the fact that was sent most often."""
        for facts in reversed(self._levels):
            if facts:
                self.discard(next(iter(facts)))
                return

    def smallest_next(self) -> int:
        """Size of the fact that is sent next; 0 when the queue is empty."""
        for facts in self._levels:
            if facts:
                return self._sizes[next(reversed(facts))]
        return 0

    def take(
        self, budget_bytes: int, most: int, limit: int, born_after: Micros = 0, at_least_one: int = 0
    ) -> tuple[list[T], int]:
        """Facts for one message, each counted as sent once more.

        Args:
            budget_bytes: bytes to fill.
            most: number of facts at most.
            limit: transmissions after which a fact is done.
            born_after: older facts are given up.
            at_least_one: the first fact may use this many bytes even if the budget is smaller.

        Returns:
            the facts and their bytes together.
        """
        chosen: list[tuple[bytes, int]] = []
        expired: list[bytes] = []
        facts: list[T] = []
        used = examined = 0
        for level, queue in enumerate(self._levels):
            for subject in reversed(queue):
                if self._births[subject] < born_after:
                    expired.append(subject)
                    continue
                size = self._sizes[subject]
                room = budget_bytes - used if facts else max(budget_bytes, at_least_one)
                if size <= room:
                    chosen.append((subject, level))
                    facts.append(queue[subject])
                    used += size
                examined += 1
                full = facts and used + MIN_FACT_BYTES > budget_bytes
                if full or len(facts) >= most or examined >= MAX_EXAMINED:
                    break
            else:
                continue
            break
        for subject in expired:
            self.discard(subject)
        for subject, level in reversed(chosen):
            self._move(subject, level, level + 1, limit)
        return facts, used

    def _move(self, subject: bytes, level: int, new: int, limit: int) -> None:
        if new >= limit:
            self.discard(subject)
            return
        while len(self._levels) <= new:
            self._levels.append({})
        self._levels[new][subject] = self._levels[level].pop(subject)
        self.subjects[subject] = new
