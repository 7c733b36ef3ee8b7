"""A federation in one process with bad sites in it: bounds on norms, looks at contributions, votes and suspension.

Sites train as in `inprocess`; norms are bounded by the ledger's rule, looks are judged by the ledger's
(`core.ledger.harm`), beside what the author's entries were worth along the way, and votes suspend by its quorum. Rounds
are in step, and a vote reaches everybody at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.inprocess import site_weights
from benchmarks.parts.weighing import Weighing, key_of
from kmel_p2p.core.ledger.harm.judgement import LOOKS, TOLD_AFTER, Judgement
from kmel_p2p.core.ledger.harm.panel import ALONE_BELOW, TOLD_OF
from kmel_p2p.core.ledger.harm.parts import windows
from kmel_p2p.core.ledger.harm.suspensions import votes_needed
from kmel_p2p.core.ledger.harm.turning import TURNED, Turning
from kmel_p2p.core.rounds.looks import EndpointLook, Look
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.effect import EffectMeter, looked_at
from kmel_p2p.learn.evaluate.worth import WorthMeter
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.site.trainer.contributions import AT_LEAST_S

Vector = NDArray[np.float64]

EARLY = 12
"""Entries after each of which sites look; the daemon does so as long as its advance lasts (`site.trainer.looks`)."""


@dataclass(frozen=True)
class Situation:
    """What a bad site knows when it makes an entry.

    Attributes:
        number: of the entry, from 1.
        own: the delta that it would honestly send, float64[d].
        others: the newest deltas of the other sites.
        bound: largest norm that stands.
        seed: the site's.
    """

    number: int
    own: Vector
    others: Sequence[Vector]
    bound: float
    seed: int


Attack = Callable[[Situation], Vector]
"""The delta that a bad site sends; it is encoded within the bound as any other."""


@dataclass(frozen=True)
class Bounds:
    """The charter's.

    Attributes:
        cap: largest norm in medians of the others' newest ones.
        first: bound for first entries, in `learning rate * steps * sqrt(values sent)`; infinite: none.
        weight_cap: in equal shares.
    """

    cap: float = 1.5
    first: float = 1.0
    weight_cap: float = 1.25


@dataclass
class Poisoned:
    """What became of a run.

    Attributes:
        alarms: site -> entries it had published when another site first found harm in what it gave.
        suspended: site -> entries it had published when it was suspended.
        norms: of every entry, by site.
        look_s, weigh_s, train_s: processor seconds of looks, of measuring worth, and of training.
    """

    trunk: NDArray[np.float32]
    rounds: list[Rounds]
    added: list[Vector]
    alarms: dict[int, int] = field(default_factory=dict)
    suspended: dict[int, int] = field(default_factory=dict)
    norms: list[list[float]] = field(default_factory=list)
    look_s: float = 0.0
    weigh_s: float = 0.0
    train_s: float = 0.0

    def parameters(self, site: int) -> Parameters:
        """The federated model of one site."""
        return Parameters(self.trunk.copy(), self.rounds[site].private())

    def others(self, site: int) -> NDArray[np.float32]:
        """The final trunk without that site's own entries, float32[d]."""
        return (self.trunk - self.added[site]).astype(np.float32)


