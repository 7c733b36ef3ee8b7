"""A run waits for its founders, may begin without those who are late, and goes on for those who come after all."""

from __future__ import annotations

import pytest

from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.own_log import NOT_HEARD
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.rounds import Begin, Conclude, Phase
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_charter, toy_identities, toy_world
from tests.testbed.network.host import Host

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


def test_a_founder_whose_operator_ended_its_part_is_not_waited_for() -> None:
    made = without_the_last()
    made.network.command(made.host(0), Conclude("another project needs the machine"))
    made.run(30 * SECOND)
    assert made.averaging(1).waiting.startswith("2 of 3 sites are ready to start")
    made.start(PRESENT)
    assert made.run(60 * SECOND, until=lambda: len(made.averaging(1).vector) == PRESENT)


def test_one_operator_begins_and_the_others_follow() -> None:
    made = without_the_last()
    made.run(30 * SECOND)
    made.network.command(made.host(1), Begin("the fourth has no machine yet"))
    made.run(30 * SECOND, until=lambda: len(made.averaging(0).vector) == PRESENT)
    assert len(made.averaging(0).vector) == PRESENT


@pytest.mark.parametrize("limit", [20, 60])
def test_a_founder_that_comes_late_finds_a_run_that_it_can_take_part_in(limit: int) -> None:
    made = LedgerFederation(toy_world(FOUNDERS, {"entry_limit": limit}, {"start_sites": 0}), seed=9)
    for index in range(PRESENT):
        made.start(index)
    made.network.command(made.host(0), Begin("the fourth has no machine yet"))
    made.run(20 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[0].key) >= 10)
    was_over = made.run(3 * SECOND, until=made.all_complete)
    assert was_over is (limit == 20)
    made.start(PRESENT)
    keys = [site.key for site in made.sites]
    assert made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(keys[PRESENT]) > 0)
    accepted = made.averaging(0).ledger.accepted
    first = accepted.header(keys[PRESENT], 1)
    assert first is not None
    before = accepted.order.named(first.base)
    assert made.run(600 * SECOND, until=made.all_complete)
    for key in keys[:PRESENT]:
        assert made.averaging(0).ledger.head(key) == limit + before[key]
    assert made.averaging(0).ledger.head(keys[PRESENT]) == limit
    assert len(made.digests()) == 1


def test_founders_that_come_one_after_the_other_at_most_double_the_run() -> None:
    made = LedgerFederation(toy_world(4, {"entry_limit": 12}, {"start_sites": 1}), seed=10)
    for index in range(4):
        made.start(index)
        made.run(200 * SECOND, until=made.all_complete)
    heads = [made.averaging(0).ledger.head(site.key) for site in made.sites]
    assert max(heads) == 24
    assert made.averaging(0).complete


def test_an_operator_who_has_concluded_is_not_drawn_in_again() -> None:
    made = LedgerFederation(toy_world(2, {"entry_limit": 8}, {"start_sites": 1}), seed=11)
    made.start(0)
    made.run(60 * SECOND, until=made.all_complete)
    made.network.command(made.host(0), Conclude("enough"))
    made.start(1)
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) == 8)
    assert made.averaging(0).phase is Phase.LISTENING


class Sends:
    """Counts the messages of a network."""

    def __init__(self) -> None:
        self.count = 0

    def stepped(self, host: Host, now: Micros) -> None: ...

    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        self.count += isinstance(effect, Send)


def test_sites_that_could_start_and_wait_to_hear_a_fourth_do_not_talk_each_other_out_of_it() -> None:
    patient = LedgerSettings(hear_us=60 * SECOND)
    made = LedgerFederation(toy_world(FOUNDERS, {"entry_limit": 4}, {"start_sites": PRESENT}, settings=patient), seed=7)
    sends = Sends()
    made.network.watchers.append(sends)
    for index in range(PRESENT):
        made.start(index)
    made.run(30 * SECOND)
    assert {made.averaging(index).waiting for index in range(PRESENT)} == {NOT_HEARD}
    assert sends.count < 500
    assert made.run(120 * SECOND, until=lambda: len(made.averaging(0).vector) == PRESENT)


def test_a_site_that_is_never_met_is_not_waited_for_after_a_start() -> None:
    """Two sites that only dial out hear of each other through others, so nothing of a log is at one of them alone."""
    patient = LedgerSettings(hear_us=600 * SECOND)
    made = LedgerFederation(toy_world(FOUNDERS, {"entry_limit": 4}, {"start_sites": PRESENT}, settings=patient), seed=7)
    for index in range(PRESENT):
        made.start(index)
    for view in made.views:
        view.only_dial = frozenset(made.world.charter.roster)
    assert made.run(60 * SECOND, until=lambda: len(made.averaging(0).vector) == PRESENT)
