"""Newcomers train on what the others have made, however many of them come at once."""

from __future__ import annotations

from kmel_p2p.core.rounds import RoundOpened
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.links import Conditions

FIRST, COMING, MADE = 4, 10, 24
SLOW = Conditions(latency_us=20 * MILLISECOND, bits_per_second=500_000)


def test_a_site_that_was_away_is_seen_to_be_behind_until_it_has_caught_up() -> None:
    made = LedgerFederation(toy_world(3, {"entry_limit": 12}, step_us=lambda index: SECOND // 5), seed=3)
    made.start_all()
    averaging, away = made.averaging(0), made.sites[2].key
    assert averaging.antientropy.lacking(away) is None
    assert made.run(60 * SECOND, until=lambda: averaging.ledger.head(away) >= 2)
    held = sum(averaging.ledger.vector.values())
    made.partition([2], range(3))
    assert made.run(60 * SECOND, until=lambda: sum(averaging.ledger.vector.values()) >= held + 6)
    assert averaging.antientropy.lacking(away) is None, "what it said before it went says nothing of it now"
    made.heal([2], range(3))
    assert made.run(10 * SECOND, until=lambda: (averaging.antientropy.lacking(away) or 0) >= 6, step=MILLISECOND)
    assert made.run(60 * SECOND, until=made.all_complete)
    assert made.run(10 * SECOND, until=lambda: averaging.antientropy.lacking(away) == 0)


def test_many_newcomers_train_only_when_most_entries_are_there() -> None:
    """What each lacks of an author counts, not what it lacks in all beside the many that say they train."""
    world = toy_world(
        FIRST + COMING,
        {"entry_limit": 60},
        {"start_sites": FIRST},
        padding=8_000,
        conditions=SLOW,
        step_us=lambda index: SECOND // 5,
    )
    made = LedgerFederation(world, seed=8)
    for index in range(FIRST):
        made.start(index)
    keys = [site.key for site in made.sites[:FIRST]]
    ledger = made.averaging(0).ledger
    assert made.run(200 * SECOND, until=lambda: all(ledger.head(key) >= MADE for key in keys))
    for index in range(FIRST, FIRST + COMING):
        made.start(index)
    held: dict[int, int] = {}

    def all_train() -> bool:
        for index in range(FIRST, FIRST + COMING):
            if index not in held and made.events(index, RoundOpened):
                held[index] = sum(made.averaging(index).ledger.head(key) for key in keys)
        return len(held) == COMING

    assert made.run(120 * SECOND, until=all_train, step=50 * MILLISECOND)
    assert min(held.values()) >= FIRST * MADE // 2