def poisoned(
    architecture: Architecture,
    datasets: Sequence[Dataset],
    settings: Sequence[TrainingSettings],
    folder: Path,
    *,
    attacks: Mapping[int, Attack] | None = None,
    bounds: Bounds | None = None,
    vote: bool = True,
    model_seed: int = 0,
    look_every: int = 3,
) -> Poisoned:
    """Train together, `settings[0].entry_limit` entries each, beside bad sites.

    Args:
        attacks: of the bad sites, by number; a bad site's dataset may be spoilt already.
        vote: whether sites look and vote; False shows what bounds alone do.
        look_every: entries between looks after the first `EARLY` ones.
    """
    attacks, bounds = attacks or {}, bounds or Bounds()
    layout = trunk_layout(architecture)
    codec = DeltaCodec(layout, CodecParameters(chunk=4096, kept=64, bits=2))
    trunk = initial_trunk(layout, model_seed)
    meters, judges, weighings, rounds = [], [], [], []
    for at, (dataset, setting) in enumerate(zip(datasets, settings, strict=True)):
        network = Network(architecture)
        start_local(network, architecture, model_seed, setting.seed)
        rounds.append(Rounds(network, dataset, layout, codec, setting, folder / f"site-{at}"))
        look = looked_at(dataset, setting.seed)
        meters.append(EffectMeter(look, network))
        judges.append(Judgement())
        weighings.append(Weighing(WorthMeter(look, Network(architecture), setting.seed), AT_LEAST_S))
    count = len(datasets)
    needed = votes_needed(count - 1, "majority") if vote else 0
    shares = site_weights(layout, datasets, bounds.weight_cap)
    sent = sum(min(64, size) for size in _chunk_sizes(layout.size))
    first = bounds.first * settings[0].learning_rate * settings[0].steps_per_entry * sent**0.5
    run = Poisoned(trunk, rounds, [np.zeros(layout.size) for _ in datasets], norms=[[] for _ in datasets])
    newest: list[Vector | None] = [None for _ in datasets]
    log: list[list[NDArray[np.float32]]] = [[] for _ in datasets]
    votes: dict[int, dict[int, int]] = {at: {} for at in range(count)}
    steps: list[dict[int, NDArray[np.float32]]] = []
    trunks, weights = [trunk], {at: float(share.mean()) for at, share in enumerate(shares)}
    for entry in range(1, settings[0].entry_limit + 1):
        total = np.zeros(layout.size)
        made: list[Vector] = []
        for at in range(count):
            norms = sorted(run.norms[other][-1] for other in range(count) if other != at and run.norms[other])
            bound = bounds.cap * norms[len(norms) // 2] if norms else first
            began = time.process_time()
            result = rounds[at].train(entry, settings[at].steps_per_entry, bound, run.trunk, lambda progress: None)
            rounds[at].commit(entry)
            took = time.process_time() - began
            run.train_s += took
            weighings[at].pace.trained(took)
            change = codec.decode(result.payload).dense(layout.size).astype(np.float64)
            if at in attacks:
                others = [d for other, d in enumerate(newest) if d is not None and other not in attacks]
                wanted = attacks[at](Situation(entry, change, others, bound, settings[at].seed))
                payload = codec.encode(np.ascontiguousarray(wanted, np.float32), bound)
                change = codec.decode(payload).dense(layout.size).astype(np.float64)
            made.append(change)
        for at, change in enumerate(made):
            run.norms[at].append(float(np.linalg.norm(change)))
            newest[at] = change
            log[at].append((shares[at] * change).astype(np.float32))
            run.added[at] += shares[at] * change
            if at not in run.suspended:
                total += shares[at] * change
        run.trunk = (run.trunk + total).astype(np.float32)
        steps.append({at: log[at][-1] for at in range(count)})
        trunks.append(run.trunk)
        for at in range(count) if needed else ():
            weighings[at].weigh(rounds[at].private(), entry, steps, trunks, weights)
        if needed and entry >= 2 and (entry <= EARLY or entry % look_every == 0):
            began = time.process_time()
            _look(run, entry, meters, judges, weighings, log, votes, set(attacks))
            run.look_s += time.process_time() - began
            for author, against in votes.items():
                if author not in run.suspended and len(against) >= needed:
                    run.suspended[author] = entry
                    since = sorted(against.values())[needed - 1]
                    part = run.added[author] if since == 1 else np.sum(log[author][since - 1 :], axis=0)
                    run.trunk = (run.trunk - part).astype(np.float32)
    run.weigh_s = sum(weighing.pace.spent_s for weighing in weighings)
    return run


def _look(
    run: Poisoned,
    entry: int,
    meters: Sequence[EffectMeter],
    judges: Sequence[Judgement],
    weighings: Sequence[Weighing],
    log: Sequence[Sequence[NDArray[np.float32]]],
    votes: dict[int, dict[int, int]],
    bad: set[int],
) -> None:
    """Every honest site looks at every other author that still counts."""
    count = len(meters)
    turned = [_cosine(entries) < TURNED for entries in log]
    for voter in range(count):
        if voter in bad:
            continue
        whole = meters[voter].losses(run.trunk)
        others = [at for at in range(count) if at != voter and at not in run.suspended]
        findings = {}
        for author in others:
            firsts = {1: run.added[author]}
            for first in windows(1, entry)[1:]:
                firsts[first] = np.sum(log[author][first - 1 :], axis=0)
            looks, key, book = {}, key_of(author), weighings[voter].book
            since = book.declining_since(key, 1) if turned[author] else None
            for first, part in firsts.items():
                effects = meters[voter].effects(whole, (run.trunk - part).astype(np.float32))
                parts = {p: EndpointLook(e.compounds, e.loss, e.without, e.error) for p, e in effects.items()}
                looks[first] = Look(key, first, entry, parts, book.raised_loss(key), book.spoilt(key), since)
            findings[author] = judges[voter].weigh(looks)
        odd = judges[voter].is_odd([key_of(at) for at in others])
        for author, found in findings.items():
            believed = found.turned or not odd
            if found.harmful >= LOOKS and believed:
                votes[author].setdefault(voter, found.look.first)
            elif not believed or judges[voter].quiet(key_of(author)) >= LOOKS:
                votes[author].pop(voter, None)
            joined = found.turned or count - 1 < ALONE_BELOW or votes[author].keys() - {voter}
            if (found.harmful >= TOLD_AFTER and believed and joined) or len(votes[author]) >= TOLD_OF:
                run.alarms.setdefault(author, entry)


def _cosine(entries: Sequence[NDArray[np.float32]]) -> float:
    """Of an author's newest entries with those before."""
    turning = Turning(len(entries[-1]), len(entries))
    for entry in reversed(entries):
        positions = np.flatnonzero(entry)
        turning.add(positions, entry[positions])
    return turning.cosine


def _chunk_sizes(size: int) -> list[int]:
    return [min(4096, size - start) for start in range(0, size, 4096)]
