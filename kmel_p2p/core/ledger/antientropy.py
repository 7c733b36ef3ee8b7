"""Who is told what, and what is asked of whom, until all vectors are equal.

Push: an author hands its new entry to every reachable site. Pull: one random reachable site per interval is told our
vector and tells us its own; whatever either lacks it asks for. Bodies move only on request or from their author, so
in a fault-free run each arrives once. Entries relay through third sites, which cannot alter them (signatures).
Anti-entropy follows Demers et al. (1987).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kmel_p2p.core.effects import Effect, Emit, Message, Send, Store
from kmel_p2p.core.errors import WireError
from kmel_p2p.core.ledger.entry import Entry, decode
from kmel_p2p.core.ledger.events import EntriesApplied, EntryRecord, EntryRefused, LogEnded, RetractionRecord
from kmel_p2p.core.ledger.ledger import Fault, Ledger, Outcome, Verdict
from kmel_p2p.core.ledger.messages import MAX_BODIES, Bodies, Have, Range, Want
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness, SiteKey, Vector

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Bodies in one answer, unless a single entry is larger. Small enough that a pull from one slow site does not hold
back the rest; the asker comes again at once for more."""


MAX_TOLD = 32
"""Sites told at once about a change; the periodic summaries reach the rest."""


@dataclass(frozen=True, slots=True)
class AntiEntropySettings:
    """Periods of the exchange, microseconds."""

    interval: Micros = 1 * SECOND
    """Between two summaries to a random site. Bounds how long a lost push stays unnoticed."""
    want_timeout: Micros = 10 * SECOND
    """After which something asked of one site may be asked of another. Re-asking costs bytes, never correctness."""


@dataclass(slots=True)
class Counterpart:
    """The last thing a site told us."""

    vector: Vector
    phase: Phase
    ended: dict[SiteKey, int]
    heard_at: Micros


