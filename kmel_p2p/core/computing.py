"""Heavy work off the event loop: one at a time, so that at most one copy of a large array is made.

What waits is only named; the copy is made when its turn comes. Whether it is still wanted is looked at then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from kmel_p2p.core.effects import Compute, Effect

MAX_QUEUED = 64
"""Works that wait; one more is refused, and whoever asked asks again."""

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

    @property
    def is_busy(self) -> bool:
        """Whether work runs or waits."""
        return self._running is not None or bool(self._queue)

    def start(self, prepare: Prepare, answer: Answer, *, must: bool = False) -> bool:
        """Have something computed; False when too much waits. `answer(None)`: it was not possible any more.

        `must`: however much waits; for what this site itself wants, never for what others ask for.
        """
        if len(self._queue) >= MAX_QUEUED and not must:
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
