"""Bytes a peer sends until the sites' models reach a score: our two averaging modes beside published schemes.

    python benchmarks/bytes_to_score.py [--seeds 2] [--rounds 60] [--target 0.84]

One task (`federated_task`), 12 sites, the same trainers for everyone, synchronous rounds of 20 steps. The score is the
mean over sites of the AUROC of each site's own model on a common test set. Ours are the shipped parts: real signed
entries with their headers, each sent to 11 others; real shares with a message's overhead. The others are counted at
their best: float32 without any overhead, ring all-reduce, one tensor per exchange, ideally coded positions for CHOCO.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.parts.federated_task import SIZES, Matrix, Trainer, auroc, make_layout, make_task, predict
from benchmarks.parts.measure import at_least, parse, publish, this_machine
from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.weights import shares, weight_cap
from kmel_p2p.core.pushsum.messages import SCHEMAS, MassTransfer
from kmel_p2p.core.pushsum.rules import PushSumRules, size_weight
from kmel_p2p.core.pushsum.share import Bits, decode, encode
from kmel_p2p.core.pushsum.state import Minted, PushSumState
from kmel_p2p.core.pushsum.transfers import LEAST_SHIFT
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.core.rounds import RoundTrained
from kmel_p2p.core.wire import Wire
from kmel_p2p.delta import CodecParameters, DeltaCodec, initial_trunk

N = len(SIZES)
STEPS = 20
EVALUATE_EVERY = 2
GOALS = {"ratio": at_least(10.0)}
SMOKE: dict[str, Any] = {"seeds": 1, "rounds": 1}
CHARTER_ID = b"b" * 32
CLASSES = [size.bit_length() for size in SIZES]
FRACTIONS = np.array(SIZES, np.float32) / np.float32(sum(SIZES))
LAYOUT = make_layout()
D = LAYOUT.size
ROSTER = frozenset(SiteKey(bytes([n]) * 32) for n in range(N))
RULES = PushSumRules(CHARTER_ID, ROSTER, 1, PushSumRule(entry_limit=60, steps_per_entry=STEPS), PaceRule())


@dataclass
class Curve:
    """Score by round and bytes per peer by round of one run."""

    rounds: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)

    def bytes_to(self, target: float) -> float | None:
        """Bytes a peer has sent when the score first reaches `target`, interpolated between evaluations."""
        for n, score in enumerate(self.scores):
            if score >= target:
                if n == 0:
                    return self.sent[0]
                part = (target - self.scores[n - 1]) / (score - self.scores[n - 1])
                return self.sent[n - 1] + part * (self.sent[n] - self.sent[n - 1])
        return None


class Scheme:
    """Keeps the sites' models. `round` trains and exchanges once and returns the mean bytes sent per peer."""

    def __init__(self, seed: int) -> None:
        self.task = make_task(seed)
        self.rng = np.random.default_rng([seed, 1])
        self.trainers = [Trainer(s, LAYOUT, np.random.default_rng([seed, 2, n])) for n, s in enumerate(self.task.sites)]
        self.base = initial_trunk(LAYOUT, seed)

    def models(self) -> list[Matrix]:
        """Each site's model; one for all where they are equal."""
        raise NotImplementedError

    def round(self) -> float:
        raise NotImplementedError

    def finish(self) -> float:
        """What a scheme does after its last round; returns the mean bytes sent per peer."""
        return 0.0

    def drifts(self, models: list[Matrix]) -> list[Matrix]:
        """What local training makes of each model."""
        return [trainer.train(model, STEPS) for trainer, model in zip(self.trainers, models, strict=True)]

    def score(self) -> float:
        """Mean over the sites' models."""
        test = self.task.test
        return float(np.mean([auroc(predict(LAYOUT.split(m), test.inputs), test.labels) for m in self.models()]))


