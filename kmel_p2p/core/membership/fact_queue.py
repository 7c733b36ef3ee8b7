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


class _Item(Generic[T]):
    """One fact on its way."""

    __slots__ = ("born_us", "fact", "known_to", "size_bytes")

    def __init__(self, fact: T, size_bytes: int, now: Micros) -> None:
        self.fact = fact
        self.size_bytes = size_bytes
        self.born_us = now
        self.known_to: set[bytes] = set()
        """Members it was sent to or heard from. Only asked, never iterated: a set's order must not matter."""


class FactQueue(Generic[T]):
    """Facts by subject, ordered by how often they were sent."""

    __slots__ = ("_levels", "subjects")

    def __init__(self) -> None:
        self._levels: list[dict[bytes, _Item[T]]] = []
        self.subjects: dict[bytes, int] = {}
        """Subject -> how often its fact was sent."""

    def __len__(self) -> int:
        return len(self.subjects)

    def put(
        self, subject: bytes, fact: T, size_bytes: int, now: Micros, sent: int = 0, teller: bytes | None = None
    ) -> None:
        """Queue `fact` as sent `sent` times already, in place of any older one about `subject`."""
        self.discard(subject)
        item = _Item(fact, size_bytes, now)
        if teller is not None:
            item.known_to.add(teller)
        self._at(sent)[subject] = item
        self.subjects[subject] = sent

    def _at(self, level: int) -> dict[bytes, _Item[T]]:
        while len(self._levels) <= level:
            self._levels.append({})
        return self._levels[level]

    def discard(self, subject: bytes) -> None:
        """Stop telling about `subject`."""
        level = self.subjects.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]

    def heard(self, subject: bytes, fact: T, limit: int, teller: bytes) -> None:
        """`teller` told us what we are telling: it need not hear it, and a quarter of our transmissions are done.

        Feedback of this kind (Demers et al., PODC 1987) stops a rumour once nearly everybody knows it.
        """
        level = self.subjects.get(subject)
        if level is None:
            return
        item = self._levels[level][subject]
        if item.fact == fact:
            item.known_to.add(teller)
            new = min(level + max(1, limit // HEARD_ENOUGH), max(level, limit - OWN_SHARE))
            self._move(subject, level, new, limit)

    def take(
        self,
        target: bytes,
        members: int,
        budget_bytes: int,
        most: int,
        limit: int,
        born_after: Micros = 0,
        at_least_one: int = 0,
    ) -> tuple[list[T], int]:
        """Facts for one message to `target`, each counted as sent once more.

        Args:
            target: handle of the receiver. What it is about, or is known to it, is left out.
            members: receivers there are. When all of them know a fact, the round begins anew.
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
        for level, items in enumerate(self._levels):
            for subject in reversed(items):
                item = items[subject]
                if item.born_us < born_after:
                    expired.append(subject)
                    continue
                examined += 1
                room = budget_bytes - used if facts else max(budget_bytes, at_least_one)
                if item.size_bytes <= room and self._is_news_to(target, subject, item, members):
                    item.known_to.add(target)
                    chosen.append((subject, level))
                    facts.append(item.fact)
                    used += item.size_bytes
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

    @staticmethod
    def _is_news_to(target: bytes, subject: bytes, item: _Item[T], members: int) -> bool:
        if subject == target:
            return False
        if target not in item.known_to:
            return True
        if len(item.known_to) < members:
            return False
        item.known_to.clear()
        return True

    def _move(self, subject: bytes, level: int, new: int, limit: int) -> None:
        if new >= limit:
            self.discard(subject)
        elif new != level:
            self._at(new)[subject] = self._levels[level].pop(subject)
            self.subjects[subject] = new
