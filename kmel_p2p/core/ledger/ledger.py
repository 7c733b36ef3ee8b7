"""All logs a peer holds and the trunk they sum to.

Guarantees: an entry changes the trunk exactly once, only after its base is here and it is valid; the state is a
function of the set of entries and faults, not of their order. Does not decide whom to send what: see `antientropy`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kmel_p2p.core.errors import Bug, WireError
from kmel_p2p.core.identity import digest
from kmel_p2p.core.ledger.accumulator import Accumulator
from kmel_p2p.core.ledger.entry import Entry
from kmel_p2p.core.ledger.log import Log
from kmel_p2p.core.ledger.validity import (
    Refusal,
    Rules,
    base_is_reached,
    check_chain,
    check_origin,
    norm_bound_squared,
)
from kmel_p2p.core.types import SiteKey, Vector
from kmel_p2p.delta.sparse import SparseDelta

MAX_WAITING = 1024
"""Entries held back until their base arrives. Pulls ask for at most `MAX_PULL` at a time, so this is several peers'
answers; beyond it an entry is dropped and asked for again later."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Payload bytes of entries held back."""


@dataclass(frozen=True, slots=True)
class Held:
    """An entry whose base is not here yet, with what its own bytes already say against it."""

    entry: Entry
    refusal: Refusal | None


class Decoder(Protocol):
    """What the ledger needs of `delta.DeltaCodec`."""

    @property
    def codec_id(self) -> int: ...
    def decode(self, payload: bytes) -> SparseDelta: ...


class Verdict(enum.Enum):
    """What became of an offered entry."""

    APPLIED = "applied"
    WAITING = "waiting for its base"
    KNOWN = "known already"
    DROPPED = "dropped: too many entries wait"
    REFUSED = "refused"
    ENDED = "the author's log has ended"


@dataclass(frozen=True, slots=True)
class Fault:
    """Evidence that an author broke the rules: its log ends before `seq`."""

    author: SiteKey
    seq: int
    reason: str
    evidence: tuple[bytes, ...]
    """Encoded entries, signed by the author: one invalid, or two that contradict each other."""


