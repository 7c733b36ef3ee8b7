"""A run that is over may be extended; who comes and goes near its end makes nobody compare models twice."""

from __future__ import annotations

import pytest

from kmel_p2p.core.rounds import Phase, PhaseChanged, RunComplete
from kmel_p2p.core.rounds.settings import AGAIN_US, AWAY_US
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.amending import agreed, amend, with_newcomer
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world


def test_an_amendment_extends_a_run_that_is_over_everywhere_and_after_a_restart() -> None:
    made = LedgerFederation(toy_world(3), seed=12)
    made.start_all()
    assert made.run(120 * SECOND, until=made.all_complete)
    made.crash(2)
    amend(made, 0, agreed(made, [0, 1], entries=9))
    made.run(5 * SECOND)
    made.start(2)
    assert made.run(120 * SECOND, until=lambda: made.all_complete() and sum(made.averaging(0).vector.values()) == 27)
    assert len(made.digests()) == 1
    assert made.events(0, RunComplete)


@pytest.mark.parametrize("hears_first", [0, 4], ids=["a founder", "the newcomer"])
def test_a_site_that_joins_a_run_that_is_over_takes_its_trunk_and_says_what_to_do(hears_first: int) -> None:
    made = with_newcomer(13)
    assert made.run(120 * SECOND, until=made.all_complete)
    newcomer = made.sites[4]
    document = agreed(made, [0, 1, 2], add=[{"name": "late", "key": newcomer.key.hex()}])
    amend(made, 0, document)
    made.run(5 * SECOND)
    newcomer.disk.amendments.append(document.encode())
    made.start(4)
    assert made.run(60 * SECOND, until=made.all_complete)
    assert made.averaging(4).ledger.head(newcomer.key) == 0
    assert len(made.digests()) == 1
    told = [event.reason for event in made.events(4, PhaseChanged) if isinstance(event, PhaseChanged)]
    assert "kmel-peer amendment draft --entries" in told[-1]
    limit = made.averaging(0).entry_limit + 3
    amend(made, hears_first, agreed(made, [0, 1, 2], entries=limit))
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).ledger.head(newcomer.key) == limit)


def test_a_site_that_comes_and_goes_near_the_end_makes_nobody_tell_the_end_twice() -> None:
    step_us = [SECOND // 100, SECOND // 100, 3 * SECOND // 10]
    made = LedgerFederation(toy_world(3, {"entry_limit": 8}, {"max_lead": 100}, step_us=step_us.__getitem__), seed=14)
    made.start_all()
    made.run(60 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    made.crash(2)
    made.run(6 * SECOND)
    assert not made.averaging(0).complete
    made.start(2)
    assert made.run(120 * SECOND, until=made.all_complete)
    made.run(60 * SECOND)
    assert len(made.events(0, RunComplete)) == len(made.events(1, RunComplete)) == 1


def test_a_site_that_is_gone_for_good_is_not_waited_for_long() -> None:
    made = LedgerFederation(toy_world(3, {"entry_limit": 8}, step_us=lambda index: SECOND // 10), seed=14)
    made.start_all()
    made.run(5 * SECOND)
    made.crash(2)
    assert made.run(60 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    assert made.run(AWAY_US + 5 * SECOND, until=made.all_complete)


def test_an_end_that_changes_is_told_again_a_while_later_and_once() -> None:
    made = LedgerFederation(toy_world(3, {"entry_limit": 20}, {"max_lead": 100}), seed=15)
    made.start_all()
    made.run(8 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[2].key) > 4, step=SECOND // 10)
    made.partition([2], [0, 1])
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).complete)
    assert len(made.events(0, RunComplete)) == 1
    made.heal([2], [0, 1])
    assert made.run(AGAIN_US, until=lambda: made.all_complete() and len(made.digests()) == 1)
    assert len(made.events(0, RunComplete)) == 1
    made.run(AGAIN_US + 5 * SECOND)
    assert len(made.events(0, RunComplete)) == 2
