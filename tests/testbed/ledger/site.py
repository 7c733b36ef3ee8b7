"""One site of a virtual ledger federation: its disk, its trainer, and the machine they surround.

The disk keeps records in order and loses what was not durable yet when its host crashes, as a real one does. The
trainer answers after virtual time; what it writes before it answers survives a crash like a file renamed into place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Event, Message, Record
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import (
    AmendmentRecord,
    AmendmentsOverruled,
    CompactionRecord,
    EntryRecord,
    EpochRecord,
    OwnLogDoubted,
    PublishedAgainRecord,
    RetractionRecord,
    SnapshotRecord,
    VoteRecord,
)
from kmel_p2p.core.ledger.harm.vote import decode as decode_vote
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.log.epoch import decode as decode_epoch
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import RETIRED, Verdict
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot, advance
from kmel_p2p.core.rounds import COMMANDS
from kmel_p2p.core.types import Micros


class SiteTrainer(Protocol):
    """What trains at a virtual site. Lives with its host: a crash ends it, `resume` begins the next life."""

    def resume(self, state_file: str | None) -> None:
        """Take up the state stored with the newest own entry (None: start empty)."""
        ...

    def train(self, trunk: NDArray[np.float32], number: int, steps: int, norm_bound: float) -> tuple[bytes, str]:
        """Train a round; returns payload and the name of the state file written."""
        ...

    def commit(self, number: int) -> None: ...
    def abandon(self, number: int) -> None: ...


@dataclass(frozen=True, slots=True)
class MemberNews:
    """A command of the network: membership's verdict on a site changed."""

    event: Event


@dataclass(frozen=True, slots=True)
class Delivered:
    """A command of the network: a message made up by a test, from a sender of its choice."""

    sender: SiteKey
    message: Message