class LedgerMode(Scheme):
    """Ours: every site's compressed delta to every other site."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.codec = DeltaCodec(LAYOUT, CodecParameters(4096, 64, 2))
        identities = [Identity(bytes([n + 1]) * 32) for n in range(N)]
        rules = Rules(
            charter_id=CHARTER_ID,
            roster=RosterOrder(sorted(i.key for i in identities)),
            codec_id=self.codec.codec_id,
            weight_cap=weight_cap(N, 2.0),
            norm_cap=4.0,
            first_norm_squared=2**60,
        )
        # One ledger stands for all: in synchronous rounds without loss they are equal to the last bit.
        self.ledger = Ledger(Accumulator.from_trunk(self.base), self.codec, rules)
        self.residuals = [np.zeros(D, np.float32) for _ in range(N)]
        self.outbox: deque[Effect] = deque()
        self.publishers = [Publisher(identity, self.ledger, self.outbox) for identity in identities]
        classes = {identity.key: c for identity, c in zip(identities, CLASSES, strict=True)}
        given = shares(classes, rules.weight_cap)
        self.shares = [given[identity.key] for identity in identities]

    def models(self) -> list[Matrix]:
        return [self.ledger.accumulator.trunk()]

    def round(self) -> float:
        opened = [publisher.open(share) for publisher, share in zip(self.publishers, self.shares, strict=True)]
        sent = 0
        for n, drift in enumerate(self.drifts(self.models() * N)):
            self.residuals[n] += drift
            number, norm_bound = opened[n]
            payload = self.codec.encode(self.residuals[n], norm_bound)
            self.publishers[n].store(RoundTrained(number, payload, STEPS, 1, ""))
        tickets = [effect for effect in self.outbox if isinstance(effect, Persist)]
        self.outbox.clear()
        for publisher, stored in zip(self.publishers, tickets, strict=True):
            entry = publisher.persisted(stored.ticket or 0)
            if entry is None or self.ledger.offer(entry).verdict is not Verdict.APPLIED:
                raise RuntimeError("an entry was not applied")
            sent += len(entry.encode())
        self.outbox.clear()
        return (N - 1) * sent / N


class PushSumMode(Scheme):
    """Ours: a quantised share to one random site per round, some finer ones after the last."""

    def __init__(self, seed: int, bits: Bits) -> None:
        super().__init__(seed)
        self.bits = bits
        self.states = [PushSumState.fresh(self.base, bytes([n]) * 8) for n in range(N)]
        for n, state in enumerate(self.states):
            state.apply(Minted(size_weight(CLASSES[n], CLASSES[:n] + CLASSES[n + 1 :], 2.0)))
        self.wire = Wire(CHARTER_ID, SCHEMAS)

    def models(self) -> list[Matrix]:
        return [state.holding.trunk() for state in self.states]

    def round(self) -> float:
        for state, drift in zip(self.states, self.drifts(self.models()), strict=True):
            state.trained(drift, RULES.averaging.momentum, RULES.averaging.outer_step)
        return self._exchange(self.bits)

    def finish(self) -> float:
        return sum(self._exchange(RULES.last_bits) for _ in range(RULES.last_exchanges))

    def _exchange(self, bits: Bits) -> float:
        """Everybody sends to one other site; all that is sent in a round arrives in it."""
        sent, shares = 0, []
        for n, state in enumerate(self.states):
            to = (n + 1 + int(self.rng.integers(N - 1))) % N
            mass = state.holding.mass * self.states[to].weight // (state.weight + self.states[to].weight)
            if state.holding.mass - mass < state.weight >> LEAST_SHIFT:
                continue
            payload, sums = encode(state.holding, mass, bits, int(self.rng.integers(2**63)))
            state.holding.take(sums, mass)
            shares.append((to, mass, payload))
            sent += len(self.wire.encode(MassTransfer(1, bytes(8), bytes(8), mass, 1, True, payload)))
        for to, mass, payload in shares:
            self.states[to].holding.put(decode(payload, D), mass)
        return sent / N


class AllReduce(Scheme):
    """Dense FedAvg, weighted by size: everybody gets the exact mean (ring all-reduce)."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.model = self.base

    def models(self) -> list[Matrix]:
        return [self.model]

    def round(self) -> float:
        drifts = self.drifts([self.model] * N)
        self.model = self.model + sum(w * drift for w, drift in zip(FRACTIONS, drifts, strict=True))
        return 2 * (N - 1) / N * 4 * D


