"""How fast an entry reaches everybody, and how many times its body moves: one author, everybody else listens."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from kmel_p2p.core.ledger.events import EntriesApplied, EntryPublished
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.links import Conditions

PERIOD: Micros = 200 * MILLISECOND
NEVER: Micros = 10**6 * SECOND


@dataclass(frozen=True, slots=True)
class SpreadFigures:
    """Per entry: rounds until the last site has it; per receiver: bodies sent to it."""

    rounds_mean: float
    rounds_max: float
    bodies_per_receiver: float
    entries: int


def measure_spread(sites: int, loss: float, seed: int, entries: int = 8, lazy: bool = True) -> SpreadFigures:
    """Publish `entries` entries at one of `sites` sites, one after another, and follow each to everybody.

    Latency is 15 to 25 ms each way, a round of lazy push 200 ms; `loss` holds for every message.
    """
    eager_bytes = 0 if lazy else 2**40
    exchange = AntiEntropySettings(eager_bytes=eager_bytes, spread_period_us=PERIOD)
    settings = LedgerSettings(hear_us=5 * SECOND, antientropy=exchange)
    world = toy_world(
        sites,
        {"entry_limit": entries},
        {"max_lead": 1000},
        settings=settings,
        conditions=Conditions(latency_us=15 * MILLISECOND, jitter_us=10 * MILLISECOND, loss=loss),
        step_us=lambda index: SECOND // 2 if index == 0 else NEVER,
    )
    federation = LedgerFederation(world, seed)
    federation.start_all()
    author = federation.sites[0].key

    def everywhere() -> bool:
        return all(federation.averaging(i).ledger.head(author) == entries for i in range(sites))

    if not federation.run(entries * 60 * SECOND, until=everywhere):
        raise AssertionError("an entry never reached everybody")
    published = {e.number: at for at, e in federation.sites[0].events if isinstance(e, EntryPublished)}
    rounds = [(_reached_all(federation, number) - at) / PERIOD for number, at in published.items()]
    bodies = sum(count for (to, _, _), count in federation.bodies_sent.items() if to != author)
    return SpreadFigures(statistics.mean(rounds), max(rounds), bodies / ((sites - 1) * entries), entries)


def _reached_all(federation: LedgerFederation, number: int) -> Micros:
    """When the last site applied the first site's entry `number`."""
    author = federation.sites[0].key
    moments = []
    for site in federation.sites[1:]:
        applied = (at for at, e in site.events if isinstance(e, EntriesApplied) and (author, number) in e.entries)
        moments.append(next(applied))
    return max(moments)
