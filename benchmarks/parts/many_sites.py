"""Federations of up to a thousand sites with real training: workers train many sites each, one ledger adds them up.

Every site is the trainer's own `Rounds` over its own compounds. What it makes is bounded, signed, checked, weighted and
added exactly as a peer does it (`Publisher`, `Ledger`). One ledger stands for those of all sites, for peers that hold
the same entries hold the same sum. Rounds are in step, and nothing is sent: bytes are those of the entries.

The workers are processes of a pool, or actors on a Ray cluster, which do the same.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.parts.federated_task import BITS, TASKS, Task, auroc, make_task
from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.chem.structures.parallel import end_with_parent
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.weights import shares, weight_cap
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.core.rounds.contract import RoundTrained
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.ray_cluster import LEAST_STORE_BYTES, ray_at
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings

ENDPOINTS = tuple(AssayEndpoint(name=f"task{n}", head="shared", kind="classification") for n in range(TASKS))
RULE = LedgerRule()
WEIGHT_CAP = 2.0
CODEC = CodecParameters(chunk=4096, kept=64, bits=2)


@dataclass(frozen=True)
class Plan:
    """What all sites train.

    Attributes:
        sites: how many.
        compounds: of each site.
        rounds, steps: entries of each site, and steps of each.
        hidden: widths of the trunk.
    """

    sites: int
    compounds: int
    rounds: int
    steps: int
    hidden: tuple[int, ...]
    seed: int = 0

    @property
    def architecture(self) -> Architecture:
        """Of the trunk."""
        return Architecture(inputs=BITS, descriptors=0, hidden=self.hidden, endpoints=ENDPOINTS, dropout=0.1)

    @property
    def settings(self) -> TrainingSettings:
        """Of every site, but for its seed."""
        return TrainingSettings(batch_size=32, steps_per_entry=self.steps, entry_limit=self.rounds)

    def task(self) -> Task:
        """The same data for as many sites as there are, so that fewer sites have a part of it."""
        return make_task(self.seed, (self.compounds,) * self.sites)


class SiteHost:
    """A worker's sites: every `of`-th one from `first` on. They share a network, for each loads the trunk anew."""

    def __init__(self, plan: Plan, first: int, of: int) -> None:
        torch.set_num_threads(1)
        layout, network = trunk_layout(plan.architecture), Network(plan.architecture)
        start_local(network, plan.architecture, plan.seed, plan.seed)
        codec, task = DeltaCodec(layout, CODEC), plan.task()
        self._plan = plan
        self._folder = tempfile.TemporaryDirectory(prefix="kmel-sites-")
        self._sites = {
            at: Rounds(
                network, _dataset(task, at), layout, codec, plan.settings.changed(seed=at),
                Path(self._folder.name) / f"site-{at}",
            )
            for at in range(first, plan.sites, of)
        }  # fmt: skip

    def train(self, number: int, trunk: NDArray[np.float32], bounds: Mapping[int, float]) -> dict[int, bytes]:
        """The payload of each site's round, within its bound."""
        made = {}
        for at, rounds in self._sites.items():
            # Ray's arrays are read-only, and torch takes none of those.
            result = rounds.train(number, self._plan.steps, bounds[at], np.array(trunk), lambda progress: None)
            rounds.commit(number)
            made[at] = result.payload
        return made

    def close(self) -> None:
        """Remove what its sites wrote."""
        self._folder.cleanup()


def _dataset(task: Task, at: int) -> Dataset:
    site = task.sites[at]
    rows, positions = np.nonzero(site.inputs)
    offsets = np.searchsorted(rows, np.arange(len(site.inputs) + 1)).astype(np.int64)
    counts = CountMatrix(offsets, positions.astype(np.uint16), np.ones(len(rows), np.uint8), BITS)
    none = np.empty(0, np.int64)
    return Dataset(
        ENDPOINTS, Inputs(counts, np.zeros((len(site.inputs), 0), np.float32)), site.labels,
        np.zeros(site.labels.shape, np.int8), np.arange(len(site.inputs)), none, none,
    )  # fmt: skip


Ask = Callable[[int, NDArray[np.float32], Mapping[int, float]], Callable[[], dict[int, bytes]]]
"""`SiteHost.train` of a worker, begun; the function that it returns waits for the result."""


@contextlib.contextmanager
def in_processes(plan: Plan, workers: int) -> Iterator[list[Ask]]:
    """Workers that are processes of this machine."""
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, _begin, (plan, first, workers)))
            for first in range(workers)
        ]
        try:
            yield [lambda *given, pool=pool: pool.submit(_train, *given).result for pool in pools]
        finally:
            for pool in pools:
                pool.submit(_end)