class PairGossip(Scheme):
    """Dense averaging with a random partner per round, weighted by size."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.own = [self.base] * N

    def models(self) -> list[Matrix]:
        return self.own

    def round(self) -> float:
        after = [m + drift for m, drift in zip(self.own, self.drifts(self.own), strict=True)]
        for i, j in self.rng.permutation(N).reshape(-1, 2):
            part = FRACTIONS[j] / (FRACTIONS[i] + FRACTIONS[j])
            after[i] = after[j] = after[i] + part * (after[j] - after[i])
        self.own = after
        return 4.0 * D


class NoLoCo(PairGossip):
    """NoLoCo (2506.10911) with momentum 0.5 and both steps 0.7, which lets one tensor be sent instead of two."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.velocity = [np.zeros(D, np.float32) for _ in range(N)]

    def round(self) -> float:
        after = [m + drift for m, drift in zip(self.own, self.drifts(self.own), strict=True)]
        own = list(self.own)
        for i, j in self.rng.permutation(N).reshape(-1, 2):
            part = FRACTIONS[j] / (FRACTIONS[i] + FRACTIONS[j])
            mean = after[i] + part * (after[j] - after[i])
            for k in (i, j):
                self.velocity[k] = 0.5 * self.velocity[k] + 0.7 * (mean - own[k])
                own[k] = own[k] + self.velocity[k]
        self.own = own
        return 4.0 * D


class ChocoRing(PairGossip):
    """CHOCO-SGD (1907.09356) on a ring: top-k of the difference to a public copy, as float16, to both neighbours."""

    def __init__(self, seed: int, fraction: float, consensus_step: float) -> None:
        super().__init__(seed)
        self.kept, self.consensus_step = int(fraction * D), consensus_step
        # The best known coding of a position among all of them: its entropy.
        self.position_bits = np.log2(1 / fraction) + 1.44
        self.public = [self.base.copy() for _ in range(N)]

    def round(self) -> float:
        after = [m + drift for m, drift in zip(self.own, self.drifts(self.own), strict=True)]
        for model, copy in zip(after, self.public, strict=True):
            difference = model - copy
            top = np.argpartition(np.abs(difference), D - self.kept)[D - self.kept :]
            copy[top] += difference[top].astype(np.float16).astype(np.float32)
        third = np.float32(self.consensus_step / 3)
        self.own = [
            model + third * (self.public[n - 1] + self.public[(n + 1) % N] - 2 * self.public[n])
            for n, model in enumerate(after)
        ]
        return 2 * self.kept * (16 + self.position_bits) / 8


OURS = "ledger"
PUSHSUM: dict[str, Callable[[int], Scheme]] = {
    "pushsum, 8 bits": lambda seed: PushSumMode(seed, 8),
    "pushsum, 4 bits": lambda seed: PushSumMode(seed, 4),
}
OTHERS: dict[str, Callable[[int], Scheme]] = {
    "FedAvg all-reduce": AllReduce,
    "random-pair gossip": PairGossip,
    "NoLoCo (0.5, 0.7, 0.7)": NoLoCo,
    "CHOCO ring, top 1.56 %": lambda seed: ChocoRing(seed, 1 / 64, 0.2),
    "CHOCO ring, top 10 %": lambda seed: ChocoRing(seed, 0.1, 0.3),
}


def run(make: Callable[[int], Scheme], seed: int, rounds: int, tick: Callable[[], None]) -> Curve:
    """One scheme from the initial trunk; the last score is that after `finish`."""
    scheme, curve, sent = make(seed), Curve(), 0.0
    for turn in range(1, rounds + 1):
        sent += scheme.round()
        if turn == rounds:
            sent += scheme.finish()
        if turn % EVALUATE_EVERY == 0 or turn == rounds:
            curve.rounds.append(turn)
            curve.scores.append(scheme.score())
            curve.sent.append(sent)
        tick()
    return curve


