"""An entry to all sites by lazy push, in virtual time: `python benchmarks/spread.py [--sites 30] [--runs 10]`.

One site publishes, one entry at a time, the others listen; `AntiEntropy` runs as shipped on the virtual network with 15
to 25 ms latency each way and a round of telling every 200 ms. A site that has just received an entry begins to tell of
it at once, not at a common beat, so without loss a round can hold several hops.

  rounds_mean, rounds_p95     rounds from publishing until the last site has the entry
  bodies_per_receiver         times the body is sent to each site; 1 / (1 - loss) cannot be avoided
  lossy_*                     the same with 30 % of all messages lost
  author_share                part of all bodies that the author itself sends
  eager_*                     the author uploads to everybody, for comparison
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.parts.measure import Goal, at_most, parse, percentile, publish, this_machine
from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.events import EntriesApplied, EntryPublished
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions

PERIOD: Micros = 200 * MILLISECOND
PUBLISH_EVERY: Micros = 10 * SECOND
NEVER: Micros = 10**6 * SECOND
ENTRIES = 10
LOSS = 0.3
GOALS: dict[str, Goal] = {
    "rounds_mean": at_most(6.0),
    "bodies_per_receiver": at_most(1.0),
    "lossy_rounds_mean": at_most(10.0),
    "lossy_bodies_per_receiver": at_most(1.5),
}
SMOKE: dict[str, Any] = {"sites": 6, "runs": 1}


@dataclass(slots=True)
class Spread:
    """Entries of several runs. Rounds of telling by entry; bodies sent, by all and by the authors alone."""

    rounds: list[float] = field(default_factory=list)
    bodies: int = 0
    author_bodies: int = 0
    receivers: int = 0

    @property
    def bodies_per_receiver(self) -> float:
        return self.bodies / self.receivers


class Counter:
    """A watcher of the network: entries sent by each host."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[SiteKey, int], int] = {}

    def stepped(self, host: Host, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        if isinstance(effect, Send) and isinstance(effect.message, Bodies):
            for encoded in effect.message.entries:
                what = (host.key, decode(encoded).number)
                self.bodies[what] = self.bodies.get(what, 0) + 1


def spread(sites: int, loss: float, runs: int, entries: int = ENTRIES, lazy: bool = True) -> Spread:
    """`entries` entries of one site in each of `runs` runs, followed to every other site."""
    total = Spread()
    for seed in range(runs):
        _run(sites, loss, seed, entries, lazy, total)
    return total


def _run(sites: int, loss: float, seed: int, entries: int, lazy: bool, total: Spread) -> None:
    settings = AntiEntropySettings(eager_bytes=0 if lazy else 2**40, spread_period_us=PERIOD)
    world = toy_world(
        sites,
        # The last entry is left out: with it the author begins to listen, and says so to everybody.
        {"entry_limit": entries + 1},
        {"max_lead": 1000},
        settings=LedgerSettings(antientropy=settings),
        conditions=Conditions(latency_us=15 * MILLISECOND, jitter_us=10 * MILLISECOND, loss=loss),
        step_us=lambda index: PUBLISH_EVERY // 10 if index == 0 else NEVER,
    )
    federation = LedgerFederation(world, seed)
    counter = Counter()
    federation.network.watchers.append(counter)
    federation.start_all()
    author = federation.sites[0].key

    def everywhere() -> bool:
        return all(federation.averaging(i).ledger.head(author) >= entries for i in range(sites))

    if not federation.run(entries * 60 * SECOND, until=everywhere):
        raise SystemExit("an entry never reached everybody")
    published = {e.number: at for at, e in federation.sites[0].events if isinstance(e, EntryPublished)}
    total.rounds += [
        (_reached_all(federation, number) - published[number]) / PERIOD for number in range(1, entries + 1)
    ]
    total.bodies += sum(count for (_, number), count in counter.bodies.items() if number <= entries)
    total.author_bodies += sum(n for (key, number), n in counter.bodies.items() if key == author and number <= entries)
    total.receivers += entries * (sites - 1)


def _reached_all(federation: LedgerFederation, number: int) -> Micros:
    """When the last site applied the first site's entry `number`."""
    what = (federation.sites[0].key, number)
    applied = (
        next(at for at, e in site.events if isinstance(e, EntriesApplied) and what in e.entries)
        for site in federation.sites[1:]
    )
    return max(applied)


def measure(sites: int, runs: int) -> dict[str, float]:
    """All figures."""
    began = time.process_time()
    figures: dict[str, float] = {"sites": sites, "entries": runs * ENTRIES}
    cases = {
        "": spread(sites, 0.0, runs),
        "lossy_": spread(sites, LOSS, runs),
        "eager_": spread(sites, 0.0, 1, lazy=False),
    }
    for name, case in cases.items():
        figures[f"{name}rounds_mean"] = statistics.mean(case.rounds)
        figures[f"{name}rounds_p95"] = percentile(case.rounds, 0.95)
        figures[f"{name}bodies_per_receiver"] = case.bodies_per_receiver
        figures[f"{name}author_share"] = case.author_bodies / case.bodies
    figures["lossy_bodies_bound"] = 1 / (1 - LOSS)
    figures["processor_s"] = time.process_time() - began
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=30)
    parser.add_argument("--runs", type=int, default=10, help=f"runs of {ENTRIES} entries each")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    figures = measure(options.sites, options.runs)
    publish(f"one entry to {options.sites} sites", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
