"""A run waits for its founders, and an operator may begin it without those who are late."""

from __future__ import annotations

from kmel_p2p.core.rounds import Begin
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_charter, toy_identities, toy_world

FOUNDERS, PRESENT = 4, 3


def without_the_last() -> LedgerFederation:
    made = LedgerFederation(toy_world(FOUNDERS, pace={"start_sites": 0}), seed=15)
    for index in range(PRESENT):
        made.start(index)
    return made


def test_a_charter_that_says_nothing_means_all_founders() -> None:
    assert toy_charter(toy_identities(5), pace={"start_sites": 0}).start_sites == 5


def test_nobody_begins_before_the_last_founder_is_ready() -> None:
    made = without_the_last()
    made.run(300 * SECOND, step=10 * SECOND)
    assert all(not made.averaging(index).vector for index in range(PRESENT))
    assert made.averaging(0).waiting.startswith("3 of 4 sites are ready to start")
    assert "kmel-peer begin" in made.averaging(0).waiting
    made.start(PRESENT)
    assert made.run(120 * SECOND, until=made.all_complete)
    limit = made.world.charter.averaging.entry_limit
    assert {made.averaging(0).ledger.head(site.key) for site in made.sites} == {limit}


def test_one_operator_begins_and_the_others_follow() -> None:
    made = without_the_last()
    made.run(30 * SECOND)
    made.network.command(made.host(1), Begin("the fourth has no machine yet"))
    made.run(30 * SECOND, until=lambda: len(made.averaging(0).vector) == PRESENT)
    assert len(made.averaging(0).vector) == PRESENT
