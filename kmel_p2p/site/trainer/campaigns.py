"""What the trainer of a site is told of campaigns."""

from __future__ import annotations

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.training import TrainingRule
from kmel_p2p.core.rounds import RoundOpened
from kmel_p2p.learn.train.campaign import CampaignTraining


def campaign_training(constitution: Constitution, opened: RoundOpened) -> CampaignTraining | None:
    """How a round trains; None in the first campaign, as the charter says."""
    if opened.campaign == 1:
        return None
    campaign = constitution.campaigns[opened.campaign - 1]
    # Of the charter's settings only these, whatever kind of rule they stand in.
    rule = TrainingRule.model_validate({name: getattr(campaign.training, name) for name in TrainingRule.model_fields})
    return CampaignTraining(campaign.number, opened.before, rule, campaign.keeps_optimiser, campaign.keeps_residual)


def usual_steps(constitution: Constitution, site: SiteKey, entries: int) -> int:
    """Optimiser steps of a site's first `entries` entries, each of as many as its campaign says."""
    steps, rest = 0, entries
    for campaign in reversed(constitution.campaigns):
        made = max(0, rest - campaign.before(site))
        steps += made * campaign.averaging.steps_per_entry
        rest -= made
    return steps