_host: SiteHost | None = None


def _begin(plan: Plan, first: int, of: int) -> None:
    global _host
    end_with_parent()
    _host = SiteHost(plan, first, of)


def _train(*given: Any) -> dict[int, bytes]:
    assert _host is not None
    return _host.train(*given)


def _end() -> None:
    assert _host is not None
    _host.close()


@contextlib.contextmanager
def on_ray(plan: Plan, workers: int, address: str) -> Iterator[list[Ask]]:
    """Workers that are actors on a Ray cluster."""
    with ray_at(address, LEAST_STORE_BYTES) as ray:
        hosts = [ray.remote(num_cpus=1)(SiteHost).remote(plan, first, workers) for first in range(workers)]

        def begin(host: Any, *given: Any) -> Callable[[], dict[int, bytes]]:
            task = host.train.remote(*given)
            return lambda: dict(ray.get(task))

        yield [lambda *given, host=host: begin(host, *given) for host in hosts]
        ray.get([host.close.remote() for host in hosts])


def federate_many(plan: Plan, asks: Sequence[Ask]) -> dict[str, Any]:
    """Train together; what it came to.

    Returns:
        `sites`, `auroc` on compounds that no site prefers (mean over tasks), `error` (1 less it), `sent_bytes` by a
        site in all, `received_bytes` by a site from all others, `refused` entries, `seconds`.
    """
    began = time.perf_counter()
    layout = trunk_layout(plan.architecture)
    codec = DeltaCodec(layout, CODEC)
    identities = [Identity(at.to_bytes(32, "big")) for at in range(1, plan.sites + 1)]
    ledger = Ledger(Accumulator.from_trunk(initial_trunk(layout, plan.seed)), codec, rules_of(plan, identities))
    outbox: deque[Effect] = deque()
    publishers = [Publisher(identity, ledger, outbox) for identity in identities]
    size_class = math.floor(math.log2(plan.compounds * TASKS)) + 1
    weights = shares({identity.key: size_class for identity in identities}, ledger.rules.weight_cap)
    sent = refused = 0
    for number in range(1, plan.rounds + 1):
        bounds = {}
        for at, publisher in enumerate(publishers):
            share = weights[identities[at].key]
            _, bounds[at] = publisher.open(share, dict.fromkeys(range(TASKS), share))
        trunk = ledger.accumulator.trunk()
        waiting = [ask(number, trunk, bounds) for ask in asks]
        payloads = {at: payload for wait in waiting for at, payload in wait().items()}
        for at, publisher in enumerate(publishers):
            sent += len(payloads[at])
            if publisher.store(RoundTrained(number, payloads[at], plan.steps, 0, "")):
                refused += 1
                continue
            stored = outbox.popleft()
            assert isinstance(stored, Persist)
            assert stored.ticket is not None
            entry = publisher.persisted(stored.ticket)
            assert entry is not None
            refused += ledger.offer(entry).verdict is not Verdict.APPLIED
    test = plan.task().test
    network = Network(plan.architecture)
    network.load(ledger.accumulator.trunk())
    score = auroc(network.predict(test.inputs).astype(np.float32), test.labels)
    return {
        "sites": plan.sites,
        "auroc": score,
        "error": 1 - score,
        "sent_bytes": sent / plan.sites,
        "received_bytes": sent / plan.sites * (plan.sites - 1),
        "refused": refused,
        "seconds": time.perf_counter() - began,
    }


def rules_of(plan: Plan, identities: Sequence[Identity]) -> Rules:
    """The ledger's rules as a charter of these sites would have them, with the defaults' bounds."""
    size = trunk_layout(plan.architecture).size
    sent = min(size, -(-size // CODEC.chunk) * CODEC.kept)
    each = RULE.first_norm * plan.settings.learning_rate * plan.steps
    keys = sorted(identity.key for identity in identities)
    return Rules(
        charter_id=b"many sites".ljust(32),
        roster=RosterOrder(keys),
        codec_id=DeltaCodec(trunk_layout(plan.architecture), CODEC).codec_id,
        weight_cap=weight_cap(len(keys), WEIGHT_CAP),
        norm_cap=RULE.norm_cap,
        first_norm_squared=int(each * each * sent * 2.0**48),
        heads=TASKS,
        current=frozenset(keys),
        cap_share=WEIGHT_CAP,
    )
