"""What a peer has accepted: every author's log, and which logs have ended. Answers questions; decides nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, Entry, SignedHeader
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.validity import context_of
from kmel_p2p.core.types import Vector

KEPT_HEADERS = 1024
"""Headers kept of one author's compacted entries, to check later entries against."""


class Log:
    """One author's entries `first..head`, contiguous and chained; those below are in the snapshot."""

    __slots__ = ("_entries", "_headers", "first")

    def __init__(self, headers: Iterable[SignedHeader] = ()) -> None:
        """Start after `headers`, which are contiguous and chained (none: at the first entry)."""
        self._headers: deque[SignedHeader] = deque(headers, maxlen=KEPT_HEADERS)
        self._entries: list[Entry] = []
        self.first = self._headers[-1].number + 1 if self._headers else 1

    @property
    def head(self) -> int:
        """Number of the newest entry; 0 before the first."""
        return self.first + len(self._entries) - 1

    @property
    def newest(self) -> SignedHeader | None:
        """The header of the newest entry, held or compacted."""
        if self._entries:
            return self._entries[-1]
        return self._headers[-1] if self._headers else None

    @property
    def head_hash(self) -> bytes:
        """The `previous` that the next entry must have."""
        newest = self.newest
        return newest.hash if newest else NO_PREVIOUS

    def get(self, number: int) -> Entry | None:
        """The entry at `number`; None where it is compacted or not here yet."""
        index = number - self.first
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def header(self, number: int) -> SignedHeader | None:
        """The header at `number`; None where it is too old or not here yet."""
        held = self.get(number)
        if held is not None:
            return held
        index = number - self.first + len(self._headers)
        return self._headers[index] if 0 <= index < len(self._headers) else None

    def headers(self) -> Iterator[SignedHeader]:
        """Every header that is held, oldest first."""
        yield from self._headers
        yield from self._entries

    def append(self, entry: Entry) -> None:
        """Add the next entry.

        Raises:
            Bug: it does not follow the newest entry; callers check before.
        """
        if entry.number != self.head + 1 or entry.previous != self.head_hash:
            raise Bug(f"{entry} does not follow {self.head}")
        self._entries.append(entry)

    def after(self, number: int) -> Iterator[Entry]:
        """Held entries numbered above `number`, oldest first."""
        yield from self._entries[max(0, number - self.first + 1) :]

    def truncate(self, number: int) -> list[Entry]:
        """Take back every held entry from `number` on; returns them, newest first."""
        index = max(0, number - self.first)
        taken = self._entries[index:]
        del self._entries[index:]
        return taken[::-1]

    def compact(self, until: int) -> list[Entry]:
        """Drop the payloads up to and including `until`; returns the entries, oldest first."""
        count = min(max(0, until - self.first + 1), len(self._entries))
        compacted = self._entries[:count]
        del self._entries[:count]
        self._headers.extend(entry.without_payload() for entry in compacted)
        self.first += count
        return compacted


ENDLESS = 2**62
"""Above every number of an entry."""