class AntiEntropy:
    """Keeps this site's ledger and the others' equal. Effects go to the shared `outbox`."""

    def __init__(
        self,
        own: SiteKey,
        ledger: Ledger,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        settings: AntiEntropySettings,
        max_payload_bytes: int,
        now: Micros,
    ) -> None:
        self.phase = Phase.PREPARING
        self._own = own
        self._ledger = ledger
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._settings = settings
        self._max_payload_bytes = max_payload_bytes
        self._counterparts: dict[SiteKey, Counterpart] = {}
        self._asked: dict[tuple[SiteKey, int], tuple[Micros, SiteKey]] = {}
        self._next_summary = now + self._jittered()

    # ---- what others told us ------------------------------------------------------------------------------------

    def counterpart(self, key: SiteKey) -> Counterpart | None:
        """What `key` last told us, if anything since it last came up."""
        return self._counterparts.get(key)

    def forget(self, key: SiteKey) -> None:
        """A site went away or came up anew: what it told us before no longer holds."""
        self._counterparts.pop(key, None)
        self._asked = {what: who for what, who in self._asked.items() if who[1] != key}

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a ledger message."""
        match message:
            case Have():
                self._on_have(sender, message, now)
            case Want():
                self._on_want(sender, message)
            case Bodies():
                self._on_bodies(sender, message, now)

    def advance(self, now: Micros) -> None:
        """Send the periodic summary when it is due."""
        if now < self._next_summary:
            return
        self._next_summary = now + self._jittered()
        alive = sorted(self._alive())
        if alive:
            self.greet(self._rng.choice(alive))

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next_summary

    def greet(self, to: SiteKey, reply: bool = True) -> None:
        """Tell one site what is here, and ask it the same."""
        ended = {key: fault.seq for key, fault in sorted(self._ledger.faults.items())}
        self._outbox.append(Send(to, Have(self._ledger.vector, int(self.phase), ended, reply)))

    def announce(self) -> None:
        """Tell reachable sites what is here: phase or vector changed in a way others wait for."""
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self.greet(key, reply=False)

    def push(self, entry: Entry) -> None:
        """Hand an own new entry to every reachable site."""
        body = Bodies((entry.encode(),))
        for key in sorted(self._alive()):
            self._outbox.append(Send(key, body, Lane.BULK))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        interval = self._settings.interval
        return interval // 2 + self._rng.randrange(interval)

    def _on_have(self, sender: SiteKey, have: Have, now: Micros) -> None:
        self._counterparts[sender] = Counterpart(have.vector, Phase(have.phase), have.ended, now)
        self._pull(sender, now)
        if have.reply:
            # The answer asks for nothing back, so two sites never echo each other.
            self.greet(sender, reply=False)

    def _pull(self, sender: SiteKey, now: Micros) -> None:
        """Ask `sender` for what it has, we lack, and nobody was asked for recently."""
        told = self._counterparts[sender]
        ranges: list[Range] = []
        left = MAX_BODIES
        for author in sorted(told.vector):
            if left == 0:
                break
            wanted = self._missing(author, told.vector[author], left, now)
            if wanted:
                ranges.append(Range(author, wanted[0], wanted[-1]))
                left -= len(wanted)
                for seq in wanted:
                    self._asked[author, seq] = (now + self._settings.want_timeout, sender)
        faults = self._ledger.faults
        evidence = tuple(k for k, seq in sorted(told.ended.items()) if k not in faults or faults[k].seq > seq)
        if ranges or evidence:
            self._outbox.append(Send(sender, Want(tuple(ranges), evidence)))

    def _missing(self, author: SiteKey, their_head: int, limit: int, now: Micros) -> list[int]:
        fault = self._ledger.faults.get(author)
        last = min(their_head, fault.seq - 1) if fault else their_head
        wanted: list[int] = []
        seq = self._ledger.head(author) + 1
        while seq <= last and len(wanted) < limit:
            asked = self._asked.get((author, seq))
            if self._ledger.has(author, seq) or (asked is not None and asked[0] > now):
                if wanted:
                    break
            else:
                wanted.append(seq)
            seq += 1
        return wanted

    def _on_want(self, sender: SiteKey, want: Want) -> None:
        bodies: list[bytes] = []
        size = 0
        for encoded in self._asked_for(want):
            if len(bodies) == MAX_BODIES or (bodies and size + len(encoded) > MAX_ANSWER_BYTES):
                break
            bodies.append(encoded)
            size += len(encoded)
        if bodies:
            self._outbox.append(Send(sender, Bodies(tuple(bodies)), Lane.BULK))

    def _asked_for(self, want: Want) -> Iterable[bytes]:
        for key in want.evidence:
            fault = self._ledger.faults.get(key)
            if fault is not None:
                yield from fault.evidence
        for span in want.ranges:
            for seq in range(span.first, min(span.last, span.first + MAX_BODIES - 1) + 1):
                entry = self._ledger.get(span.author, seq)
                if entry is None:
                    break
                yield entry.encode()

    def _on_bodies(self, sender: SiteKey, bodies: Bodies, now: Micros) -> None:
        applied: list[tuple[SiteKey, int]] = []
        for encoded in bodies.entries:
            try:
                entry = decode(encoded, max_payload_bytes=self._max_payload_bytes)
            except WireError as error:
                self._outbox.append(Emit(EntryRefused(sender, None, str(error))))
                continue
            self._asked.pop((entry.author, entry.seq), None)
            outcome = self._ledger.offer(entry)
            self._record(sender, entry, outcome)
            applied += [(e.author, e.seq) for e in outcome.applied]
        if applied:
            self._outbox.append(Emit(EntriesApplied(tuple(applied), sender)))
        told = self._counterparts.get(sender)
        if told is not None:
            self._pull(sender, now)

    def _record(self, sender: SiteKey, entry: Entry, outcome: Outcome) -> None:
        """Store and report what an offered entry changed, retractions before what was applied after them."""
        for fault in outcome.faults:
            self._outbox.append(Store(_retraction(fault)))
            count = sum(1 for e in outcome.retracted if e.author == fault.author)
            self._outbox.append(Emit(LogEnded(fault.author, fault.seq, fault.reason, count)))
        for e in outcome.applied:
            self._outbox.append(Store(EntryRecord(e.author, e.seq, e.encode(), None)))
        if outcome.verdict in (Verdict.REFUSED, Verdict.DROPPED) or outcome.refusal is not None:
            reason = outcome.refusal.value if outcome.refusal else outcome.verdict.value
            self._outbox.append(Emit(EntryRefused(sender, entry.author, reason)))
        if outcome.faults:
            self.announce()


def _retraction(fault: Fault) -> RetractionRecord:
    return RetractionRecord(fault.author, fault.seq, fault.reason, fault.evidence)
