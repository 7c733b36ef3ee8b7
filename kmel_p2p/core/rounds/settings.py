"""What charter and site say about rounds, in any averaging mode."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.core.types import SECOND, Micros

SETTLE_US: Micros = 5 * SECOND
STUCK_AFTER_US: Micros = 30 * SECOND
CONCLUDES_AFTER_US: Micros = 1800 * SECOND
AWAY_US: Micros = 30 * SECOND
AGAIN_US: Micros = 20 * SECOND


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """What charter and site say about rounds.

    Attributes:
        entry_limit: rounds after which a site trains no more.
        steps_per_entry: optimiser steps of a round, at most.
        start_sites: sites that must be ready before the first round, unless an operator begins without the others.
        max_lead: rounds a site may be ahead of the slowest training one.
        patience: rounds without a better validation figure after which a site listens; 0: never.
        hold: keep each round back until the operator approves it.
        settle_us: how long a starting site waits to hear from every reachable site before its first round.
        stuck_after_us: how long a site that trains without progress holds this one back.
        unit: what a round gives, in the plural, for the operator.
        concludes_after_us: how long the end of the run waits for a site whose log does not grow (`Ending`).
        away_us: how long it waits for a site that was not done and went out of sight.
        again_us: how long a complete run that changes after all is left alone before its end is told again.
    """

    entry_limit: int
    steps_per_entry: int
    start_sites: int
    max_lead: int
    patience: int
    hold: bool
    settle_us: Micros
    stuck_after_us: Micros
    unit: str
    concludes_after_us: Micros = CONCLUDES_AFTER_US
    away_us: Micros = AWAY_US
    again_us: Micros = AGAIN_US


def round_settings(charter: Charter, hold: bool, settle_us: Micros, stuck_after_us: Micros) -> RoundSettings:
    """What the charter says about rounds, and this site's own settings."""
    return RoundSettings(
        entry_limit=charter.averaging.entry_limit,
        steps_per_entry=charter.averaging.steps_per_entry,
        start_sites=charter.start_sites,
        max_lead=charter.pace.max_lead,
        patience=charter.pace.patience,
        hold=hold,
        settle_us=settle_us,
        stuck_after_us=stuck_after_us,
        unit="entries",
    )
