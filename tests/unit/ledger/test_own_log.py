"""When a site may number its next entry: whom it heard of its own log, for how long it waits, what raises a doubt."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any, cast

from kmel_p2p.core.ledger.events import OwnLogDoubted
from kmel_p2p.core.ledger.own_log import IN_DOUBT, NOT_HEARD, NOT_HEARD_ANEW, OwnLog
from kmel_p2p.core.ledger.sync.statements import SHOWN_WITHIN, LogStatements
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.ledger.toy import toy_identities

OWN, ONE, OTHER = (identity.key for identity in toy_identities(3))
ROSTER = {OWN, ONE, OTHER}
HEAR_US: Micros = 600 * SECOND


class Toy:
    """A ledger with nothing but an own log, and what was stored."""

    def __init__(self, head: int) -> None:
        self.head = head
        accepted = SimpleNamespace(retired={})
        self.ledger = cast(Any, SimpleNamespace(own_log_in_doubt=False, head=lambda key: self.head, accepted=accepted))
        self.outbox: deque[Any] = deque()
        self.log = OwnLog(OWN, self.ledger, self.outbox, HEAR_US)

    def waits_for(self, signed: int = 0) -> tuple[Any, ...] | None:
        wait = self.log.wait(ROSTER, signed)
        return None if wait is None else wait.sites

    def stored(self) -> list[bool]:
        return [bool(each.record.doubted) for each in self.outbox]


def test_the_first_entry_waits_until_all_were_heard_and_later_ones_do_not() -> None:
    toy = Toy(head=4)
    assert toy.waits_for() == tuple(sorted((ONE, OTHER)))
    toy.log.note([ONE], 4, SECOND)
    assert toy.waits_for() == (OTHER,)
    toy.log.note([OTHER], 4, 2 * SECOND)
    assert toy.waits_for() is None
    toy.head = 5
    toy.log.published(5)
    toy.log.note([], 5, 3 * SECOND)
    assert toy.waits_for() is None
    assert toy.stored() == []


def test_the_limit_counts_from_the_first_that_was_heard() -> None:
    toy = Toy(head=4)
    toy.log.note([], 4, 2 * HEAR_US)
    wait = toy.log.wait(ROSTER, 4)
    assert wait is not None
    assert (wait.reason, wait.until_us, toy.log.deadline()) == (NOT_HEARD, None, None)
    toy.log.note([ONE], 4, 3 * HEAR_US)
    assert toy.log.deadline() == 4 * HEAR_US
    toy.log.note([], 4, 4 * HEAR_US - 1)
    assert toy.waits_for() == (OTHER,)
    toy.log.note([], 4, 4 * HEAR_US)
    assert toy.waits_for() is None
    assert toy.log.deadline() is None


def test_a_signed_header_beyond_the_log_is_a_doubt_without_a_limit() -> None:
    toy = Toy(head=4)
    toy.log.note([ONE], 7, SECOND)
    toy.log.note([], 7, 2 * HEAR_US)
    wait = toy.log.wait(ROSTER, 7)
    assert wait is not None
    assert (wait.reason, wait.until_us) == (IN_DOUBT, None)
    toy.log.note([OTHER], 7, 2 * HEAR_US)
    assert toy.waits_for(signed=7) == ()
    toy.head = 7
    assert toy.waits_for(signed=7) is None
    assert toy.stored() == [True, False]


def test_an_operator_ends_wait_and_doubt() -> None:
    toy = Toy(head=4)
    toy.log.trust()
    assert toy.waits_for() is None
    toy.head = 6
    toy.log.note([], 6, SECOND)
    assert toy.waits_for() == tuple(sorted((ONE, OTHER)))
    toy.log.trust()
    assert toy.waits_for() is None
    assert toy.stored() == [True, False]
    assert all(isinstance(each.record, OwnLogDoubted) for each in toy.outbox)


def test_who_says_more_than_it_has_shown_is_not_heard_until_its_time_is_over() -> None:
    ledger: Any = SimpleNamespace(head=lambda key: 4, accepted=SimpleNamespace(is_ended=lambda author, number: False))
    outbox: deque[Any] = deque()
    statements = LogStatements(OWN, cast(Any, ledger), outbox)
    statements.said(ONE, {OWN: 4}, 0)
    assert not statements.may_show(ONE, OWN)
    statements.said(ONE, {OWN: 9}, 0)
    assert statements.may_show(ONE, OWN)
    assert not statements.may_show(OTHER, OWN)
    now = 0
    while now < 2 * SHOWN_WITHIN:
        now += SECOND
        statements.advance([ONE], now)
    assert not statements.may_show(ONE, OWN)


def test_after_a_standstill_all_are_heard_anew() -> None:
    toy = Toy(head=4)
    toy.log.note([ONE, OTHER], 4, SECOND)
    assert toy.waits_for() is None
    toy.log.hear_anew()
    assert toy.log.asks
    wait = toy.log.wait(ROSTER, 4)
    assert wait is not None
    assert (wait.reason, wait.sites, wait.until_us) == (NOT_HEARD_ANEW, tuple(sorted((ONE, OTHER))), None)
    toy.log.note([ONE], 4, 700 * SECOND)
    assert toy.log.deadline() == 700 * SECOND + HEAR_US
    toy.log.note([OTHER], 4, 701 * SECOND)
    assert toy.waits_for() is None
    assert toy.stored() == []


def test_own_entries_that_come_in_while_it_publishes_are_those_of_a_copy_at_work() -> None:
    toy = Toy(head=4)
    assert not toy.log.note([ONE], 7, SECOND)  # not yet free to publish: its store was set back
    toy.head = 7
    assert not toy.log.note([OTHER], 7, 2 * SECOND)
    assert toy.waits_for(signed=7) is None
    toy.log.published(8)
    toy.head = 8
    assert not toy.log.note([], 8, 3 * SECOND)
    toy.head = 9
    assert toy.log.note([ONE, OTHER], 9, 4 * SECOND)
    toy.log.hear_anew()
    assert toy.waits_for(signed=9) == tuple(sorted((ONE, OTHER)))
    assert toy.stored() == [True, False, True]