class AcceptedLogs:
    """Logs by author, and proved faults.

    Attributes:
        faults: authors whose log has ended here, with the evidence.
        late: faults proved when the entries in question were already compacted: they change nothing here.
        retired: sites that an amendment retired: author -> first number not accepted.
        withdrawn: author -> first number whose contribution an amendment took out of the trunk.
        amendment: number of amendments in force.
        amendment_hash: hash of the newest amendment.
    """

    def __init__(self) -> None:
        self.logs: dict[SiteKey, Log] = {}
        self.faults: dict[SiteKey, FaultProof] = {}
        self.late: dict[SiteKey, FaultProof] = {}
        self.retired: dict[SiteKey, int] = {}
        self.withdrawn: dict[SiteKey, int] = {}
        self.amendment = 0
        self.amendment_hash = bytes(HASH_BYTES)
        self._payloads: dict[bytes, tuple[SiteKey, int]] = {}
        """Payload hash -> author and number of an applied entry that has it."""
        self._used: dict[SiteKey, int] = {}
        """Author -> the newest of its entries in the base of any entry here; never too low, see `doubtful`."""

    @classmethod
    def following(cls, headers: Mapping[SiteKey, Sequence[SignedHeader]]) -> AcceptedLogs:
        """Logs that go on after these headers, each author's oldest first."""
        accepted = cls()
        accepted.logs = {key: Log(held) for key, held in headers.items()}
        for held in headers.values():
            accepted._note_base(held[-1])
            for header in held:
                accepted._note_payload(header)
        return accepted

    # ---- logs ---------------------------------------------------------------------------------------------------

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> number of the newest applied entry, in key order, without zeros."""
        return {key: self.logs[key].head for key in sorted(self.logs) if self.logs[key].head}

    @property
    def floor(self) -> dict[SiteKey, int]:
        """author -> number of the newest compacted entry, in key order, without zeros."""
        return {key: self.logs[key].first - 1 for key in sorted(self.logs) if self.logs[key].first > 1}

    def log(self, author: SiteKey) -> Log:
        """The log of an author; a new, empty one when there was none."""
        return self.logs.setdefault(author, Log())

    def head(self, author: SiteKey) -> int:
        """Number of the author's newest applied entry; 0 when none."""
        log = self.logs.get(author)
        return log.head if log else 0

    def append(self, entry: Entry) -> None:
        """Add the next entry of a log."""
        self.log(entry.author).append(entry)
        self._note_base(entry)
        self._note_payload(entry)

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

    def reaches(self, vector: Vector) -> bool:
        """Whether every entry that `vector` names is applied here."""
        return all(self.head(key) >= number for key, number in vector.items())

    def holds_above(self, vector: Vector) -> bool:
        """Whether the ledger can go back to `vector`: it is reached, and every entry above it is still held."""
        return self.reaches(vector) and all(vector.get(key, 0) >= log.first - 1 for key, log in self.logs.items())

    def chains(self, vector: Vector) -> bytes | None:
        """Hash of the headers that `vector` names; None when one is not held.

        Compare under equal amendments only.
        """
        headers = [self.header(key, number) for key, number in vector.items() if number]
        held = [header for header in headers if header is not None]
        return context_of(held) if len(held) == len(headers) else None

    # ---- ended logs ---------------------------------------------------------------------------------------------

    @property
    def ended(self) -> dict[SiteKey, int]:
        """Ended logs: author -> first number not accepted, in key order."""
        ends = dict(self.retired)
        for key, fault in self.faults.items():
            ends[key] = min(fault.number, ends.get(key, fault.number))
        return dict(sorted(ends.items()))

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

    def proof_against(self, author: SiteKey) -> FaultProof | None:
        """The earliest proved fault of an author, including one that came too late to change anything."""
        found = [fault for fault in (self.faults.get(author), self.late.get(author)) if fault is not None]
        return min(found, key=lambda fault: fault.number, default=None)

    def is_proved(self, author: SiteKey, number: int) -> bool:
        """Whether a proof or an amendment here ends the author's log before `number` or earlier."""
        fault = self.proof_against(author)
        return min(fault.number if fault else ENDLESS, self.retired.get(author, ENDLESS)) <= number

    def usable(self, base: Vector) -> dict[SiteKey, int]:
        """`base`, cut where a fault or an amendment ended a log."""
        return {key: min(number, self.end(key) - 1) for key, number in base.items()}

    # ---- bases --------------------------------------------------------------------------------------------------

    def basis_for(self, author: SiteKey) -> Basis:
        """The basis of an entry that `author` makes now."""
        vector = self.vector
        heads = (self.logs[key].newest for key in vector if key != author)
        return Basis(vector, context_of(head for head in heads if head is not None), self.ended, self.amendment)

    def at_base(self, author: SiteKey, base: Vector) -> tuple[list[SignedHeader], int]:
        """Headers that `base` names, without the author's, and how many others are unknown here."""
        heads: list[SignedHeader] = []
        unknown = 0
        for key, number in base.items():
            if key == author or not number:
                continue
            header = None if self.is_proved(key, number) else self.header(key, number)
            if header is None:
                unknown += 1
            else:
                heads.append(header)
        return heads, unknown

    def doubtful(self, base: Vector) -> list[SiteKey]:
        """Authors whose entries `base` may lack although entries in `base` were made on them.

        Of every other author `base` holds all that any entry here was made on. The bases of one log only grow, except
        over logs that have ended: those are always doubtful.
        """
        behind = [key for key, number in self._used.items() if base.get(key, 0) < number]
        return [*behind, *(self.faults.keys() | self.late.keys() | self.retired.keys())]

    def _note_payload(self, header: SignedHeader) -> None:
        # The first stays: whoever replays it later is the second.
        found = self._payloads.get(header.payload_hash)
        if found is None or self.header(*found) is None:
            self._payloads[header.payload_hash] = (header.author, header.number)
        if len(self._payloads) > 4 * KEPT_HEADERS * max(1, len(self.logs)):
            self._payloads = {mark: at for mark, at in self._payloads.items() if self.header(*at) is not None}

    def _note_base(self, header: SignedHeader) -> None:
        used = self._used
        for key, number in header.base.items():
            if used.get(key, 0) < number:
                used[key] = number
