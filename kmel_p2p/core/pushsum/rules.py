"""What the charter says about pushsum, what a site may set, and the weight of a site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kmel_p2p.agreement.averaging import MAX_MOMENTUM, PushSumRule
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.pushsum.coding import AT_ONCE
from kmel_p2p.core.pushsum.holding import MASS_BITS
from kmel_p2p.core.pushsum.share import Bits
from kmel_p2p.core.pushsum.transfers import TransferSettings
from kmel_p2p.core.rounds.machine import SETTLE_US, STUCK_AFTER_US
from kmel_p2p.core.types import SECOND, Micros

MAX_SIZE_CLASS = 24
"""2**24 measurements; a larger site weighs no more, so that the federation's mass stays within its bound."""


@dataclass(frozen=True, slots=True)
class PushSumRules:
    """The part of the charter that this mode needs.

    Attributes:
        charter_id: 32 bytes.
        roster: keys of all sites.
        entry_limit: round of the federation after which sites listen.
        steps_per_entry: optimiser steps of a round.
        start_sites: sites ready before the first round.
        max_lead: rounds a site may be ahead of the slowest training one.
        patience: rounds without a better validation score after which a site listens; 0 means never.
        weight_cap: largest weight, as a multiple of the mean weight.
        bits: per value of a share.
        momentum: of the outer step, on local drift only.
        outer_step: factor of the drift; outer_step / (1 - momentum) is what a steady drift gains.
        age_limit: rounds a trunk may miss of others' work before it no longer counts.
        last_bits: per value in the exchanges after everybody's last round, which nothing corrects afterwards.

    Raises:
        ConfigError: a value is out of its range.
    """

    charter_id: bytes
    roster: frozenset[SiteKey]
    entry_limit: int
    steps_per_entry: int
    start_sites: int
    max_lead: int = 4
    patience: int = 0
    weight_cap: float = 2.0
    bits: Bits = 8
    momentum: float = 0.5
    outer_step: float = 0.5
    age_limit: int = 16
    last_bits: Bits = 16

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum <= MAX_MOMENTUM:
            raise ConfigError(f"averaging.momentum is {self.momentum}; it must lie in [0, {MAX_MOMENTUM}]")
        if not 0.0 < self.outer_step <= 1.0:
            raise ConfigError(f"averaging.outer_step is {self.outer_step}; it must lie in (0, 1]")
        if self.age_limit <= self.max_lead:
            raise ConfigError(
                f"averaging.age_limit is {self.age_limit}; it must exceed pace.max_lead ({self.max_lead}), or sites "
                "in step with the others would be held for old"
            )

    @classmethod
    def of(cls, charter: Charter) -> PushSumRules:
        """The rules of a charter of this mode."""
        rule, pace = charter.averaging, charter.pace
        if not isinstance(rule, PushSumRule):
            raise Bug("the charter's averaging mode is not pushsum")
        return cls(
            charter_id=charter.id,
            roster=frozenset(charter.roster),
            entry_limit=rule.entry_limit,
            steps_per_entry=rule.steps_per_entry,
            start_sites=charter.start_sites,
            max_lead=pace.max_lead,
            patience=pace.patience,
            weight_cap=rule.weight_cap,
            bits=rule.bits,
            momentum=rule.momentum,
            outer_step=rule.outer_step,
            age_limit=rule.age_limit,
        )

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
