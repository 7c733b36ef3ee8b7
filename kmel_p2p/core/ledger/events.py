"""What the ledger reports: events for the operator, records for the store. Events of rounds are in `core.rounds`."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Record
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import Vector


@dataclass(frozen=True, slots=True)
class EntryPublished(Event):
    """An own entry is durable, applied and being sent."""

    number: int
    entry_bytes: int
    weight: int


@dataclass(frozen=True, slots=True)
class EntriesApplied(Event):
    """Entries of other sites changed the trunk."""

    entries: tuple[tuple[SiteKey, int], ...]
    sender: SiteKey


@dataclass(frozen=True, slots=True)
class LimitExceeded(Event):
    """A site has published `number` entries where it may publish `most`; the end of the run does not wait for it."""

    site: SiteKey
    number: int
    most: int


@dataclass(frozen=True, slots=True)
class EntryRefused(Event):
    """Another peer sent something that is not valid."""

    sender: SiteKey
    author: SiteKey | None
    reason: str


@dataclass(frozen=True, slots=True)
class HeadUnproved(Event):
    """A site said that a log goes as far as `number` and showed neither entries nor a signed header in time.

    Its word about that log counts for nothing from now on.
    """

    site: SiteKey
    author: SiteKey
    number: int


@dataclass(frozen=True, slots=True)
class HeadShown(Event):
    """All that a site said about logs is proved by now."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class LogEnded(Event):
    """An author broke the rules: its log ends before `number` at every honest peer."""

    author: SiteKey
    number: int
    reason: str
    retracted: int


@dataclass(frozen=True, slots=True)
class EpochBegun(Event):
    """An author that had signed two branches of its log disowned one of them: its log goes on with the other."""

    author: SiteKey
    number: int
    first: int
    """Number of the first entry that is disowned."""
    disowned: int
    """How many are."""


@dataclass(frozen=True, slots=True)
class NotPublishedAgain(Event):
    """An own entry of a branch that was disowned, or made under an amendment that was overruled, can no longer be
    published: what it held is lost."""

    number: int
    """That it had."""
    reason: str


@dataclass(frozen=True, slots=True)
class AmendmentRefused(Event):
    """Another peer sent something that is not the next amendment in force."""

    sender: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class AmendmentConflict(Event):
    """A site goes by another amendment with a number that is in force here: one of the two should never have been.

    Until one of the two gives way, the sites exchange no vectors, and each holds the other's later entries back.
    """

    site: SiteKey
    number: int
    """Of the newest amendment that both could have: the two differ there or earlier."""


@dataclass(frozen=True, slots=True)
class AmendmentOverruled(Event):
    """Two amendments with one number had reached a quorum: one gave way, with all that followed it."""

    number: int
    overruled: bytes
    """Hash of the one that gave way."""
    by: bytes
    """Hash of the one in force."""
    signed_both: tuple[str, ...]
    """Names of the sites that signed both."""
    stood_here: bool
    """Whether this site had gone by it."""
    left_out: bool
    """Whether this site takes part under none but the overruled one: it publishes nothing more."""


@dataclass(frozen=True, slots=True)
class AmendmentsAgree(Event):
    """A site with which there was a conflict goes by the amendments in force here."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class LateFault(Event):
    """An author's fault was proved when its entries were already compacted: it changes nothing here."""

    author: SiteKey
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class EntriesCompacted(Event):
    """Entries up to here are now compacted into the snapshot."""

    until: Vector


@dataclass(frozen=True, slots=True)
class SnapshotProgress(Event):
    """How far fetching a snapshot has come, in words."""

    stage: str


@dataclass(frozen=True, slots=True)
class SnapshotRefused(Event):
    """A site's snapshot was not adopted."""

    server: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotAdopted(Event):
    """This site adopted an attested snapshot and goes on from it."""

    vector: Vector


@dataclass(frozen=True, slots=True)
class Divergence(Event):
    """A site claims another sum of the same entries: its ledger or ours is damaged."""

    site: SiteKey
    own_digest: bytes
    claimed_digest: bytes


@dataclass(frozen=True, slots=True)
class SizeImplausible(Event):
    """A site says that it has about 2**size_class measurements, which nobody has (`implausible`), or no longer."""

    site: SiteKey
    size_class: int
    implausible: bool


