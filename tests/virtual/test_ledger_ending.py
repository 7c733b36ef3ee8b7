"""A site that never finishes keeps the others from the end of the run for a limited time, and is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.events import LimitExceeded
from kmel_p2p.core.ledger.sync.messages import Have, Holdings
from kmel_p2p.core.roster_vector import NOTHING
from kmel_p2p.core.rounds import Conclude, Phase, RunComplete, RunHeldUp, RunNotAwaiting
from kmel_p2p.core.rounds.ending import ALARM_AFTER, LONGEST_FACTOR, SPENT_WAITED, Ending
from kmel_p2p.core.rounds.settings import CONCLUDES_AFTER_US
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import LedgerHost
from tests.testbed.ledger.toy import toy_world

LIAR = 2


class NeverDone(LedgerHost):
    """Says for ever that it trains, or that it holds nothing."""

    says: dict[str, object]

    def poll(self) -> Effect | None:
        effect = super().poll()
        if isinstance(effect, Send) and isinstance(effect.message, (Have, Holdings)):
            says: Any = {name: value for name, value in self.says.items() if hasattr(effect.message, name)}
            return dataclasses.replace(effect, message=dataclasses.replace(effect.message, **says))
        return effect


def federation(**says: object) -> LedgerFederation:
    def host(index: int, averaging) -> LedgerHost:  # type: ignore[no-untyped-def]
        made = NeverDone(averaging) if index == LIAR else LedgerHost(averaging)
        if isinstance(made, NeverDone):
            made.says = says
        return made

    made = LedgerFederation(toy_world(3, make_host=host), seed=3)
    made.start_all()
    return made


@pytest.mark.parametrize(
    "says", [{"phase": int(Phase.TRAINING)}, {"phase": 0}, {"state": bytes(16), "vector": NOTHING, "chains": bytes(32)}]
)
def test_who_never_finishes_is_named_and_then_waited_for_no_longer(says: dict[str, object]) -> None:
    made = federation(**says)
    liar = made.sites[LIAR].key
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    assert made.run(2 * ALARM_AFTER, until=lambda: bool(made.events(0, RunHeldUp)))
    told = made.events(0, RunHeldUp)
    assert [event.site for event in told] == [liar]  # type: ignore[attr-defined]
    assert not made.events(0, RunComplete)
    assert made.run(CONCLUDES_AFTER_US, until=lambda: made.averaging(0).complete, step=10 * SECOND)
    assert made.events(0, RunNotAwaiting) == [RunNotAwaiting(liar, given_up=True)]
    assert len(made.events(0, RunComplete)) == 1


def test_the_operator_ends_the_wait_at_once() -> None:
    made = federation(phase=int(Phase.TRAINING))
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    made.network.command(made.host(0), Conclude("asked by the operator"))
    assert made.averaging(0).complete
    assert not made.averaging(1).complete


def test_a_site_that_is_slow_by_its_own_history_is_waited_for_within_bounds() -> None:
    ending, site, limit = Ending(100 * SECOND), SiteKey(b"s" * 32), 100 * SECOND
    ending.note({site: 1}, 0)
    ending.note({site: 2}, 20 * SECOND)
    ending.look({site: 2}, 20 * SECOND)
    ending.look({site: 2}, 20 * SECOND + 16 * 20 * SECOND - 1)
    assert ending.is_waiting()
    ending.look({site: 3}, 20 * SECOND + 16 * 20 * SECOND - 1)
    ending.look({site: 3}, 20 * SECOND + 16 * 20 * SECOND)
    assert ending.is_waiting()
    ending.note({site: 4}, 10_000 * SECOND)
    ending.look({site: 4}, 10_000 * SECOND)
    ending.look({site: 4}, 10_000 * SECOND + LONGEST_FACTOR * limit)
    assert ending.given_up() == {site}
    assert ending.deadline() is None
    ending.look({}, 20_000 * SECOND)
    assert not ending.given_up()


def test_a_site_that_is_slow_by_its_own_history_is_named_later() -> None:
    for pause, told_at in ((1, ALARM_AFTER), (40, 80 * SECOND), (4000, 300 * SECOND)):
        ending, site = Ending(300 * SECOND), SiteKey(b"s" * 32)
        ending.note({site: 1}, 0)
        ending.note({site: 2}, pause * SECOND)
        now = pause * SECOND
        assert ending.look({site: 2}, now) == []
        assert ending.deadline() == now + told_at
        assert ending.look({site: 2}, now + told_at - 1) == []
        assert [type(event) for event in ending.look({site: 2}, now + told_at)] != []


def test_sites_that_hold_the_run_up_by_turns_are_named_and_given_up() -> None:
    ending, sites = Ending(300 * SECOND), (SiteKey(b"s" * 32), SiteKey(b"t" * 32))
    told = []
    for now in range(0, 620 * SECOND, 10 * SECOND):
        told += ending.look({sites[now // (10 * SECOND) % 2]: 3}, now)
        if not ending.is_waiting():
            break
    assert {event.site for event in told if isinstance(event, RunHeldUp)} == set(sites)
    assert not ending.is_waiting()
    ending.look({}, 630 * SECOND)
    ending.look({sites[0]: 4}, 640 * SECOND)
    assert ending.is_waiting()


def test_a_site_that_publishes_beyond_its_limit_is_named_and_keeps_nobody_from_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = federation()
    liar = made.sites[LIAR].key
    monkeypatch.setattr(made.averaging(LIAR), "_limit", lambda published: None)
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    assert made.run(2 * SPENT_WAITED, until=lambda: bool(made.events(0, RunComplete)))
    (told,) = made.events(0, LimitExceeded)
    assert (told.site, told.most) == (liar, 6)  # type: ignore[attr-defined]
    before = made.averaging(0).vector[liar]
    made.run(62 * SECOND)
    assert made.averaging(0).vector[liar] > before + 10
    # Each of these has models made: ever more seldom.
    assert len(made.events(0, RunComplete)) <= 3


def test_who_has_published_all_that_it_may_is_waited_for_a_moment() -> None:
    ending, site = Ending(300 * SECOND), SiteKey(b"s" * 32)
    ending.note({site: 1}, 0)
    ending.note({site: 9}, 100 * SECOND)
    (told,) = [each for at in (100, 120) for each in ending.look({site: 9}, at * SECOND, {site})]
    assert told == RunHeldUp(site, 20 * SECOND, 10 * SECOND, spent=True)
    assert ending.is_waiting()
    assert ending.look({site: 9}, 130 * SECOND, {site}) == [RunNotAwaiting(site, given_up=True)]
    # Where more is allowed after all, it is waited for as long as others.
    ending.look({}, 131 * SECOND)
    ending.look({site: 9}, 132 * SECOND)
    assert ending.is_waiting()
