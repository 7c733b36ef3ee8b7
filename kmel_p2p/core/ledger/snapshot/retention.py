"""Lets go of entries that everybody has: memory and disk stay bounded however long a run lasts.

An entry may be folded into the snapshot when a majority of the roster, and every alive site that speaks, holds the
same headers up to it, and `retain` newer ones of its author are here; fewer where all that is kept would take more
memory than the sum itself, which is what a site that was away fetches then. What is folded cannot be taken back, so
a fork below it changes nothing any more; a site that was away and saw another branch starts over from a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Store
from kmel_p2p.core.ledger.events import CompactionRecord, EntriesCompacted
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.types import SECOND, Micros, Vector

PERIOD: Micros = 5 * SECOND
"""Between two looks at what may be folded."""

MUTE_AFTER: Micros = 300 * SECOND
"""An alive site that agreed to nothing for so long is not waited for: it will need a snapshot."""

LEAST = 16
"""Entries worth rewriting the stored snapshot for."""

FEWEST = 8
"""Newest entries of an author that are kept however large they are."""

ALWAYS_KEPT_BYTES = 16 * 1024 * 1024
"""Payloads for which nothing is folded early, however small the trunk."""


def bytes_worth_keeping(values: int) -> int:
    """Payload bytes to keep at most: what the sum of a trunk of so many values takes."""
    return max(ALWAYS_KEPT_BYTES, 8 * values)


class Retention:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        ledger: Ledger,
        roster: Callable[[], int],
        alive: Callable[[], Iterable[SiteKey]],
        agreed: Callable[[SiteKey], tuple[Vector, Micros] | None],
        retain: int,
        keep_bytes: int,
        outbox: deque[Effect],
        now: Micros,
    ) -> None:
        """`agreed`: up to where a site was last seen to hold our headers, and when; `retain`: the charter's;
        `keep_bytes`: payloads that may be kept."""
        self._ledger = ledger
        self._roster = roster
        self._alive = alive
        self._agreed = agreed
        self._retain = retain
        self._keep_bytes = keep_bytes
        self._outbox = outbox
        self._next = now + PERIOD
        self._seen: dict[SiteKey, Micros] = {}

    def advance(self, now: Micros) -> None:
        """Fold what may be folded, when it is due and worth it."""
        if now < self._next:
            return
        self._next = now + PERIOD
        until = {} if self._ledger.stale else self._foldable(now)
        if sum(until[key] - self._ledger.accepted.floor.get(key, 0) for key in until) < LEAST:
            return
        amended = self._ledger.constitution
        documents = amended.documents if amended is not None else ()
        encoded = tuple(document.encode() for document in documents)
        self._outbox.append(Store(CompactionRecord(until, dict(self._ledger.accepted.withdrawn), encoded)))
        self._outbox.append(Emit(EntriesCompacted(until)))
        self._ledger.fold(until)

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next

    def _foldable(self, now: Micros) -> dict[SiteKey, int]:
        """author -> newest entry that may be folded, for those where that is above the floor."""
        alive = list(self._alive())
        self._seen = {key: self._seen.get(key, now) for key in alive}
        vectors: list[Vector] = []
        for key in alive:
            told = self._agreed(key)
            spoke_at = self._seen[key] if told is None else max(told[1], self._seen[key])
            if told is not None and now < spoke_at + MUTE_AFTER:
                vectors.append(told[0])
            elif now < spoke_at + MUTE_AFTER:
                return {}
        if 2 * (1 + len(vectors)) <= self._roster():
            return {}
        floor, retain = self._ledger.accepted.floor, self._affordable()
        until: dict[SiteKey, int] = {}
        for author, head in self._ledger.vector.items():
            number = min([head, *(vector.get(author, 0) for vector in vectors)]) - retain
            if number > floor.get(author, 0):
                until[author] = number
        return until

    def _affordable(self) -> int:
        """Newest entries of each author that can be kept within `keep_bytes`, by the mean size of those here."""
        sizes = [entry.payload_bytes for entry in self._ledger.entries()]
        held = sum(sizes)
        if held <= self._keep_bytes:
            return self._retain
        authors = len(self._ledger.vector)
        return max(FEWEST, min(self._retain, self._keep_bytes * len(sizes) // (held * authors)))
