"""Pull: asking other peers for entries that are missing here, and answering those that ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.messages import (
    MAX_BODIES,
    MAX_FAULTS,
    Bodies,
    Compacted,
    EntryId,
    EntryRange,
    Proofs,
    Want,
)
from kmel_p2p.core.ledger.sync.open_requests import OpenRequests
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Bodies in one answer, unless a single entry is larger. Small enough that a pull from one slow site does not hold up
the rest; the asker comes back at once for more."""


ANSWERED_AT_ONCE = 4 * MAX_ANSWER_BYTES
ANSWERED_PER_SECOND = 64 * 1024 * 1024
"""Bytes of bodies that one site is answered with: a burst, and then as much as a fast link carries. A `Want` is small
and its answer large, and whoever asks again and again without taking anything must not keep this site busy."""


class AnswerBudget:
    """How many bytes each site may still be answered with."""

    def __init__(self) -> None:
        self._left: dict[SiteKey, tuple[int, Micros]] = {}

    def left(self, site: SiteKey, now: Micros) -> int:
        """Bytes that `site` may have now; not above 0 when it had its share."""
        bytes_left, at_us = self._left.get(site, (ANSWERED_AT_ONCE, now))
        return min(ANSWERED_AT_ONCE, bytes_left + (now - at_us) * ANSWERED_PER_SECOND // SECOND)

    def spend(self, site: SiteKey, effects: Iterable[Effect], now: Micros) -> None:
        """These answers go to `site`."""
        bodies = (e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Bodies))
        spent = sum(len(encoded) for message in bodies for encoded in message.entries)
        self._left[site] = self.left(site, now) - spent, now


class Pull:
    """Asks for missing entries, for each one site at a time. Effects go to the shared `outbox`."""

    def __init__(
        self, ledger: Ledger, outbox: deque[Effect], rng: Randomness, floor_us: Micros, ceiling_us: Micros
    ) -> None:
        """`floor_us`, `ceiling_us`: bounds of the time a site gets to answer before another is asked."""
        self.active = True
        """Whether to ask for anything; not while a snapshot is being fetched."""
        self._ledger = ledger
        self._outbox = outbox
        self._rng = rng
        self._requests = OpenRequests(floor_us, ceiling_us)
        self.retried = False
        """Whether anything was not answered in time; whoever reads it takes it back."""

    def ask(
        self, site: SiteKey, heads: Iterable[tuple[SiteKey, int]], now: Micros, evidence: tuple[SiteKey, ...] = ()
    ) -> None:
        """Ask `site` for entries that it has, we lack, and nobody is being asked for.

        Args:
            site: whom to ask.
            heads: author and newest number that `site` has of it.
            now: the time.
            evidence: authors whose fault `site` is to prove as well.
        """
        wanted: list[EntryId] = []
        for author, head in heads:
            wanted += self.missing(author, head, site, MAX_BODIES - len(wanted), now)
        self.send(site, wanted, evidence)

    def missing(self, author: SiteKey, their_head: int, site: SiteKey, limit: int, now: Micros) -> list[EntryId]:
        """Entries of an author up to `their_head` to ask `site` for, at most `limit`; noted as being asked for."""
        if not self.active or author not in self._ledger.rules.roster:
            return []
        last = min(their_head, self._ledger.accepted.end(author) - 1)
        first = self._ledger.head(author) + 1
        wanted: list[EntryId] = []
        # A head far ahead may be a lie; what is asked for at once is bounded anyway.
        for number in range(first, min(last, first + MAX_BODIES - 1) + 1):
            entry_id = EntryId(author, number)
            if self._ledger.has(author, number):
                continue
            if entry_id in self._requests:
                self._requests.also_has(entry_id, site)
            elif len(wanted) < limit and not self._requests.full:
                wanted.append(entry_id)
                self._requests.ask(entry_id, site, now)
        return wanted

    def send(self, site: SiteKey, wanted: Iterable[EntryId], evidence: tuple[SiteKey, ...] = ()) -> None:
        """Send one `Want` for what `missing` gave and for evidence against authors, if there is anything to ask for."""
        ranges = _ranges(wanted)
        if ranges or evidence:
            self._outbox.append(Send(site, Want(ranges, evidence)))

    def arrived(self, entry_id: EntryId, sender: SiteKey, now: Micros) -> None:
        """An entry is here."""
        self._requests.arrived(entry_id, sender, now)

    def forget(self, site: SiteKey) -> None:
        """A site went away or came back: what it was asked for is asked of another."""
        self._requests.forget(site)

    def advance(self, now: Micros) -> None:
        """Ask another site for what was not answered in time."""
        again: dict[SiteKey, list[EntryId]] = {}
        for entry_id, other in self._requests.overdue(now, self._rng):
            self.retried = True
            if other is None or self._ledger.has(*entry_id):
                self._requests.give_up(entry_id)
            else:
                self._requests.ask(entry_id, other, now)
                again.setdefault(other, []).append(entry_id)
        for key, ids in again.items():
            for start in range(0, len(ids), MAX_BODIES):
                self.send(key, ids[start : start + MAX_BODIES])

    def deadline(self) -> Micros | None:
        """When `advance` has something to do."""
        return self._requests.deadline()


def answers(want: Want, accepted: AcceptedLogs, to: SiteKey) -> list[Effect]:
    """The messages that answer `want`, as far as one answer goes."""
    effects: list[Effect] = []
    against = (accepted.proof_against(key) for key in want.evidence)
    known = [fault for fault in against if fault is not None]
    for start in range(0, len(known), MAX_FAULTS):
        proofs = tuple(fault.evidence for fault in known[start : start + MAX_FAULTS])
        effects.append(Send(to, Proofs(proofs), Lane.BULK))
    floor = accepted.floor
    if any(span.first <= floor.get(span.author, 0) for span in want.ranges):
        effects.append(Send(to, Compacted(accepted.amendment_hash, accepted.order.vector(floor))))
    bodies: list[bytes] = []
    size = 0
    for encoded in _asked_for(want, accepted):
        if len(bodies) == MAX_BODIES or (bodies and size + len(encoded) > MAX_ANSWER_BYTES):
            break
        bodies.append(encoded)
        size += len(encoded)
    if bodies:
        effects.append(Send(to, Bodies(tuple(bodies)), Lane.BULK))
    return effects


def _asked_for(want: Want, accepted: AcceptedLogs) -> Iterable[bytes]:
    for span in want.ranges:
        for number in range(span.first, min(span.last, span.first + MAX_BODIES - 1) + 1):
            entry = accepted.get(span.author, number)
            if entry is None:
                break
            yield entry.encode()


def _ranges(ids: Iterable[EntryId]) -> tuple[EntryRange, ...]:
    """Runs of consecutive numbers of one author."""
    numbered = enumerate(sorted(ids))
    runs = [list(run) for _, run in groupby(numbered, key=lambda at: (at[1].author, at[1].number - at[0]))]
    return tuple(EntryRange(run[0][1].author, run[0][1].number, run[-1][1].number) for run in runs)
