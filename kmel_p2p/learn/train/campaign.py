"""What a later campaign says about training at a site. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.training import TrainingRule


@dataclass(frozen=True, slots=True)
class CampaignTraining:
    """See the module docstring.

    Attributes:
        number: of the campaign, from 2; state that was stored in an earlier one meets its boundary.
        before: this site's entries of earlier campaigns: the learning rate falls anew after them.
        training: the optimiser's settings.
        keeps_optimiser: whether its moments are those of the campaign before.
        keeps_residual: whether what was trained in the campaign before and is not published may go into entries of
            this one. What is older never does.
    """

    number: int
    before: int
    training: TrainingRule
    keeps_optimiser: bool = True
    keeps_residual: bool = True

    def progress(self, number: int, entry_limit: int) -> float:
        """How far the campaign is at entry `number` of at most `entry_limit` in all, from 0 to 1."""
        return max(0, number - 1 - self.before) / max(1, entry_limit - self.before)

    def drops_residual(self, before: int) -> bool:
        """Whether a residual of campaign `before` ends at the boundary."""
        return before < self.number - 1 or not self.keeps_residual
