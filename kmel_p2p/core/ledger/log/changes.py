"""What changed in the ledger, as records for the store and facts for the operator."""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Store
from kmel_p2p.core.ledger.events import EntriesApplied, EntryRecord, LateFault, LogEnded, RetractionRecord
from kmel_p2p.core.ledger.log.books import Books
from kmel_p2p.core.ledger.log.verdict import Outcome
from kmel_p2p.core.types import Vector

RETIRED = "an amendment retired the site"
"""Reason of an ended log that is nobody's fault."""


def changes(outcome: Outcome, books: Books, sender: SiteKey, known: Vector | None = None) -> list[Effect]:
    """Effects of an outcome, retractions before what was applied after them.

    Args:
        outcome: what changed.
        books: as they are now.
        sender: through whom it changed.
        known: logs that had ended before: recorded anew, but no news to the operator.
    """
    effects: list[Effect] = []
    for fault in outcome.faults:
        effects.append(Store(RetractionRecord(fault.author, fault.number, fault.reason, fault.evidence)))
        if known is None or known.get(fault.author) != fault.number:
            count = sum(1 for entry in outcome.retracted if entry.author == fault.author)
            effects.append(Emit(LogEnded(fault.author, fault.number, fault.reason, count)))
    # Taken back not for a fault, but because an amendment retired the site.
    without_fault = {entry.author for entry in outcome.retracted} - {fault.author for fault in outcome.faults}
    effects += [Store(RetractionRecord(key, books.end(key), RETIRED, ())) for key in sorted(without_fault)]
    effects += [Emit(LateFault(fault.author, fault.number, fault.reason)) for fault in outcome.late]
    effects += [Store(EntryRecord(entry.author, entry.number, entry.encode(), None)) for entry in outcome.applied]
    if outcome.applied:
        effects.append(Emit(EntriesApplied(tuple((entry.author, entry.number) for entry in outcome.applied), sender)))
    return effects
