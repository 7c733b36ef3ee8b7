"""What a site states on the board of its own payoff, coarsely, from the comparison of its final models.

It is a site's word about itself. Nobody else can check it, and it decides nothing (docs/harm.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.notice import BETTER, EFFECTS_PCT, NO_EVIDENCE, UNKNOWN, WORSE, PayoffStatement
from kmel_p2p.site.final_models import FinalModels
from kmel_p2p.site.notice_board import NoticeBoard
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.headline import BEST_LOCAL, EVIDENCE
from kmel_p2p.site.site import Site

FEWEST_HELD_OUT = 20
"""Held-out compounds below which nothing is said of an assay endpoint, as with looks at authors."""

EVERY_S = 600.0
"""Seconds between two statements: two processes with one key would otherwise correct each other without end."""


def stated_payoff(result: Mapping[str, Any], names: Sequence[str], campaign: int) -> PayoffStatement | None:
    """The statement that follows from a comparison of final models; None: there is nothing to say.

    Args:
        result: as `learn.evaluate.comparison` gives it.
        names: of the assay endpoints, by place.
        campaign: at whose end they were compared.
    """
    found = {endpoint["name"]: _class_of(endpoint) for endpoint in result.get("endpoints", ())}
    classes = "".join(found.get(name, UNKNOWN) for name in names).rstrip(UNKNOWN)
    return PayoffStatement(campaign=campaign, classes=classes) if classes else None


def _class_of(endpoint: Mapping[str, Any]) -> str:
    stacked = endpoint.get("stacked")
    if not stacked or not endpoint["train"] or stacked["held_out"] < FEWEST_HELD_OUT or stacked["difference"] is None:
        return UNKNOWN
    mean, error = stacked["difference"]
    local = stacked[BEST_LOCAL].get("test")
    if stacked["own"] != BEST_LOCAL and mean + EVIDENCE * error < 0:
        return _sized(BETTER, local, endpoint["predicted"].get("test"), -1)
    if stacked["own"] == BEST_LOCAL and mean - EVIDENCE * error > 0:
        return _sized(WORSE, local, stacked["stack"].get("test"), 1)
    return NO_EVIDENCE


def _sized(letters: str, local: float | None, other: float | None, sign: int) -> str:
    """The letter for an effect on the test fold; the smallest where that says nothing, or the contrary."""
    if local is None or other is None or local <= 0:
        return letters[0]
    return letters[bisect_right(EFFECTS_PCT, 100 * sign * (other / local - 1))]


class PayoffStating:
    """Keeps a site's statement on the board as its newest comparison says, unless its operator or charter says no.

    Args:
        site: as amended so far.
        final_models: know the newest comparison.
        board: where it is stated.
        activity: takes the alarm where there is no room on it; gives the time.
    """

    def __init__(
        self, site: Callable[[], Site], final_models: FinalModels, board: NoticeBoard, activity: Activity
    ) -> None:
        self._site = site
        self._final_models = final_models
        self._board = board
        self._activity = activity
        self._stated_at: float | None = None

    def look(self) -> None:
        """State, renew or withdraw, where that is due."""
        site, now = self._site(), self._activity.clock()
        if site.identity.key not in site.constitution.roster:
            return
        if self._stated_at is not None and now < self._stated_at + EVERY_S:
            return
        content = None
        if states(site):
            result = self._final_models.last_result
            if result is None:
                return  # a store that was lost: what stood before is not contradicted
            content = stated_payoff(result, site.assay_endpoints.names, self._final_models.allowed_before.campaign)
        try:
            if self._board.keep_payoff(content):
                self._stated_at = now
        except LocalError as error:
            self._activity.alarm("payoff not stated", str(error))
        else:
            self._activity.clear("payoff not stated")


def states(site: Site) -> bool:
    """Whether a site says what the federation is worth to it.

    Under differential privacy none does: what held-out compounds say is outside of the budget.
    """
    return site.config.board.state_payoff and not site.charter.privacy.on