@dataclass(slots=True)
class Outcome:
    """Result of `Ledger.offer`: the verdict on the entry itself and everything that changed through it."""

    verdict: Verdict
    refusal: Refusal | None = None
    applied: list[Entry] = field(default_factory=list)
    retracted: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class Ledger:
    """See the module docstring. All calls are synchronous and pure in-memory."""

    def __init__(self, accumulator: Accumulator, codec: Decoder, rules: Rules) -> None:
        self.accumulator = accumulator
        self.rules = rules
        self._codec = codec
        self._logs: dict[SiteKey, Log] = {}
        self._norms: dict[SiteKey, dict[int, int]] = {}
        self._waiting: dict[tuple[SiteKey, int], Held] = {}
        self._waiting_bytes = 0
        self._faults: dict[SiteKey, Fault] = {}

    # ---- what is here -------------------------------------------------------------------------------------------

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> sequence number of the newest applied entry, in key order, without zeros."""
        return {key: self._logs[key].head for key in sorted(self._logs) if self._logs[key].head}

    @property
    def faults(self) -> Mapping[SiteKey, Fault]:
        """Authors whose log has ended, with the evidence."""
        return self._faults

    @property
    def waiting(self) -> int:
        """Entries held back until their base arrives."""
        return len(self._waiting)

    def head(self, author: SiteKey) -> int:
        """Sequence number of the author's newest applied entry; 0 when none."""
        log = self._logs.get(author)
        return log.head if log else 0

    def head_hash(self, author: SiteKey) -> bytes:
        """What the author's next entry must chain to."""
        return self._log(author).head_hash

    def get(self, author: SiteKey, seq: int) -> Entry | None:
        """An applied entry that is still held."""
        log = self._logs.get(author)
        return log.get(seq) if log else None

    def has(self, author: SiteKey, seq: int) -> bool:
        """Whether the entry is applied or waiting here."""
        return seq <= self.head(author) or (author, seq) in self._waiting

    def entries(self) -> Iterator[Entry]:
        """Every applied entry still held, author by author."""
        for key in sorted(self._logs):
            log = self._logs[key]
            yield from log.after(log.first - 1)

    def norm_bound_squared(self, base: Vector) -> int:
        """Bound on an entry made on `base`; all of `base` must be applied here."""
        newest = [self._norms[key][seq] for key, seq in self._usable(base).items() if seq]
        return norm_bound_squared(newest, self.rules)

    def digest(self, vector: Vector | None = None) -> bytes:
        """BLAKE2b-256 of charter id, vector and accumulator; for a past vector the newer entries are subtracted.

        Raises:
            Bug: entries above `vector` are no longer held.
        """
        at = self.vector if vector is None else {k: n for k, n in sorted(vector.items()) if n}
        accumulator = self.accumulator if vector is None else self._accumulator_at(at)
        context = [self.rules.charter_id]
        context += [bytes(key) + seq.to_bytes(8, "big") for key, seq in at.items()]
        return accumulator.digest(digest(*context))

    def examine(self, entry: Entry) -> Refusal | None:
        """What would be said against an entry whose base is applied here, without taking it."""
        verdict = check_origin(entry, self.rules) or self._examine(entry)
        return verdict if isinstance(verdict, Refusal) else None

    # ---- change -------------------------------------------------------------------------------------------------

    def offer(self, entry: Entry) -> Outcome:
        """Take an entry from anywhere: apply it, hold it back, or refuse it."""
        known = self._known(entry)
        if known is not None and known.hash == entry.hash:
            return Outcome(Verdict.KNOWN)
        refusal = check_origin(entry, self.rules)
        if refusal is not None and not refusal.blames_author:
            return Outcome(Verdict.REFUSED, refusal)
        if known is not None:
            return self.convict(_fork(known, entry))
        fault = self._faults.get(entry.author)
        if fault is not None and entry.seq >= fault.seq:
            return Outcome(Verdict.ENDED)
        if entry.seq <= self.head(entry.author):
            return Outcome(Verdict.KNOWN)
        if self._is_full(entry) and not self._is_ready(entry):
            return Outcome(Verdict.DROPPED)
        self._hold(Held(entry, refusal))
        outcome = Outcome(Verdict.WAITING)
        self._settle(outcome)
        return self._judge(entry, outcome)

    def convict(self, fault: Fault) -> Outcome:
        """End an author's log before `fault.seq`, retracting what is beyond it exactly.

        Entries of others whose base reaches beyond are judged again without the retracted ones, so that the state
        stays a function of the sets of entries and faults.
        """
        outcome = Outcome(Verdict.REFUSED)
        standing = self._faults.get(fault.author)
        if standing is not None and standing.seq <= fault.seq:
            outcome.verdict = Verdict.ENDED
            return outcome
        self._faults[fault.author] = fault
        outcome.faults.append(fault)
        for key in [k for k in self._waiting if k[0] == fault.author and k[1] >= fault.seq]:
            self._release(key)
        taken = self._retract_from(fault.author, fault.seq)
        again = self._retract_dependents(fault)
        outcome.retracted = taken
        for entry in again:
            self._hold(Held(entry, None))
        self._settle(outcome)
        # What was taken back only to be judged again is no news to the store.
        judged_again = {e.hash for e in again}
        outcome.applied = [e for e in outcome.applied if e.hash not in judged_again]
        return outcome

    # ---- inner --------------------------------------------------------------------------------------------------

    def _log(self, author: SiteKey) -> Log:
        return self._logs.setdefault(author, Log())

    def _known(self, entry: Entry) -> Entry | None:
        held = self._waiting.get((entry.author, entry.seq))
        return self.get(entry.author, entry.seq) or (held.entry if held else None)

    def _is_full(self, entry: Entry) -> bool:
        too_large = self._waiting_bytes + len(entry.payload) > MAX_WAITING_BYTES
        return too_large or len(self._waiting) >= MAX_WAITING

    def _hold(self, held: Held) -> None:
        self._waiting[held.entry.author, held.entry.seq] = held
        self._waiting_bytes += len(held.entry.payload)

    def _release(self, key: tuple[SiteKey, int]) -> None:
        held = self._waiting.pop(key)
        self._waiting_bytes -= len(held.entry.payload)

    def _usable(self, base: Vector) -> dict[SiteKey, int]:
        """`base` without what a fault took away."""
        ended = self._faults
        return {k: min(n, ended[k].seq - 1) if k in ended else n for k, n in base.items()}

    def _is_ready(self, entry: Entry) -> bool:
        if entry.seq != self.head(entry.author) + 1:
            return False
        heads = {key: self.head(key) for key in entry.base}
        return base_is_reached(self._usable(entry.base), heads)

    def _settle(self, outcome: Outcome) -> None:
        """Apply waiting entries until none is ready. Author order makes the walk the same everywhere."""
        progressed = True
        while progressed:
            progressed = False
            for author in sorted({key[0] for key in self._waiting}):
                held = self._waiting.get((author, self.head(author) + 1))
                while held is not None and self._is_ready(held.entry):
                    self._release((author, held.entry.seq))
                    progressed = True
                    if not self._apply(held, outcome):
                        break
                    held = self._waiting.get((author, self.head(author) + 1))

    def _apply(self, held: Held, outcome: Outcome) -> bool:
        entry = held.entry
        delta = held.refusal or self._examine(entry)
        if isinstance(delta, Refusal):
            fault = Fault(entry.author, entry.seq, delta.value, (entry.encode(),))
            verdict = self.convict(fault)
            outcome.faults += verdict.faults
            outcome.retracted += verdict.retracted
            outcome.applied += verdict.applied
            outcome.refusal = delta
            return False
        self._log(entry.author).append(entry)
        self._norms.setdefault(entry.author, {})[entry.seq] = delta.norm_squared
        self.accumulator.add(delta, entry.weight)
        outcome.applied.append(entry)
        return True

    def _examine(self, entry: Entry) -> SparseDelta | Refusal:
        log = self._log(entry.author)
        refusal = check_chain(entry, log.newest, log.head_hash)
        if refusal is not None:
            return refusal
        try:
            delta = self._codec.decode(entry.payload)
        except WireError:
            return Refusal.PAYLOAD
        if delta.norm_squared > self.norm_bound_squared(entry.base):
            return Refusal.NORM
        return delta

    def _judge(self, entry: Entry, outcome: Outcome) -> Outcome:
        """The verdict on the offered entry itself, after settling."""
        standing = self.get(entry.author, entry.seq)
        if standing is not None and standing.hash == entry.hash:
            outcome.verdict = Verdict.APPLIED
        elif (entry.author, entry.seq) not in self._waiting:
            outcome.verdict = Verdict.REFUSED
        return outcome

    def _retract_from(self, author: SiteKey, seq: int) -> list[Entry]:
        taken = self._log(author).truncate(seq)
        for entry in taken:
            self.accumulator.subtract(self._codec.decode(entry.payload), entry.weight)
            del self._norms[author][entry.seq]
        return taken

    def _retract_dependents(self, fault: Fault) -> list[Entry]:
        """Take back, per author, everything from its first entry whose base reaches the fault."""
        again: list[Entry] = []
        changed = True
        while changed:
            changed = False
            for author in sorted(self._logs):
                first = next((e.seq for e in self._log(author).after(0) if self._leans_on_gap(e, fault)), None)
                if first is not None:
                    again += self._retract_from(author, first)
                    changed = True
        return sorted(again, key=lambda e: (e.author, e.seq))

    def _leans_on_gap(self, entry: Entry, fault: Fault) -> bool:
        if entry.base.get(fault.author, 0) >= fault.seq:
            return True
        return any(self.head(key) < seq for key, seq in self._usable(entry.base).items())

    def _accumulator_at(self, vector: Vector) -> Accumulator:
        past = self.accumulator.copy()
        for author, log in self._logs.items():
            keep = vector.get(author, 0)
            if keep > log.head or keep + 1 < log.first:
                raise Bug(f"vector names entry {keep} of {author[:4].hex()}, held are {log.first}..{log.head}")
            for entry in log.after(keep):
                past.subtract(self._codec.decode(entry.payload), entry.weight)
        return past


def _fork(one: Entry, other: Entry) -> Fault:
    evidence = tuple(sorted((one.encode(), other.encode())))
    return Fault(one.author, one.seq, "it signed two different entries with one number", evidence)
