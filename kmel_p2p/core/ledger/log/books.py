"""What a peer has accepted: every author's log, and which logs have ended. Answers questions; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.ledger.log.entry import Basis, Entry, SignedHeader
from kmel_p2p.core.ledger.log.log import Log
from kmel_p2p.core.ledger.rules.proof import Fault
from kmel_p2p.core.ledger.rules.validity import context_of
from kmel_p2p.core.types import Vector

ENDLESS = 2**62
"""Above every sequence number."""


class Books:
    """Logs by author, and proved faults.

    Attributes:
        faults: authors whose log has ended here, with the evidence.
        late: faults proved when the entries in question were folded away already: they change nothing here.
        retired: sites that an amendment retired: author -> first sequence number not accepted any more.
        withdrawn: author -> first sequence number whose contribution an amendment took out of the trunk.
        amendment: number of amendments in force.
        amendment_hash: hash of the newest amendment.
    """

    def __init__(self) -> None:
        self.logs: dict[SiteKey, Log] = {}
        self.faults: dict[SiteKey, Fault] = {}
        self.late: dict[SiteKey, Fault] = {}
        self.retired: dict[SiteKey, int] = {}
        self.withdrawn: dict[SiteKey, int] = {}
        self.amendment = 0
        self.amendment_hash = bytes(HASH_BYTES)
        self._used: dict[SiteKey, int] = {}
        """Author -> the newest of its entries that any entry here was made on; never too low, see `doubtful`."""

    @classmethod
    def following(cls, headers: Mapping[SiteKey, Sequence[SignedHeader]]) -> Books:
        """Books that go on after these headers, of each author oldest first."""
        books = cls()
        books.logs = {key: Log(held) for key, held in headers.items()}
        for held in headers.values():
            books._note_base(held[-1])
        return books

    # ---- logs ---------------------------------------------------------------------------------------------------

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> sequence number of the newest applied entry, in key order, without zeros."""
        return {key: self.logs[key].head for key in sorted(self.logs) if self.logs[key].head}

    @property
    def floor(self) -> dict[SiteKey, int]:
        """author -> newest sequence number that is folded away, in key order, without zeros."""
        return {key: self.logs[key].first - 1 for key in sorted(self.logs) if self.logs[key].first > 1}

    def log(self, author: SiteKey) -> Log:
        """The log of an author, empty when there was none."""
        return self.logs.setdefault(author, Log())

    def head(self, author: SiteKey) -> int:
        """Sequence number of the author's newest applied entry; 0 when none."""
        log = self.logs.get(author)
        return log.head if log else 0

    def append(self, entry: Entry) -> None:
        """Add the next entry of a log."""
        self.log(entry.author).append(entry)
        self._note_base(entry)

    def get(self, author: SiteKey, number: int) -> Entry | None:
        """An applied entry that is still held."""
        log = self.logs.get(author)
        return log.get(number) if log else None

    def header(self, author: SiteKey, number: int) -> SignedHeader | None:
        """The header of an applied entry, as long as it is kept."""
        log = self.logs.get(author)
        return log.header(number) if log else None

    def entries(self) -> Iterator[Entry]:
        """Every applied entry still held, author by author."""
        for key in sorted(self.logs):
            log = self.logs[key]
            yield from log.after(log.first - 1)

    def reaches(self, vector: Vector) -> bool:
        """Whether everything that `vector` names is applied here."""
        return all(self.head(key) >= number for key, number in vector.items())

    def holds_above(self, vector: Vector) -> bool:
        """Whether `vector` is reached and every entry above it is still held, so that it can be gone back to."""
        return self.reaches(vector) and all(vector.get(key, 0) >= log.first - 1 for key, log in self.logs.items())

    def chains(self, vector: Vector) -> bytes | None:
        """Hash of the headers that `vector` names; None when one is not held. Compare under equal amendments only."""
        headers = [self.header(key, number) for key, number in vector.items() if number]
        held = [header for header in headers if header is not None]
        return context_of(held) if len(held) == len(headers) else None

    # ---- ended logs ---------------------------------------------------------------------------------------------

    @property
    def ended(self) -> dict[SiteKey, int]:
        """Logs ended here: author -> first sequence number not accepted, in key order."""
        ends = dict(self.retired)
        for key, fault in self.faults.items():
            ends[key] = min(fault.number, ends.get(key, fault.number))
        return dict(sorted(ends.items()))

    def is_ended(self, author: SiteKey, number: int) -> bool:
        """Whether an entry with this number is not accepted any more."""
        return number >= self.end(author)

    def end(self, author: SiteKey) -> int:
        """First sequence number of the author that is not accepted; beyond all numbers when its log goes on."""
        fault = self.faults.get(author)
        return min(fault.number if fault else ENDLESS, self.retired.get(author, ENDLESS))

    def is_withdrawn(self, author: SiteKey, number: int) -> bool:
        """Whether the entry stays in the log for judging others, but not in the trunk."""
        return number >= self.withdrawn.get(author, ENDLESS)

    def proof_against(self, author: SiteKey) -> Fault | None:
        """The earliest proved fault of an author, whether it changed anything here or came late."""
        found = [fault for fault in (self.faults.get(author), self.late.get(author)) if fault is not None]
        return min(found, key=lambda fault: fault.number, default=None)

    def is_proved(self, author: SiteKey, number: int) -> bool:
        """Whether it is proved or amended here that the author's log ends before `number`, or earlier."""
        fault = self.proof_against(author)
        return min(fault.number if fault else ENDLESS, self.retired.get(author, ENDLESS)) <= number

    def usable(self, base: Vector) -> dict[SiteKey, int]:
        """`base` without what a fault or an amendment took away."""
        return {key: min(number, self.end(key) - 1) for key, number in base.items()}

    # ---- bases --------------------------------------------------------------------------------------------------

    def basis_for(self, author: SiteKey) -> Basis:
        """What an entry of `author` made now would be made on."""
        vector = self.vector
        heads = (self.logs[key].newest for key in vector if key != author)
        return Basis(vector, context_of(head for head in heads if head is not None), self.ended, self.amendment)

    def at_base(self, author: SiteKey, base: Vector) -> tuple[list[SignedHeader], int]:
        """Headers that `base` names, without the author's, and the number of those that cannot be told."""
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
        """Authors of whom an entry on `base` may lack what the headers that it names were made on.

        Of all others `base` holds everything that any entry here was made on. Bases of one log only grow, but for logs
        that have ended: those are always doubtful.
        """
        behind = [key for key, number in self._used.items() if base.get(key, 0) < number]
        return [*behind, *(self.faults.keys() | self.late.keys() | self.retired.keys())]

    def _note_base(self, header: SignedHeader) -> None:
        used = self._used
        for key, number in header.base.items():
            if used.get(key, 0) < number:
                used[key] = number
