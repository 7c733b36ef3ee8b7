"""The boundary of a campaign in a site's trainer: met once, with what its rule keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kmel_p2p.agreement.training import TrainingRule
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.train.campaign import CampaignTraining
from tests.support.learn_fixtures import SETTINGS
from tests.unit.learn.test_rounds import CODEC, LAYOUT, kept_facts, quiet, rounds, run

RULE = TrainingRule(learning_rate=1e-3)


def test_the_residual_is_carried_over_by_rule_and_never_by_two_campaigns() -> None:
    assert not CampaignTraining(2, 6, RULE).drops_residual(1)
    assert CampaignTraining(3, 6, RULE).drops_residual(1)
    assert CampaignTraining(2, 6, RULE, keeps_residual=False).drops_residual(1)


def test_the_rate_falls_anew_in_each_campaign() -> None:
    campaign = CampaignTraining(2, 6, RULE)
    assert [campaign.progress(number, 10) for number in (5, 7, 8, 9, 11)] == [0.0, 0.0, 0.25, 0.5, 1.0]


def test_a_crash_in_the_first_round_of_a_campaign_meets_its_boundary_once(tmp_path: Path) -> None:
    campaign = CampaignTraining(2, 3, TrainingRule(learning_rate=5e-4), keeps_optimiser=False, keeps_residual=False)
    trunk = initial_trunk(LAYOUT, 3)
    site = rounds(tmp_path)
    run(site, trunk, range(1, 4))
    assert site.residual.any()
    first = site.train(4, 5, None, trunk, quiet, None, 8, campaign)
    # The entry was never stored: another life begins where the last campaign ended.
    again = rounds(tmp_path, "round-3.safetensors")
    result = again.train(4, 5, None, trunk, quiet, None, 8, campaign)
    assert result.payload == first.payload
    again.commit(4)
    facts = kept_facts(tmp_path, 4)
    assert (facts["campaign"], facts["fresh_at"], facts["first"]) == (2, 15, 4)
    # All that was trained in this campaign is published or in the residual.
    left = again.residual.copy()
    third = rounds(tmp_path, "round-4.safetensors")
    np.testing.assert_array_equal(third.residual, left)
    followed = third.train(5, 5, None, trunk, quiet, None, 8, campaign)
    assert CODEC.decode(followed.payload).norm > 0
    third.abandon(5)
    np.testing.assert_array_equal(third.residual, left)


def test_what_is_kept_goes_on_without_a_break(tmp_path: Path) -> None:
    trunk = initial_trunk(LAYOUT, 3)
    kept, plain = rounds(tmp_path / "a"), rounds(tmp_path / "b")
    run(kept, trunk.copy(), range(1, 4))
    run(plain, trunk.copy(), range(1, 4))
    # Same settings, and the rate is at the start of its course in both.
    settings = TrainingRule.model_validate({name: getattr(plain._settings, name) for name in TrainingRule.model_fields})
    campaign = CampaignTraining(2, 3, settings)
    with_campaign = kept.train(4, 5, None, trunk, quiet, None, 10**9, campaign)
    without = plain.train(4, 5, None, trunk, quiet, None, 10**9)
    assert with_campaign.payload == without.payload


def test_a_campaign_that_a_rival_amendment_took_back_leaves_no_settings_behind(tmp_path: Path) -> None:
    second = CampaignTraining(2, 3, TrainingRule(learning_rate=5e-4), keeps_residual=False)
    third = CampaignTraining(3, 4, TrainingRule(learning_rate=2e-4))
    trunk = initial_trunk(LAYOUT, 3)
    site = rounds(tmp_path)
    run(site, trunk, range(1, 4))
    for number, campaign in ((4, second), (5, third)):
        site.train(number, 5, None, trunk, quiet, None, 8, campaign)
        site.commit(number)
    left = site.residual.copy()
    # The third campaign never was: the boundary of the second one was met before it.
    site.train(6, 5, None, trunk, quiet, None, 8, second)
    assert site._optimiser.settings.learning_rate == 5e-4
    site.abandon(6)
    np.testing.assert_array_equal(site.residual, left)
    site.train(6, 5, None, trunk, quiet, None, 20)
    assert site._optimiser.settings.learning_rate == SETTINGS.learning_rate
    site.commit(6)
    assert kept_facts(tmp_path, 6)["campaign"] == 1
    # What opens the second campaign instead meets its own boundary.
    site.train(7, 5, None, trunk, quiet, None, 20, second)
    assert site._first is None or site._first == 7
