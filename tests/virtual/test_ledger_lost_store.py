"""A site that lost its store, or got an old one back, never signs a number twice, whoever is away."""

from __future__ import annotations

import copy
from itertools import takewhile

import pytest

from kmel_p2p.core.ledger.own_log import IN_DOUBT, NOT_HEARD
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.rounds import Begin
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world

LOSER, INFORMED, LIMIT = 0, 3, 40
PATIENT = LedgerSettings()


def parted(seed: int) -> tuple[LedgerFederation, object]:
    """Four sites; the newest entries of one reach only a second one, which then goes away. Also an old disk."""
    made = LedgerFederation(toy_world(4, {"entry_limit": LIMIT}, {"max_lead": 100}, settings=PATIENT), seed)
    made.start_all()
    key = made.sites[LOSER].key
    assert made.run(60 * SECOND, until=lambda: made.averaging(1).ledger.head(key) >= 5)
    backup = copy.deepcopy(made.sites[LOSER].disk)
    made.partition([LOSER, INFORMED], [1, 2])
    others = made.averaging(1).ledger.head(key)
    assert made.run(60 * SECOND, until=lambda: made.averaging(INFORMED).ledger.head(key) >= others + 8)
    made.crash(LOSER)
    made.crash(INFORMED)
    made.heal([LOSER, INFORMED], [1, 2])
    return made, backup


@pytest.mark.parametrize("store", ["empty", "old"])
def test_nothing_is_published_before_the_site_is_heard_that_knows_more(store: str) -> None:
    made, backup = parted(seed=21)
    site = made.sites[LOSER]
    if store == "empty":
        site.disk.lost()
    else:
        site.disk = backup  # type: ignore[assignment]
        site.disk.crashed(made.network.now)
        # What `site.state.instance` notices at the start.
        site.disk.own_log_in_doubt = True
    made.start(LOSER)
    made.run(60 * SECOND)
    known = made.averaging(1).ledger.head(site.key)
    assert known < made.sites[INFORMED].disk.numbers_of(site.key)[-1]
    assert made.averaging(LOSER).ledger.head(site.key) == known
    assert made.averaging(LOSER).waiting == IN_DOUBT
    assert [wait.sites for wait in made.averaging(LOSER).waits] == [(made.sites[INFORMED].key,)]
    assert made.averaging(LOSER).waits[0].until_begin
    made.crash(LOSER)
    made.run(5 * SECOND)
    made.start(LOSER)
    made.run(60 * SECOND)
    assert made.averaging(LOSER).ledger.head(site.key) == known
    made.start(INFORMED)
    assert made.run(300 * SECOND, until=made.all_complete)
    assert not any(made.averaging(index).ledger.faults for index in range(4))
    assert [made.averaging(1).ledger.head(each.key) for each in made.sites] == [LIMIT] * 4
    assert len(made.digests()) == 1


def test_the_operator_may_publish_without_hearing_everybody() -> None:
    made, _ = parted(seed=22)
    site = made.sites[LOSER]
    site.disk.lost()
    made.start(LOSER)
    made.run(30 * SECOND)
    known = made.averaging(1).ledger.head(site.key)
    made.network.command(made.host(LOSER), Begin("the other one is gone for good"))
    assert made.run(60 * SECOND, until=lambda: made.averaging(1).ledger.head(site.key) > known)


def imaged(seed: int) -> LedgerFederation:
    """As `parted`, but nobody in sight knows more than the disk that comes back, and nothing tells that it is old."""
    made = LedgerFederation(toy_world(4, {"entry_limit": LIMIT}, {"max_lead": 100}, settings=PATIENT), seed)
    made.start_all()
    site = made.sites[LOSER]
    assert made.run(60 * SECOND, until=lambda: made.averaging(1).ledger.head(site.key) >= 5)
    made.partition([LOSER, INFORMED], [1, 2])
    made.run(5 * SECOND)
    known = made.averaging(1).ledger.head(site.key)
    image = copy.deepcopy(site.disk)
    image.settle(made.network.now)
    # All that was stored before the first entry that 1 and 2 lack, in its order.
    image.entries = dict(takewhile(lambda item: item[0] != (site.key, known + 1), image.entries.items()))
    assert made.averaging(INFORMED).ledger.head(site.key) >= known + 3
    made.crash(LOSER)
    made.crash(INFORMED)
    made.heal([LOSER, INFORMED], [1, 2])
    image.crashed(made.network.now)
    site.disk = image
    return made


def test_a_site_that_starts_from_an_image_waits_for_who_is_away() -> None:
    made = imaged(seed=23)
    key, informed = made.sites[LOSER].key, made.sites[INFORMED].key
    made.start(LOSER)
    made.run(60 * SECOND)
    known = made.averaging(1).ledger.head(key)
    assert made.averaging(LOSER).ledger.head(key) == known
    (wait,) = made.averaging(LOSER).waits
    assert (wait.reason, wait.sites, wait.until_begin) == (NOT_HEARD, (informed,), True)
    assert wait.until_us is not None
    made.start(INFORMED)
    assert made.run(300 * SECOND, until=made.all_complete)
    assert not any(made.averaging(index).ledger.faults for index in range(4))
    assert {made.averaging(1).ledger.head(each.key) for each in made.sites} == {LIMIT}
    assert len(made.digests()) == 1


def test_who_stays_away_is_waited_for_only_so_long() -> None:
    made = imaged(seed=24)
    key = made.sites[LOSER].key
    made.start(LOSER)
    made.run(60 * SECOND)
    known, until_us = made.averaging(1).ledger.head(key), made.averaging(LOSER).waits[0].until_us
    assert until_us is not None
    made.network.run_until(until_us - SECOND)
    assert made.averaging(1).ledger.head(key) == known
    assert made.run(5 * SECOND, until=lambda: made.averaging(1).ledger.head(key) > known)


def test_a_site_alone_waits_until_it_hears_somebody() -> None:
    made = imaged(seed=25)
    key = made.sites[LOSER].key
    known = made.averaging(1).ledger.head(key)
    made.partition([LOSER], [1, 2])
    made.start(LOSER)
    made.run(3 * PATIENT.hear_us, step=60 * SECOND)
    assert made.averaging(LOSER).ledger.head(key) == known
    assert made.averaging(LOSER).waits[0].until_us is None
