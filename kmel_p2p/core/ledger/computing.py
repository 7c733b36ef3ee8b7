"""Heavy sums off the event loop: at most one at a time, so that at most one copy of the accumulator is made.

What waits is only named; the copy is made when its turn comes. Whether the entries above a vector are still held is
looked at then, and equal questions are answered once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kmel_p2p.core.effects import Compute, Effect
from kmel_p2p.core.ledger.ledger import Ledger
from kmel_p2p.core.types import SiteKey, Vector

MAX_QUEUED = 64
"""Works that wait; one more is refused, and whoever asked asks again."""

KEPT_DIGESTS = 8
"""Answers remembered: sites tend to ask about the same few vectors."""

Work: TypeAlias = Callable[[], bytes]
Prepare: TypeAlias = Callable[[], Work | None]
"""Makes the work when its turn comes, or None when it is no longer possible."""

Answer: TypeAlias = Callable[[bytes | None], None]


@dataclass(slots=True)
class _Job:
    prepare: Prepare
    answer: Answer


class Computing:
    """One work after another. Effects go to the shared `outbox`."""

    def __init__(self, outbox: deque[Effect]) -> None:
        self._outbox = outbox
        self._queue: deque[_Job] = deque()
        self._running: _Job | None = None
        self._ticket = 0

    def start(self, prepare: Prepare, answer: Answer) -> bool:
        """Have something computed; False when too much waits. `answer(None)`: it was not possible any more."""
        if len(self._queue) >= MAX_QUEUED:
            return False
        self._queue.append(_Job(prepare, answer))
        self._next()
        return True

    def computed(self, ticket: int, result: bytes) -> None:
        """The driver's answer."""
        job = self._running
        if job is None or ticket != self._ticket:
            return
        self._running = None
        job.answer(result)
        self._next()

    def _next(self) -> None:
        while self._running is None and self._queue:
            job = self._queue.popleft()
            work = job.prepare()
            if work is None:
                job.answer(None)
                continue
            self._running = job
            self._ticket += 1
            self._outbox.append(Compute(self._ticket, work))


class Digests:
    """Digests of the ledger at vectors that lie in the past or are present."""

    def __init__(self, ledger: Ledger, computing: Computing) -> None:
        self._ledger = ledger
        self._computing = computing
        self._known: dict[tuple[tuple[SiteKey, int], ...], bytes] = {}
        self._asked: dict[tuple[tuple[SiteKey, int], ...], list[Answer]] = {}

    def at(self, vector: Vector, answer: Answer) -> bool:
        """Answer with the digest at `vector`, now or later; with None when the ledger cannot tell.

        Returns False, and never answers, when too much waits already.
        """
        name = tuple(sorted((key, seq) for key, seq in vector.items() if seq))
        known = self._known.get(name)
        if known is not None:
            answer(known)
            return True
        if name in self._asked:
            self._asked[name].append(answer)
            return True
        self._asked[name] = [answer]
        started = self._computing.start(
            lambda: self._ledger.digest_work(dict(name)), lambda result: self._found(name, result)
        )
        if not started:
            del self._asked[name]
        return started

    def forget(self) -> None:
        """What stood was taken back: answers of before no longer hold."""
        self._known.clear()

    def _found(self, name: tuple[tuple[SiteKey, int], ...], result: bytes | None) -> None:
        if result is not None:
            self._known[name] = result
            if len(self._known) > KEPT_DIGESTS:
                del self._known[next(iter(self._known))]
        for answer in self._asked.pop(name, []):
            answer(result)
