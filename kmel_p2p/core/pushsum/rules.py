"""What the charter says about pushsum, what a site may set, and the weight of a site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.pushsum.coding import AT_ONCE
from kmel_p2p.core.pushsum.holding import MASS_BITS
from kmel_p2p.core.pushsum.share import Bits
from kmel_p2p.core.pushsum.transfers import TransferSettings
from kmel_p2p.core.rounds.settings import SETTLE_US, STUCK_AFTER_US
from kmel_p2p.core.types import SECOND, Micros

MAX_SIZE_CLASS = 24
"""2**24 measurements; a larger site weighs no more, so that the federation's mass stays within its bound."""


@dataclass(frozen=True, slots=True)
class PushSumRules:
    """The part of the charter that this mode needs.

    Attributes:
        charter_id: 32 bytes.
        roster: keys of all sites.
        start_sites: sites ready before the first round.
        averaging: the charter's, of this mode.
        pace: the charter's.
        bits: per value of a share.
        last_bits: per value in the exchanges after everybody's last round, which nothing corrects afterwards.
    """

    charter_id: bytes
    roster: frozenset[SiteKey]
    start_sites: int
    averaging: PushSumRule
    pace: PaceRule
    bits: Bits = 8
    last_bits: Bits = 16

    @classmethod
    def of(cls, charter: Charter) -> PushSumRules:
        """The rules of a charter of this mode."""
        rule = charter.averaging
        if not isinstance(rule, PushSumRule):
            raise Bug("the charter's averaging mode is not pushsum")
        return cls(charter.id, frozenset(charter.roster), charter.start_sites, rule, charter.pace, rule.bits)

    @property
    def last_exchanges(self) -> int:
        """Shares each site sends after everybody's last round. Each halves the distance between trunks, about."""
        return 4 + len(self.roster).bit_length()


@dataclass(frozen=True, slots=True)
class PushSumSettings:
    """What a site may set about its own part.

    Attributes:
        hold: keep each round back until the operator approves it.
        settle_us: how long a starting site waits to hear from every reachable site before its first round.
        neighbours: the only sites shares are sent to; empty for all. Lists should be mutual.
        stuck_after_us: how long a site that trains without progress holds this one back; at least 16 own rounds.
        interval_us: between two exchanges of statements with a random site.
        at_once: values of a trunk up to which shares are coded at once, and not off the event loop.
        transfers: back-off of inquiries.
    """

    hold: bool = False
    settle_us: Micros = SETTLE_US
    neighbours: frozenset[SiteKey] = frozenset()
    stuck_after_us: Micros = STUCK_AFTER_US
    interval_us: Micros = 1 * SECOND
    at_once: int = AT_ONCE
    transfers: TransferSettings = field(default_factory=TransferSettings)


def size_weight(own_class: int, other_classes: Iterable[int], cap: float) -> int:
    """Starting mass of a site.

    Args:
        own_class: log2 bucket of its measurement count (0 when unknown).
        other_classes: those of the sites it sees.
        cap: largest weight, as a multiple of the mean.

    Returns:
        2**10 times the bucket's size, or less by the cap; at least 1. Independent of the others below the cap, so
        sites that see different ones still agree on what a measurement weighs.
    """
    sizes = [1 << min(c, MAX_SIZE_CLASS) for c in (own_class, *other_classes)]
    largest = int(cap * sum(sizes) / len(sizes) * 2**MASS_BITS)
    return max(1, min(sizes[0] << MASS_BITS, largest))
