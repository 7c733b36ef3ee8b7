"""Compacts entries that everybody has into the snapshot: memory and disk stay bounded however long a run lasts.

An entry may be compacted when a majority of the roster, and every alive site that speaks, holds the same headers up to
it, and `retain` newer entries of its author are here. Fewer are kept where all payloads together would take more memory
than the sum itself, which is what a site that was away then fetches. A compacted entry cannot be taken back, so a fork
below it changes nothing; a site that was away and saw another branch starts over from a snapshot. Nor can one that was
made under an amendment which another of the same number overrules (`log.overruling`): so what was made under a new one
is kept until most of the sites that it might part hold it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Persist
from kmel_p2p.core.ledger.events import CompactionRecord, EntriesCompacted
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Micros

PERIOD: Micros = 5 * SECOND
"""Between two looks at what may be compacted."""

MUTE_AFTER: Micros = 300 * SECOND
"""An alive site that has agreed to nothing for so long is not waited for: it will need a snapshot."""

RIVALS_SHOW_WITHIN: Micros = 24 * 3600 * SECOND
"""For so long entries are kept because of an amendment that could still be overruled. Sites that it retired never agree
to anything made under it, and disks have ends."""

LEAST = 16
"""Fewest entries for which the stored snapshot is rewritten."""

FEWEST = 8
"""Newest entries of an author that are kept however large they are."""

ALWAYS_KEPT_BYTES = 16 * 1024 * 1024
"""Payload bytes that are kept in any case, however small the trunk."""


DISPUTED = 4
"""Entries that a vote is against are kept for so many times as long as others."""


def bytes_worth_keeping(values: int) -> int:
    """Most payload bytes to keep: as many as the sum of a trunk of so many values takes."""
    return max(ALWAYS_KEPT_BYTES, 8 * values)


class Retention:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        own: SiteKey,
        ledger: Ledger,
        roster: Callable[[], int],
        alive: Callable[[], Iterable[SiteKey]],
        agreed: Callable[[SiteKey], tuple[RosterVector, Micros] | None],
        retain: int,
        keep_bytes: int,
        outbox: deque[Effect],
        now: Micros,
    ) -> None:
        """Bound to its collaborators.

        Args:
            own: key of this site.
            ledger: what to compact.
            roster: number of sites on the roster.
            alive: the other sites that membership calls alive.
            agreed: vector up to which a site was last seen to hold our headers, and when.
            retain: newest entries of each author to keep, by the charter.
            keep_bytes: payload bytes that may be kept.
            outbox: takes the effects.
            now: the time.
        """
        self._own = own
        self._ledger = ledger
        self._roster = roster
        self._alive = alive
        self._agreed = agreed
        self._retain = retain
        self._keep_bytes = keep_bytes
        self._outbox = outbox
        self._next_us = now + PERIOD
        self._seen_us: dict[SiteKey, Micros] = {}
        self._in_force_us: dict[bytes, Micros] = {}
        """Hash of an amendment -> when it was first seen in force in this life."""

    def advance(self, now: Micros) -> None:
        """Compact what may be compacted, when it is due and worth it."""
        if now < self._next_us:
            return
        self._next_us = now + PERIOD
        until = {} if self._ledger.stale else self._compactable(now)
        if sum(until[key] - self._ledger.accepted.floor.get(key, 0) for key in until) < LEAST:
            return
        amended = self._ledger.constitution
        documents = amended.documents if amended is not None else ()
        encoded = tuple(document.encode() for document in documents)
        self._outbox.append(Persist(CompactionRecord(until, dict(self._ledger.accepted.withdrawn), encoded)))
        self._outbox.append(Emit(EntriesCompacted(until)))
        self._ledger.compact(until)

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next_us

    def _compactable(self, now: Micros) -> dict[SiteKey, int]:
        """author -> number of the newest entry that may be compacted, where that is above the floor."""
        alive = list(self._alive())
        self._seen_us = {key: self._seen_us.get(key, now) for key in alive}
        vectors: dict[SiteKey, RosterVector] = {}
        for key in alive:
            told = self._agreed(key)
            spoke_at_us = self._seen_us[key] if told is None else max(told[1], self._seen_us[key])
            if told is not None and now < spoke_at_us + MUTE_AFTER:
                vectors[key] = told[0]
            elif now < spoke_at_us + MUTE_AFTER:
                return {}
        if 2 * (1 + len(vectors)) <= self._roster():
            return {}
        accepted = self._ledger.accepted
        floor, retain = accepted.floor, self._affordable()
        everybody = accepted.heads.copy()
        for vector in vectors.values():
            np.minimum(everybody, vector.padded(everybody.size), out=everybody)
        numbers = accepted.order.named(RosterVector.of(np.maximum(everybody - retain, 0)))
        contested = self._contested({self._own, *vectors}, now)
        numbers = {
            author: min(number, self._undisputed(author, retain), contested.get(author, number + 1) - 1)
            for author, number in numbers.items()
        }
        return {author: number for author, number in numbers.items() if number > floor.get(author, 0)}

    def _undisputed(self, author: SiteKey, retain: int) -> int:
        """The last entry of an author that may be compacted: what a suspension takes out must be there to be given
        back, and what a vote would have taken out may be, with further votes.

        Each vote for itself, and while nobody is suspended only for a time: one that nobody joins would hold back all
        that follows. Voters renew theirs before (`panel.RENEWED_AFTER`).
        """
        ledger, head = self._ledger, self._ledger.head(author)
        firsts = [vote.first for vote in ledger.votes.against(author).values()]
        # A suspension goes down to another epoch of the log (`Suspensions.exchanged`).
        firsts += [epoch.first for epoch in ledger.accepted.epochs.of(author)]
        if author not in ledger.suspended:
            firsts = [first for first in firsts if head - first < DISPUTED * retain]
        return min(firsts, default=head + 1) - 1

    def _contested(self, agreeing: set[SiteKey], now: Micros) -> dict[SiteKey, int]:
        """author -> its first entry that was made under an amendment which might still be overruled.

        Args:
            agreeing: this site and those that hold what it holds.
            now: the time.
        """
        constitution = self._ledger.constitution
        if constitution is None:
            return {}
        agreeing = {key for newest in agreeing for key in constitution.keys_of(newest)}
        firm = self._compacted_under()
        for number in range(firm + 1, constitution.number + 1):
            since_us = self._in_force_us.setdefault(constitution.hash_at(number), now)
            before = constitution.at(number - 1).roster
            if 2 * len(agreeing & before.keys()) <= len(before) and now < since_us + RIVALS_SHOW_WITHIN:
                break
            firm = number
        if firm == constitution.number:
            return {}
        firsts: dict[SiteKey, int] = {}
        for entry in self._ledger.entries():
            if entry.basis.amendment > firm:
                firsts[entry.author] = min(entry.number, firsts.get(entry.author, entry.number))
        return firsts

    def _compacted_under(self) -> int:
        """Number of the newest amendment that compacted entries name: keeping more would undo nothing."""
        logs = self._ledger.accepted.logs.values()
        newest = (log.header(log.first - 1) for log in logs)
        return max((header.basis.amendment for header in newest if header is not None), default=0)

    def _affordable(self) -> int:
        """Newest entries of each author that fit into `keep_bytes`, by the mean size of those here."""
        sizes = [entry.payload_bytes for entry in self._ledger.entries()]
        held = sum(sizes)
        if held <= self._keep_bytes:
            return self._retain
        authors = len(self._ledger.vector)
        return max(FEWEST, min(self._retain, self._keep_bytes * len(sizes) // (held * authors)))