class Disk:
    """What a site has stored, each write durable from its time on."""

    def __init__(self, codec: Decoder, genesis: Snapshot) -> None:
        self.writes = 0
        self.snapshot: Snapshot | None = None
        self.entries: dict[tuple[SiteKey, int], EntryRecord] = {}
        """In their order of arrival."""
        self.ends: dict[SiteKey, RetractionRecord] = {}
        self.others: list[Record] = []
        self.amendments: list[bytes] = []
        self.overruled: list[bytes] = []
        self.votes: list[bytes] = []
        self.epochs: list[bytes] = []
        self.aside: list[bytes] = []
        """Entries that no longer count, encoded."""
        self.own_log_in_doubt = False
        self.own_state: str | None = None
        """Trainer state stored with the newest own entry."""
        self._codec = codec
        self._genesis = genesis
        self._pending: deque[tuple[Micros, Record]] = deque()

    def write(self, record: Record, durable_at: Micros) -> None:
        """Hand a record over; it survives a crash from `durable_at` on."""
        self.writes += 1
        self._pending.append((durable_at, record))

    def settle(self, now: Micros) -> None:
        """What is durable by now is kept."""
        while self._pending and self._pending[0][0] <= now:
            self._keep(self._pending.popleft()[1])

    def crashed(self, now: Micros) -> None:
        """Power is gone: what was not durable never was."""
        self.settle(now)
        self._pending.clear()

    def lost(self) -> None:
        """The disk is replaced by an empty one."""
        self.own_log_in_doubt = False
        self._pending.clear()
        self.snapshot = None
        self.entries.clear()
        self.ends.clear()
        self.others.clear()
        self.amendments.clear()
        self.overruled.clear()
        self.votes.clear()
        self.epochs.clear()
        self.aside.clear()
        self.own_state = None

    def restored(self, ledger: Ledger, charter: Charter) -> Ledger:
        """The ledger as this disk holds it, on a fresh one.

        Raises:
            Bug: a stored entry does not stand.
        """
        gone = (AmendmentDocument.decode(encoded) for encoded in self.overruled)
        constitution = Constitution(charter, (), {document.amendment.hash: document for document in gone})
        ledger.amend(constitution)
        ledger.own_log_in_doubt = self.own_log_in_doubt
        for encoded in self.amendments:
            constitution = constitution.followed_by(AmendmentDocument.decode(encoded))
        ledger.amend(constitution)
        for encoded in self.epochs:
            ledger.begin_epoch(decode_epoch(encoded))
        for encoded in self.votes:
            ledger.vote(decode_vote(encoded))
        if self.snapshot is not None:
            ledger.adopt(self.snapshot)
            ledger.amend(constitution)
        for end in self.ends.values():
            fault = FaultProof(end.author, end.number, end.reason, end.evidence)
            ledger.end_log(fault)
            ledger.keep_aside(fault, map(decode, self.aside))
            if end.reason == RETIRED:
                ledger.cut_off += [entry for entry in map(decode, self.aside) if entry.author == end.author]
        ledger.set_aside = list(map(decode, self.aside))
        for record in self.entries.values():
            outcome = ledger.offer(decode(record.encoded))
            if outcome.verdict is not Verdict.APPLIED:
                raise Bug(f"a stored entry is {outcome.verdict.value}")
        return ledger

    def numbers_of(self, author: SiteKey) -> list[int]:
        """Numbers of the stored entries of one author."""
        return [number for key, number in self.entries if key == author]

    def _set_aside(self, author: SiteKey, number: int) -> None:
        taken = {at: record for at, record in self.entries.items() if at[0] == author and at[1] >= number}
        self.aside += [record.encoded for record in taken.values()]
        self.entries = {at: record for at, record in self.entries.items() if at not in taken}

    def _keep(self, record: Record) -> None:
        match record:
            case EntryRecord():
                self.entries[record.author, record.number] = record
                self.own_state = record.own_state_file or self.own_state
            case RetractionRecord():
                self.ends[record.author] = record
                self._set_aside(record.author, record.number)
            case CompactionRecord(until, withdrawn, amendments):
                compacted = [decode(r.encoded) for k, r in self.entries.items() if k[1] <= until.get(k[0], 0)]
                before = self.snapshot or self._genesis
                own = replace(before, accumulator=before.accumulator.copy())
                self.snapshot = advance(own, compacted, self._codec, withdrawn, amendments)
                self.entries = {k: r for k, r in self.entries.items() if k[1] > until.get(k[0], 0)}
            case SnapshotRecord(snapshot, kept):
                self.snapshot, floor = snapshot, snapshot.vector
                self.entries = {k: r for k, r in self.entries.items() if floor.get(k[0], 0) < k[1] <= kept.get(k[0], 0)}
                self.ends.clear()
            case AmendmentRecord():
                self.amendments.append(record.encoded)
            case AmendmentsOverruled(first, documents, overruled, kept):
                self.overruled += overruled
                if kept is not None:
                    self.amendments = [*self.amendments[: first - 1], *documents]
                    self.ends.clear()
                    for author in {author for author, _ in self.entries}:
                        self._set_aside(author, kept.get(author, 0) + 1)
            case VoteRecord(encoded):
                self.votes.append(encoded)
            case EpochRecord(author=author, encoded=encoded, cut=cut, reopened=reopened):
                self.epochs.append(encoded)
                if reopened:
                    self.ends.pop(author, None)
                if cut:
                    self._set_aside(author, cut)
            case PublishedAgainRecord(encoded=encoded):
                self.aside = [each for each in self.aside if each != encoded]
            case OwnLogDoubted(doubted):
                self.own_log_in_doubt = doubted
            case _:
                self.others.append(record)


class LedgerHost:
    """A `core.effects.Machine`: averaging, told by the network who is alive."""

    def __init__(self, averaging: LedgerAveraging) -> None:
        self.averaging = averaging

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        self.averaging.receive(sender, message, now)

    def command(self, cmd: Any, now: Micros) -> None:
        if isinstance(cmd, MemberNews):
            self.averaging.member_event(cmd.event, now)
        elif isinstance(cmd, Delivered):
            self.averaging.receive(cmd.sender, cmd.message, now)
        elif isinstance(cmd, COMMANDS):
            self.averaging.command(cmd, now)

    def advance(self, now: Micros) -> None:
        self.averaging.advance(now)

    def deadline(self) -> Micros | None:
        return self.averaging.deadline()

    def poll(self) -> Effect | None:
        return self.averaging.poll()


@dataclass(slots=True)
class VirtualSite:
    """What surrounds one host."""

    index: int
    key: SiteKey
    make_trainer: Callable[[], SiteTrainer]
    step_us: Micros
    disk: Disk
    trainer: SiteTrainer | None = None
    events: deque[tuple[Micros, Event]] = field(default_factory=lambda: deque(maxlen=10_000))
    finished: bool = False
    """Whether the latest event about the run said that it is complete."""
