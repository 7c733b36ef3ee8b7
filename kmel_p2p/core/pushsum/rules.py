"""What the charter says about pushsum, what a site may set, and the weight of a site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.pushsum.coding import AT_ONCE
from kmel_p2p.core.pushsum.holding import MASS_BITS, MAX_MASS
from kmel_p2p.core.pushsum.share import Bits
from kmel_p2p.core.pushsum.transfers import TransferSettings
from kmel_p2p.core.rounds.settings import SETTLE_US, STUCK_AFTER_US
from kmel_p2p.core.types import SECOND, Micros

WEIGHT_TOLERANCE = 4
"""Sites state their weights at different times and see different sites: one this far above the cap still stands."""

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
        cap: largest weight, as a multiple of the mean weight.

    Returns:
        2**10 times the bucket's size, or less by the cap; at least 1. Independent of the others below the cap, so
        sites that see different ones still agree on what a measurement weighs.
    """
    own, *others = [(1 << min(c, MAX_SIZE_CLASS)) << MASS_BITS for c in (own_class, *other_classes)]
    mean = sum(others) / len(others) if others else own
    return max(1, min(own, largest_weight(mean, 1 + len(others), cap)))


def largest_weight(mean: float, sites: int, cap: float) -> int:
    """The largest weight that a site may have, so that it is `cap` times the mean of all.

    Args:
        mean: mean weight of the other sites.
        sites: how many there are, with the site itself.
        cap: the charter's `weight_cap`.

    Returns:
        w = cap * (w + others) / sites, solved for w. Where `cap` is not below `sites`, as with two sites and 2, the
        charter sets no limit, and neither does this.
    """
    if sites <= cap:
        return MAX_MASS
    return min(MAX_MASS, max(1, int(cap * mean * (sites - 1) / (sites - cap))))


def credible_weight(stated: int, others: Sequence[int], sites: int, cap: float) -> int:
    """How much of the weight that a site states counts.

    Args:
        stated: what the site states.
        others: the weights that other sites state, this one's own among them. Those who have not stated one yet count
            with the mean: a liar gains nothing by coming first.
        sites: on the roster.
        cap: the charter's `weight_cap`.
    """
    return min(stated, WEIGHT_TOLERANCE * largest_weight(sum(others) / len(others), sites, cap))