def mean_bytes(curves: list[Curve], target: float) -> float | None:
    """Mean over seeds; None when a scheme misses the target with one of them."""
    spent = [curve.bytes_to(target) for curve in curves]
    reached = [amount for amount in spent if amount is not None]
    return float(np.mean(reached)) if len(reached) == len(spent) else None


def measure(seeds: int, rounds: int, target: float) -> dict[str, Any]:
    """All schemes over all seeds; see `main` for the keys."""
    schemes: dict[str, Callable[[int], Scheme]] = {OURS: LedgerMode, **PUSHSUM, **OTHERS}
    rows: dict[str, dict[str, float | None]] = {}
    ladder: dict[float, dict[str, float | None]] = {round(target + 0.01 * n, 3): {} for n in range(-4, 4)}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(schemes) * seeds * rounds)
        for name, make in schemes.items():
            progress.update(task, description=name)
            curves = [run(make, seed, rounds, lambda: progress.advance(task)) for seed in range(seeds)]
            for step in ladder:
                ladder[step][name] = mean_bytes(curves, step)
            rows[name] = {
                "bytes": mean_bytes(curves, target),
                # Up to the last evaluation but one, if there is one: the last includes what follows the rounds.
                "bytes_per_round": float(np.mean([c.sent[-2:][0] / c.rounds[-2:][0] for c in curves])),
                "bytes_in_all": float(np.mean([c.sent[-1] for c in curves])),
                "final": float(np.mean([c.scores[-1] for c in curves])),
                "best": float(np.mean([max(c.scores) for c in curves])),
            }
    others = {name: rows[name]["bytes"] for name in OTHERS}
    best = min((b for b in others.values() if b is not None), default=None)
    own = rows[OURS]["bytes"]
    return {
        "ledger": own,
        "others": others,
        "ratio": best / own if best is not None and own is not None else None,
        "final_scores": {name: row["final"] for name, row in rows.items()},
        "best_scores": {name: row["best"] for name, row in rows.items()},
        "pushsum": {name: rows[name]["bytes"] for name in PUSHSUM},
        "bytes_in_all": {name: row["bytes_in_all"] for name, row in rows.items()},
        "bytes_per_round": {name: row["bytes_per_round"] for name, row in rows.items()},
        "by_target": ladder,
        "target": target,
        "rounds": rounds,
        "seeds": seeds,
        "values": D,
        "sites": N,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """By target score, and all about the chosen one."""
    ladder = Table(title="MB sent per peer to AUROC")
    ladder.add_column("scheme")
    for step in result["by_target"]:
        ladder.add_column(str(step), justify="right")
    for name in result["final_scores"]:
        amounts = [row[name] for row in result["by_target"].values()]
        ladder.add_row(name, *("–" if amount is None else f"{amount / 1e6:.2f}" for amount in amounts))
    table = Table(title=f"bytes sent per peer to AUROC {result['target']}, {N} sites, {D} values")
    for heading in ("scheme", "MB to target", "kB per round", "MB in all", "final AUROC", "best AUROC"):
        table.add_column(heading, justify="left" if heading == "scheme" else "right")
    spent = {OURS: result["ledger"], **result["pushsum"], **result["others"]}
    for name, amount in spent.items():
        table.add_row(
            name,
            f"{amount / 1e6:.3f}" if amount is not None else "not reached",
            f"{result['bytes_per_round'][name] / 1e3:.1f}",
            f"{result['bytes_in_all'][name] / 1e6:.2f}",
            f"{result['final_scores'][name]:.4f}",
            f"{result['best_scores'][name]:.4f}",
        )
    return [ladder, table]


def main(given: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--target", type=float, default=0.84, help="AUROC; about the best of dense gossip")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    result = measure(arguments.seeds, arguments.rounds, arguments.target)
    publish("bytes to score", machine, result, GOALS, arguments.json, tables(result))


if __name__ == "__main__":
    main()
