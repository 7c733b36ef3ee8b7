"""What became of an offered entry, a proof or a snapshot, and what the store and the operator learn of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Persist
from kmel_p2p.core.ledger.events import (
    EntriesApplied,
    EntryRecord,
    EpochBegun,
    EpochRecord,
    LateFault,
    LogEnded,
    RetractionRecord,
)
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.epoch import Epoch
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.types import Vector


class Verdict(enum.Enum):
    """What became of an offered entry."""

    APPLIED = "applied"
    WAITING = "waiting for its base"
    KNOWN = "known already"
    DROPPED = "dropped: too many entries wait"
    REFUSED = "refused"
    ENDED = "the author's log has ended"


@dataclass(slots=True)
class Outcome:
    """What became of an entry, a proof or a snapshot, and everything that it changed.

    Attributes:
        late: faults proved too late to change anything.
        author: whose epoch says that a proof which was offered proves nothing.
        voided: only of an epoch: faults that rested on what it disowns.
        kept: only after `adopt`: author -> its newest entry that was applied before and still stands.
    """

    verdict: Verdict
    refusal: Refusal | None = None
    applied: list[Entry] = field(default_factory=list)
    retracted: list[Entry] = field(default_factory=list)
    faults: list[FaultProof] = field(default_factory=list)
    late: list[FaultProof] = field(default_factory=list)
    voided: list[FaultProof] = field(default_factory=list)
    author: SiteKey | None = None
    kept: dict[SiteKey, int] = field(default_factory=dict)


def epoch_changes(epoch: Epoch, outcome: Outcome) -> list[Effect]:
    """Effects of an epoch that come before those of `changes`; what it took back is told here, not there."""
    cut = min((entry.number for entry in outcome.retracted), default=0)
    reopened = any(fault.author == epoch.author for fault in outcome.voided)
    outcome.retracted = []
    return [
        Persist(EpochRecord(epoch.author, epoch.number, epoch.encode(), cut, reopened)),
        Emit(EpochBegun(epoch.author, epoch.number, epoch.first, len(epoch.disowned))),
    ]


RETIRED = "an amendment retired the site"
"""Why a log ended through no fault of its author."""


def changes(outcome: Outcome, accepted: AcceptedLogs, sender: SiteKey, known: Vector | None = None) -> list[Effect]:
    """Effects of an outcome: retractions first, then what was applied.

    Args:
        outcome: what changed.
        accepted: the logs as they are now.
        sender: who handed over what changed it.
        known: logs that had ended before; recorded anew, but not reported to the operator again.
    """
    effects: list[Effect] = []
    for fault in outcome.faults:
        effects.append(Persist(RetractionRecord(fault.author, fault.number, fault.reason, fault.evidence)))
        if known is None or known.get(fault.author) != fault.number:
            count = sum(1 for entry in outcome.retracted if entry.author == fault.author)
            effects.append(Emit(LogEnded(fault.author, fault.number, fault.reason, count)))
    # Taken back without a fault: an amendment retired the site.
    without_fault = {entry.author for entry in outcome.retracted} - {fault.author for fault in outcome.faults}
    effects += [Persist(RetractionRecord(key, accepted.end(key), RETIRED, ())) for key in sorted(without_fault)]
    effects += [Emit(LateFault(fault.author, fault.number, fault.reason)) for fault in outcome.late]
    effects += [Persist(EntryRecord(entry.author, entry.number, entry.encode(), None)) for entry in outcome.applied]
    if outcome.applied:
        effects.append(Emit(EntriesApplied(tuple((entry.author, entry.number) for entry in outcome.applied), sender)))
    return effects
