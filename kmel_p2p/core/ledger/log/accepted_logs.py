"""What a peer has accepted: every author's log, and which logs have ended. Answers questions; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.ledger.log.author_log import Log
from kmel_p2p.core.ledger.log.entry import Basis, Entry, SignedHeader
from kmel_p2p.core.ledger.log.epoch import EpochBook
from kmel_p2p.core.ledger.log.head_table import HeadTable
from kmel_p2p.core.ledger.log.kept_headers import KEPT_HEADERS, kept_headers
from kmel_p2p.core.ledger.log.named_headers import NamedHeaders
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector

ENDLESS = 2**62
"""Above every number of an entry."""


class AcceptedLogs:
    """Logs by author, and proved faults.

    Attributes:
        faults: authors whose log has ended here, with the evidence.
        late: faults proved when the entries in question were already compacted: they change nothing here.
        retired: sites that an amendment retired: author -> first number not accepted.
        withdrawn: author -> first number whose contribution amendments or votes took out of the trunk.
        left_out: author -> first number of its compacted entries that is not in the sum.
        epochs: how logs went on after their authors had signed two branches.
        overtaken: whether an epoch disowned entries that are compacted here.
        amendment: number of amendments in force.
        amendment_hash: hash of the newest amendment.
    """

    def __init__(self, order: RosterOrder) -> None:
        """`order`: every site that is or was on the roster."""
        self.logs: dict[SiteKey, Log] = {}
        self.faults: dict[SiteKey, FaultProof] = {}
        self.late: dict[SiteKey, FaultProof] = {}
        self.retired: dict[SiteKey, int] = {}
        self.withdrawn: dict[SiteKey, int] = {}
        self.left_out: dict[SiteKey, int] = {}
        self.epochs = EpochBook()
        self.overtaken = False
        self.amendment = 0
        self.amendment_hash = bytes(HASH_BYTES)
        self._payloads: dict[bytes, tuple[SiteKey, int]] = {}
        """Payload hash -> author and number of an applied entry that has it."""
        self._table = HeadTable(order)
        self._kept = kept_headers(len(order))

    @classmethod
    def following(
        cls, headers: Mapping[SiteKey, Sequence[SignedHeader]], order: RosterOrder, withdrawn: Mapping[SiteKey, int]
    ) -> AcceptedLogs:
        """Logs that go on after these headers, each author's oldest first, with so much withdrawn from their sum."""
        accepted = cls(order)
        accepted.logs = {key: Log(held, accepted._kept) for key, held in headers.items()}
        for held in headers.values():
            for header in held:
                accepted._table.holds(header, at_once=True)
                accepted._note_payload(header)
        accepted.withdrawn = dict(withdrawn)
        accepted.left_out = {key: at for key, at in withdrawn.items() if at < accepted.log(key).first}
        return accepted

    @property
    def order(self) -> RosterOrder:
        """The sites by place."""
        return self._table.order

    def grow(self, order: RosterOrder) -> None:
        """An amendment came into force: go on with an order that begins like the present one."""
        self._table.grow(order)
        self._kept = kept_headers(len(order))
        for log in self.logs.values():
            log.keep(self._kept)

    # ---- logs ---------------------------------------------------------------------------------------------------

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> number of the newest applied entry, in key order, without zeros. Not to be changed."""
        return self._table.named

    @property
    def held(self) -> RosterVector:
        """The same in roster order."""
        return self._table.vector

    @property
    def heads(self) -> NDArray[np.int64]:
        """The same as numbers by place, int64[places]. Not to be changed."""
        return self._table.heads

    @property
    def floor(self) -> dict[SiteKey, int]:
        """author -> number of the newest compacted entry, in key order, without zeros."""
        return {key: self.logs[key].first - 1 for key in sorted(self.logs) if self.logs[key].first > 1}

    def log(self, author: SiteKey) -> Log:
        """The log of an author; a new, empty one when there was none."""
        log = self.logs.get(author)
        if log is None:
            log = self.logs[author] = Log(kept=self._kept)
        return log

    def head(self, author: SiteKey) -> int:
        """Number of the author's newest applied entry; 0 when none."""
        log = self.logs.get(author)
        return log.head if log else 0

    def append(self, entry: Entry) -> None:
        """Add the next entry of a log."""
        self.log(entry.author).append(entry)
        self._table.holds(entry)
        self._note_payload(entry)

    def truncate(self, author: SiteKey, number: int) -> list[Entry]:
        """Take back every held entry of an author from `number` on; returns them, newest first."""
        log = self.log(author)
        taken = log.truncate(number)
        self._table.drop(author, [entry.number for entry in taken])
        self._table.cut(author, log.head)
        return taken

    def compact(self, author: SiteKey, until: int) -> None:
        """Drop the payloads of an author's entries up to and including `until`."""
        log = self.log(author)
        oldest = log.oldest
        for header in log.compact(until):
            self._table.replace(header)
            if self.is_withdrawn(author, header.number):
                self.left_out.setdefault(author, header.number)
        self._table.drop(author, range(oldest, log.oldest))

    def same_payload(self, header: SignedHeader) -> SignedHeader | None:
        """The header of an applied entry with the same payload; None when there is none that is still held."""
        found = self._payloads.get(header.payload_hash)
        earlier = self.header(*found) if found is not None else None
        return earlier if earlier is not None and earlier.payload_hash == header.payload_hash else None

    def get(self, author: SiteKey, number: int) -> Entry | None:
        """An applied entry that is still held."""
        log = self.logs.get(author)
        return log.get(number) if log else None

    def header(self, author: SiteKey, number: int) -> SignedHeader | None:
        """The header of an applied entry, if it is still kept."""
        log = self.logs.get(author)
        return log.header(number) if log else None

    def entries(self) -> Iterator[Entry]:
        """Every applied entry still held, author by author."""
        for key in sorted(self.logs):
            log = self.logs[key]
            yield from log.after(log.first - 1)

    def reaches(self, vector: RosterVector) -> bool:
        """Whether every entry that `vector` names is applied here."""
        return self._table.reaches(vector.numbers)

    def beyond(self, vector: RosterVector) -> list[tuple[int, int]]:
        """Place and number where `vector` goes further than what is applied here."""
        numbers = vector.padded(len(self.order))
        places = np.flatnonzero(numbers > self.heads)
        return list(zip(places.tolist(), numbers[places].tolist(), strict=True))

    def further_than(self, vector: RosterVector) -> list[SiteKey]:
        """Authors whose logs go further here than `vector` says; those it does not count included."""
        numbers = vector.cut(len(self.order)).padded(len(self.order))
        return [self.order.keys[place] for place in np.flatnonzero(self.heads > numbers)]

    def holds_above(self, vector: RosterVector) -> bool:
        """Whether the ledger can go back to `vector`: it is reached, and every entry above it is still held."""
        if not self.reaches(vector):
            return False
        numbers = self.order.named(vector)
        return all(numbers.get(key, 0) >= log.first - 1 for key, log in self.logs.items())

    def chains(self, vector: RosterVector) -> bytes | None:
        """Hash of the headers that `vector` names; None when one is not held.

        Compare under equal amendments only.
        """
        if not self.reaches(vector):
            return None
        named = self._table.named_here(vector.padded(len(self.order)))
        return None if named.unknown else named.context

    # ---- ended logs ---------------------------------------------------------------------------------------------

    @property
    def ended(self) -> dict[SiteKey, int]:
        """Ended logs: author -> first number not accepted, in key order."""
        ends = dict(self.retired)
        for key, fault in self.faults.items():
            ends[key] = min(fault.number, ends.get(key, fault.number))
        return dict(sorted(ends.items()))

    @property
    def cuts(self) -> dict[SiteKey, int]:
        """Ended logs, and those that began another epoch: author -> first number not accepted, or disowned by the
        newest epoch, in key order."""
        newest = {key: self.epochs.of(key)[-1].first for key in self.epochs.authors}
        return dict(sorted({**newest, **self.ended}.items()))

    def is_ended(self, author: SiteKey, number: int) -> bool:
        """Whether the author's log ends before this number."""
        return number >= self.end(author)

    def end(self, author: SiteKey) -> int:
        """First number of the author that is not accepted; `ENDLESS` when its log goes on."""
        fault = self.faults.get(author)
        return min(fault.number if fault else ENDLESS, self.retired.get(author, ENDLESS))

    def is_withdrawn(self, author: SiteKey, number: int) -> bool:
        """Whether the entry's contribution is not in the trunk, though it stays in the log for judging others."""
        return number >= self.withdrawn.get(author, ENDLESS)

    @property
    def stale(self) -> bool:
        """Whether compacted entries are in the sum that should not be, or the other way round."""

        def differs(author: SiteKey) -> bool:
            first = self.log(author).first
            wanted, done = self.withdrawn.get(author, ENDLESS), self.left_out.get(author, ENDLESS)
            return min(wanted, first) != min(done, first) or self.retired.get(author, ENDLESS) < first

        return any(differs(author) for author in {*self.withdrawn, *self.left_out, *self.retired})

    def proof_against(self, author: SiteKey) -> FaultProof | None:
        """The earliest proved fault of an author, including one that came too late to change anything."""
        found = [fault for fault in (self.faults.get(author), self.late.get(author)) if fault is not None]
        return min(found, key=lambda fault: fault.number, default=None)

    def is_proved(self, author: SiteKey, number: int) -> bool:
        """Whether a proof or an amendment here ends the author's log before `number` or earlier, or an epoch tells
        of two branches there."""
        return self.ends_by(author, number) or self.epochs.covers(author, number)

    def reaches_usable(self, base: RosterVector) -> bool:
        """Whether `base` is here, cut where a fault or an amendment ended a log, or it parted into branches."""
        numbers = base.numbers
        if not self._maybe_ended():
            return self._table.reaches(numbers)
        for key in self.epochs.authors:
            place = self.order.place(key)
            if place < numbers.size and (usable := self.epochs.usable(key, int(numbers[place]))) != numbers[place]:
                numbers = numbers.copy()
                numbers[place] = usable
        ends = [(place, end) for place, end in self._ends() if place < numbers.size and numbers[place] >= end]
        if ends:
            numbers = numbers.copy()
            for place, end in ends:
                numbers[place] = end - 1
        return self._table.reaches(numbers)

    # ---- bases --------------------------------------------------------------------------------------------------

    def basis_for(self, author: SiteKey) -> Basis:
        """The basis of an entry that `author` makes now."""
        others = self.heads.copy()
        if author in self.order:
            others[self.order.place(author)] = 0
        context = self._table.named_here(others).context
        ended = {self.order.place(key): number for key, number in self.cuts.items()}
        return Basis(self.held, context, ended, self.amendment, self.amendment_hash)

    def at_base(self, author: SiteKey, base: RosterVector, parted: bool = False) -> NamedHeaders:
        """Headers that `base` names, without the author's.

        `parted`: where a number may mean an entry that its author has disowned since, the header is unknown, too.
        """
        numbers = base.padded(len(self.order))
        numbers[self.order.place(author)] = 0
        taken = 0
        for key in self._maybe_ended():
            place = self.order.place(key)
            number = int(numbers[place])
            if number and (self.ends_by(key, number) or (parted and self.epochs.covers(key, number))):
                numbers[place] = 0
                taken += 1
        named = self._table.named_by(numbers)
        return named.lacking(taken) if taken else named

    def closed(self, author: SiteKey, base: RosterVector) -> bool:
        """Whether `base` certainly leaves out nothing that entries in it were made on; False: see `doubtful`."""
        if self._maybe_ended():
            return False
        numbers = base.padded(len(self.order))
        behind = numbers < self._table.used
        return not np.count_nonzero(behind) or self._table.closed(numbers, self.order.place(author), behind)

    def doubtful(self, base: RosterVector) -> NDArray[np.bool_]:
        """Authors, by place, whose entries `base` may lack although entries in `base` were made on them, bool[places].

        Of every other author `base` holds all that any entry here was made on. The bases of one log only grow, except
        over logs that have ended: those are always doubtful.
        """
        behind = base.padded(len(self.order)) < self._table.used
        for key in self._maybe_ended():
            behind[self.order.place(key)] = True
        return behind

    def ends_by(self, author: SiteKey, number: int) -> bool:
        """Whether a proof or an amendment here ends the author's log before `number` or earlier."""
        fault = self.proof_against(author)
        return min(fault.number if fault else ENDLESS, self.retired.get(author, ENDLESS)) <= number

    def _maybe_ended(self) -> set[SiteKey]:
        """Authors of whom a proof, an amendment or an epoch says anything."""
        if not (self.faults or self.late or self.retired or self.epochs):
            return set()
        return self.faults.keys() | self.late.keys() | self.retired.keys() | self.epochs.authors

    def _ends(self) -> list[tuple[int, int]]:
        """Place and first number not accepted of the logs that have ended."""
        return [(self.order.place(key), self.end(key)) for key in self.faults.keys() | self.retired.keys()]

    def _note_payload(self, header: SignedHeader) -> None:
        # The first stays: whoever replays it later is the second.
        if self.same_payload(header) is None:
            self._payloads[header.payload_hash] = (header.author, header.number)
        if len(self._payloads) > 4 * KEPT_HEADERS * max(1, len(self.logs)):
            self._payloads = {mark: at for mark, at in self._payloads.items() if self.header(*at) is not None}