@dataclass(frozen=True, slots=True)
class SumsAgree(Event):
    """A site that claimed another sum claims the one that is held here now."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class LedgerOutvoted(Event):
    """These sites attest another sum of the same entries, and they are the majority: this ledger is damaged."""

    sites: tuple[SiteKey, ...]


@dataclass(frozen=True, slots=True)
class LedgerRestored(Event):
    """The ledger that was outvoted is replaced by one that a majority attests."""


@dataclass(frozen=True, slots=True)
class HarmSeen(Event):
    """An author's entries do harm, by this site's own looks or by what others vote; told again when that changes."""

    author: SiteKey
    first: int
    """The entry from which on."""
    changes: dict[int, float]
    """Assay endpoint (place in the charter) -> by how much the trunk errs more with them on this site's held-out
    compounds, as a share of the loss; empty where this site sees nothing, or only by what they did as they came."""
    sites: tuple[SiteKey, ...]
    """Sites whose newest vote says that they do harm."""
    others: int
    """Sites that may vote about this author."""
    here: bool = True
    """Whether this site sees it."""


@dataclass(frozen=True, slots=True)
class HarmGone(Event):
    """Neither this site nor any other sees harm in an author's entries any longer."""

    author: SiteKey


@dataclass(frozen=True, slots=True)
class AuthorSuspended(Event):
    """Enough sites voted: the author's entries from `first` on are taken out of the trunk."""

    author: SiteKey
    first: int
    sites: tuple[SiteKey, ...]
    """Whose votes they are."""


@dataclass(frozen=True, slots=True)
class SuspensionLifted(Event):
    """An amendment put the author's entries back."""

    author: SiteKey


@dataclass(frozen=True, slots=True)
class VoteRefused(Event):
    """Another peer sent something that is no vote."""

    sender: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class VoteRecord(Record):
    """A vote to keep, encoded: evidence for a suspension."""

    encoded: bytes


@dataclass(frozen=True, slots=True)
class EntryRecord(Record):
    """An entry to keep. Records are stored in the order in which they are given."""

    author: SiteKey
    number: int
    encoded: bytes
    own_state_file: str | None
    """Of an own entry: the trainer state that belongs to it, stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class WithheldRecord(Record):
    """An own entry that was on its way to the store is never sent: forget it."""

    number: int


@dataclass(frozen=True, slots=True)
class OwnLogDoubted(Record):
    """Whether this site's own log may lack entries that it signed: kept, for a restart must not end the doubt."""

    doubted: bool


@dataclass(frozen=True, slots=True)
class EpochRecord(Record):
    """A log began another epoch: keep the statement; its author's entries from `cut` on (0: none) are set aside."""

    author: SiteKey
    number: int
    encoded: bytes
    cut: int
    reopened: bool
    """Whether the end that is stored of this log counts no longer."""


@dataclass(frozen=True, slots=True)
class PublishedAgainRecord(Record):
    """An own entry that was set aside was published again (or cannot be): it is to be tried no more."""

    number: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class RetractionRecord(Record):
    """An author's log ended: set entries from `number` on aside as evidence."""

    author: SiteKey
    number: int
    reason: str
    evidence: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DivergenceRecord(Record):
    """A signed claim that does not hold here, to keep as evidence."""

    site: SiteKey
    amendment: bytes
    vector: RosterVector
    chains: bytes
    own_digest: bytes
    claimed_digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class AgreementRecord(Record):
    """A site whose claim did not hold here made one that does."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class CompactionRecord(Record):
    """Compact stored entries up to here into the stored snapshot (or the initial trunk)."""

    until: Vector
    withdrawn: Vector
    """Author -> first number whose contribution does not count."""
    amendments: tuple[bytes, ...]
    """Encoded amendments in force."""


@dataclass(frozen=True, slots=True)
class SnapshotRecord(Record):
    """An adopted snapshot replaces the stored one.

    Stored entries above the snapshot and up to `kept` stay; all ends of logs go: those that still hold are recorded
    again after this.
    """

    snapshot: Snapshot
    kept: Vector
    server: SiteKey
    """Who gave it."""
    attested: tuple[SiteKey, ...]
    """Who signed that they hold the same."""


@dataclass(frozen=True, slots=True)
class AmendmentRecord(Record):
    """An amendment in force, to keep: number and encoded document."""

    number: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class AmendmentsOverruled(Record):
    """Amendments gave way to others of the same numbers: keep them apart from those in force."""

    first: int
    """Number of the first that gave way here."""
    documents: tuple[bytes, ...]
    """Encoded amendments in force from that number on; empty where nothing changed but what is known."""
    overruled: tuple[bytes, ...]
    """Encoded amendments that gave way."""
    kept: Vector | None
    """Author -> its newest stored entry that still stands: later ones are set aside, and all ends of logs go, for those
    that still hold are recorded again. None: nothing changes."""
