"""What may become of an offered entry, and what an offer, a proof or a snapshot changed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.proof import Fault
from kmel_p2p.core.ledger.rules.validity import Refusal


class Verdict(enum.Enum):
    """What became of an offered entry."""

    APPLIED = "applied"
    WAITING = "waiting for its base"
    KNOWN = "known already"
    DROPPED = "dropped: too many entries wait"
    REFUSED = "refused"
    ENDED = "the author's log has ended"


class Hold(enum.Enum):
    """Why the next entry of a log is not judged yet."""

    BASE = "what it was made on is not here"
    PROOF = "it names an ended log without proof here"
    AMENDMENT = "it was made under an amendment that is not here"
    CONTEXT = "its author saw another branch of a log"
    EXCUSE = "it breaks a rule, unless a header of its base that is not known here excuses it"


@dataclass(slots=True)
class Outcome:
    """What became of an entry, a proof or a snapshot, and everything that changed through it.

    Attributes:
        late: faults that were proved too late to change anything.
        kept: only of `adopt`: newest entry of each author that was applied before and still stands.
    """

    verdict: Verdict
    refusal: Refusal | None = None
    applied: list[Entry] = field(default_factory=list)
    retracted: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    late: list[Fault] = field(default_factory=list)
    kept: dict[SiteKey, int] = field(default_factory=dict)
