"""What a site may set about its own part in averaging mode `ledger`."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmel_p2p.core.ledger.sync.claims import ClaimSettings
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings
from kmel_p2p.core.rounds.settings import SETTLE_US, STUCK_AFTER_US
from kmel_p2p.core.types import SECOND, Micros

HEAR_US: Micros = 600 * SECOND
"""Sites that restart together, or a network that is down for maintenance, are back by then."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What a site may set about its own part."""

    hold: bool = False
    """Keep each entry back until the operator approves it."""
    settle_us: Micros = SETTLE_US
    """How long a starting site waits to hear from every alive site before its first round. Guards a site that lost
    its store against numbering entries anew; bounded, so a mute site holds nobody up."""
    stuck_after_us: Micros = STUCK_AFTER_US
    """How long a site that trains, but whose log does not move, holds this one back; at least `pacing.STUCK_ROUNDS` of
    our own rounds."""
    hear_us: Micros = HEAR_US
    """Before its first entry after a start, a site hears what the others hold of its log. How long it waits for those
    that are away, once the first other site was heard: `OwnLog`."""
    turn_bytes: int = 256 * 1024
    """Payload bytes judged and applied before other inputs have their turn (about 50 ms of work)."""
    catch_up_us: Micros = 15 * SECOND
    """A site far behind trains only when nothing came in for so long: an entry made on old ground helps nobody."""
    catch_up_limit_us: Micros = 600 * SECOND
    """However much comes in, it trains again after so long: an author that gives out its log drop by drop must not
    keep others from training."""
    claims: ClaimSettings = field(default_factory=ClaimSettings)
    antientropy: AntiEntropySettings = field(default_factory=AntiEntropySettings)
