"""What the charter says about sealed rounds, and what a site may set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.averaging import SealedRule, quorum_of
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds.settings import SETTLE_US, RoundSettings
from kmel_p2p.core.sealed.levels import SCALE_BITS, first_exponent
from kmel_p2p.core.sealed.masking import private_levels
from kmel_p2p.core.sealed.public_optimiser import PublicOptimiser
from kmel_p2p.core.sealed.sums import SumLog
from kmel_p2p.core.types import SECOND, Micros


@dataclass(frozen=True, slots=True)
class SealedRules:
    """The part of the charter that this mode needs.

    Attributes:
        charter_id: 32 bytes.
        roster: keys of all sites, in their order.
        start_sites: sites ready before the first round.
        min_group: fewest members of a group.
        min_sum: fewest vectors in a sum.
        levels: limit of a level.
        entry_limit: sums of a run.
        steps_per_entry: optimiser steps of a round.
        weight_cap: largest weight, as a multiple of the equal part.
        pattern: part of the values that a round sends.
        exponent: of the first step.
        max_lead, patience: of the charter's pace.
        budget: vectors that a site may seal under differential privacy; 0: without it. Then a sum holds gradients, and
            moves the trunk by a step of an optimiser.
        learning_rate, weight_decay: of that optimiser.
    """

    charter_id: bytes
    roster: tuple[SiteKey, ...]
    start_sites: int
    min_group: int
    min_sum: int
    levels: int
    entry_limit: int
    steps_per_entry: int
    weight_cap: float
    pattern: float = 0.25
    exponent: int = -10
    max_lead: int = 4
    patience: int = 0
    budget: int = 0
    learning_rate: float = 0.0
    weight_decay: float = 0.0

    @property
    def least_members(self) -> int:
        """Fewest members of a group: with a quorum of the roster in it, whoever can lie holds fewer shares than open a
        vector, and a quorum of reveals opens what it decided on."""
        return max(self.min_group, quorum_of(len(self.roster)))

    @classmethod
    def of(cls, charter: Charter) -> SealedRules:
        """The rules of a charter of this mode."""
        rule, training = charter.averaging, charter.training
        if not isinstance(rule, SealedRule):
            raise Bug("the charter's averaging mode is not sealed")
        return cls(
            charter_id=charter.id,
            roster=tuple(charter.roster),
            start_sites=charter.start_sites,
            min_group=rule.min_group,
            min_sum=rule.min_sum,
            levels=private_levels(len(charter.sites)) if charter.privacy.on else rule.levels,
            entry_limit=rule.entry_limit,
            steps_per_entry=rule.steps_per_entry,
            weight_cap=rule.weight_cap,
            pattern=rule.pattern,
            exponent=first_exponent(training.learning_rate, rule.steps_per_entry, rule.min_group),
            max_lead=charter.pace.max_lead,
            patience=charter.pace.patience,
            budget=charter.privacy.steps(rule.entry_limit) if charter.privacy.on else 0,
            learning_rate=charter.privacy.learning_rate,
            weight_decay=training.weight_decay,
        )

    def rounds(self, settings: SealedSettings) -> RoundSettings:
        """What charter and site say about rounds."""
        return RoundSettings(
            entry_limit=self.entry_limit,
            steps_per_entry=self.steps_per_entry,
            start_sites=self.start_sites,
            max_lead=self.max_lead,
            patience=self.patience,
            hold=settings.hold,
            settle_us=settings.settle_us,
            stuck_after_us=settings.limit_us,
            unit="rounds",
        )

    def empty_log(self, base: NDArray[np.float32]) -> SumLog:
        """The sums before the first one. `base`: initial trunk, float32[d]."""
        optimiser = None
        if self.budget:
            optimiser = PublicOptimiser(self.learning_rate, self.weight_decay, self.entry_limit, 2.0**-SCALE_BITS)
        return SumLog(self.charter_id, base, self.pattern, self.levels, self.exponent, optimiser)


@dataclass(frozen=True, slots=True)
class SealedSettings:
    """What a site may set about its own part, and the times of a round.

    Attributes:
        hold: keep each round back until the operator approves it.
        settle_us: how long a starting site waits to hear from every reachable site.
        gather_us: how long a group of enough sites waits for the other reachable ones.
        turn_us: how long the next site waits before it opens the round in the first one's place.
        patience_us: how long a group with enough vectors waits for the rest, at least; also as long as they took.
        gone_us: the same, for members that are out of reach.
        limit_us: the longest time from Open to close.
        vote_us: how long the opener's vote is waited for, and how long the first ballot takes; later ones take longer.
        tell_us: between two messages that say what this site has, while a round is under way.
        rest_us: the same between rounds.
    """

    hold: bool = False
    settle_us: Micros = SETTLE_US
    gather_us: Micros = 3 * SECOND
    turn_us: Micros = 3 * SECOND
    patience_us: Micros = 10 * SECOND
    gone_us: Micros = 2 * SECOND
    limit_us: Micros = 900 * SECOND
    vote_us: Micros = 6 * SECOND
    tell_us: Micros = 1 * SECOND
    rest_us: Micros = 5 * SECOND
