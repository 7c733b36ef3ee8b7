"""Newcomers train on what the others have made, however many of them come at once."""

from __future__ import annotations

from kmel_p2p.core.rounds import RoundOpened
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.links import Conditions

FIRST, COMING, MADE = 4, 10, 24
SLOW = Conditions(latency_us=20 * MILLISECOND, bits_per_second=500_000)


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
