"""What faults and hostile authors cost: one learning run with them, the same one without."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.delta import DeltaCodec
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.hostile import Hostile, HostileHost, Malice
from tests.testbed.ledger.learning import LAYOUT, PARAMETERS, LearningTrainer, learning_world
from tests.testbed.ledger.site import LedgerHost
from tests.testbed.network.links import Conditions

ROUND: Micros = 1 * SECOND
"""Of a site at full speed."""

FAULTY = Conditions(latency_us=50 * MILLISECOND, jitter_us=2 * ROUND, loss=0.3, reorder=0.3, reorder_us=ROUND)
"""30 % of all messages lost, delays of up to two rounds, messages overtaking each other."""

LONGEST: Micros = 2000 * SECOND


@dataclass(frozen=True, slots=True)
class RunFigures:
    """How a run ended."""

    complete: bool
    digests: int
    """Different ledger digests; 1 when all sites hold the same trunk."""
    score: float
    entries: int
    faults: int
    """Honest sites whose log was ended anywhere."""
    worst_gap: float
    """Largest difference between published plus residual and the sum of the drifts, over sites and values."""
    virtual_s: float


def run_learning(sites: int, seed: int, faults: bool, stragglers: int = 3) -> RunFigures:
    """Run a federation to its end.

    With `faults`: `FAULTY` links, one site that loses power and comes back, one that comes late, and `stragglers` three
    times slower (these also without).
    """
    world, task = learning_world(
        sites,
        seed,
        step_us=lambda index: (3 if index >= sites - stragglers else 1) * ROUND // 10,
        conditions=FAULTY if faults else Conditions(),
    )
    federation = LedgerFederation(world, seed)
    for index in range(sites):
        if not (faults and index == 0):
            federation.start(index)
    if faults:
        federation.run(15 * SECOND)
        federation.crash(1)
        federation.run(5 * SECOND)
        federation.start(0)
        federation.run(10 * SECOND)
        federation.start(1)
    complete = federation.run(LONGEST, until=federation.all_complete)
    return figures(federation, task.score(federation.averaging(0).trunk()), complete, range(sites))


def run_hostile(sites: int, seed: int, malice: Malice | None) -> RunFigures:
    """Run a federation whose last site is hostile (None: it takes no part); figures are of the others."""
    hostile = sites - 1

    def make_host(index: int, averaging: LedgerAveraging) -> LedgerHost:
        if index != hostile or malice is None:
            return LedgerHost(averaging)
        codec = DeltaCodec(LAYOUT, PARAMETERS)
        mind = Hostile(malice, world.identities[hostile], world.identities[0].key, codec, averaging.ledger)
        return HostileHost(averaging, mind)

    world, task = learning_world(sites, seed, step_us=lambda index: ROUND // 10, make_host=make_host)
    federation = LedgerFederation(world, seed)
    honest = list(range(sites - 1))
    for index in honest if malice is None else range(sites):
        federation.start(index)
    complete = federation.run(LONGEST, until=lambda: all(federation.averaging(i).complete for i in honest))
    return figures(federation, task.score(federation.averaging(0).trunk()), complete, honest)


def figures(federation: LedgerFederation, score: float, complete: bool, honest: range | list[int]) -> RunFigures:
    """Figures of a finished run over its honest sites."""
    keys = {federation.sites[index].key for index in honest}
    ledgers = [federation.averaging(index).ledger for index in honest]
    trainers = [federation.sites[index].trainer for index in honest]
    return RunFigures(
        complete=complete,
        digests=len({ledger.digest() for ledger in ledgers}),
        score=score,
        entries=sum(ledgers[0].vector.values()),
        faults=len({key for ledger in ledgers for key in ledger.faults} & keys),
        worst_gap=max(t.gap() for t in trainers if isinstance(t, LearningTrainer)),
        virtual_s=federation.network.now / SECOND,
    )
