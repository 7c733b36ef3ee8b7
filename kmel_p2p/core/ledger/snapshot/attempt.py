"""One snapshot on its way to this site: how far it is, what came of it, who attested it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.kept_headers import KEPT_HEADERS
from kmel_p2p.core.ledger.snapshot.snapshot import MAX_META_BYTES, Snapshot
from kmel_p2p.core.ledger.sync.messages import SnapshotOffer
from kmel_p2p.core.roster_vector import NOTHING, RosterVector
from kmel_p2p.core.types import Micros

TOO_FEW = (
    ", and too few are in sight that hold the ledger. Where the others lost theirs for good, kmel-peer trust SITE "
    "takes the word of the one that has it"
)

IN_VAIN = (
    ", and of what each site in sight gave, too few others could attest any: they may lack a part of the ledger, too. "
    "Where that lasts, kmel-peer trust SITE takes the word of the one that has it whole"
)


SITES_TO_COME = 64
"""Sites that amendments unknown here may have added; bounds the size of a snapshot."""


def largest_meta(constitution: Constitution) -> int:
    """Most bytes of a snapshot's headers: the charter bounds the sites, the protocol the headers of each."""
    sites = len(constitution.everyone) + SITES_TO_COME
    return min(MAX_META_BYTES, 2**24 + sites * KEPT_HEADERS * (600 + 100 * sites))


class FetchStage(enum.Enum):
    """How far the present attempt is."""

    IDLE = "idle"
    SEEKING = "looking for a site that offers a snapshot"
    FETCHING = "fetching a snapshot"
    CHECKING = "checking a snapshot"
    ATTESTING = "waiting for other sites to attest a snapshot"
    READY = "about to adopt a snapshot"


@dataclass(slots=True)
class Attempt:
    """One snapshot on its way."""

    server: SiteKey
    offer: SnapshotOffer | None = None
    offers: int = 0
    """How many different ones came."""
    offered_us: Micros = 0
    """When the first one came."""
    parts: dict[int, bytes] = field(default_factory=dict)
    asked_us: dict[int, tuple[Micros, Micros]] = field(default_factory=dict)
    """Part -> (when it was asked for, when it is due)."""
    snapshot: Snapshot | None = None
    vector: RosterVector = NOTHING
    """The snapshot's, in roster order."""
    attested: set[SiteKey] = field(default_factory=set)
    denied: set[SiteKey] = field(default_factory=set)
