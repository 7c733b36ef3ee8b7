"""A federation in one process: the trainer's own rounds and codec, without peers, sockets and disk in between.

What real peers add is delivery, which does not change the arithmetic: every site applies every entry, with the ledger's
weights for trunk and shared heads. Rounds are in step here, whereas real peers run a few entries apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.sealed_sums import SealedSums
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE
from kmel_p2p.core.ledger.rules.weights import Trains, weight_cap, weights_of
from kmel_p2p.core.rounds.pacing import Plateau
from kmel_p2p.core.sealed.levels import share_of
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import Layout, initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.site.trainer.answers import validation_figure


@dataclass(frozen=True)
class Federated:
    """The final trunk and each site's rounds.

    Attributes:
        bytes_sent: what one site published, on average.
        added: float64[d] for each site: the sum of its entries, weighted.
        entries: what each site published; fewer than asked for where its patience ended.
    """

    trunk: NDArray[np.float32]
    rounds: list[Rounds]
    bytes_sent: int
    added: list[NDArray[np.float64]]
    entries: list[int]

    def parameters(self, site: int) -> Parameters:
        """The federated model of one site."""
        return Parameters(self.trunk.copy(), self.rounds[site].private())

    def others(self, site: int) -> NDArray[np.float32]:
        """The final trunk without that site's own entries, float32[d]."""
        return (self.trunk - self.added[site]).astype(np.float32)


def federate(
    architecture: Architecture,
    datasets: Sequence[Dataset],
    settings: Sequence[TrainingSettings],
    entries: int,
    folder: Path,
    *,
    model_seed: int = 0,
    dense: bool = False,
    patience: int = 0,
    tick: Callable[[int], None] = lambda entry: None,
    watch: Callable[[int, NDArray[np.floating]], None] = lambda site, change: None,
    sums: SealedSums | None = None,
) -> Federated:
    """Train together.

    Args:
        entries: of each site.
        dense: exchange float32 deltas instead of encoded ones, for comparison.
        patience: the charter's `pace.patience`: entries without a better validation score after which a site stops.
        watch: called with each site's number and its weighted entry, float[d]; then `tick` with the round.
        sums: how sealed rounds add up the drifts, instead of entries of a ledger.
    """
    layout = trunk_layout(architecture)
    codec = DeltaCodec(layout, CodecParameters(chunk=4096, kept=64, bits=2))
    trunk = initial_trunk(layout, model_seed)
    sites = []
    for at, (dataset, setting) in enumerate(zip(datasets, settings, strict=True)):
        network = Network(architecture)
        start_local(network, architecture, model_seed, setting.seed)
        packed = codec if sums is None else None
        sites.append((network, Rounds(network, dataset, layout, packed, setting, folder / f"site-{at}")))
    plateaus, training = [Plateau(patience) for _ in sites], list(range(len(sites)))
    weighed = site_weights if sums is None else sealed_weights
    shares = weighed(layout, datasets)
    sent, added, published = 0, [np.zeros(layout.size, np.float64) for _ in sites], [0 for _ in sites]
    for entry in range(1, entries + 1):
        total = np.zeros(layout.size, np.float64)
        stopped = []
        for at, weight in zip(training, shares, strict=True):
            network, rounds = sites[at]
            result = rounds.train(entry, settings[at].steps_per_entry, None, trunk, lambda progress: None)
            rounds.commit(entry)
            change: NDArray[np.floating]
            if sums is not None:
                sent += sums.bytes_per_round
                change = sums.send(at, weight * np.frombuffer(result.payload, "<f4").astype(np.float64))
            elif dense:
                # What the round reached, whole; its payload and the residual that the codec keeps are not used.
                change = weight * (network.trunk_values().astype(np.float64) - trunk)
                sent += 4 * layout.size
            else:
                change = weight * codec.decode(result.payload).dense(layout.size).astype(np.float64)
                sent += len(result.payload)
            total += change
            added[at] += change
            watch(at, change)
            published[at] = entry
            if plateaus[at].seen(validation_figure(result.scores)):
                stopped.append(at)
        trunk = (trunk + total).astype(np.float32)
        if sums is not None:
            sums.close()
        tick(entry)
        if stopped:
            training = [at for at in training if at not in stopped]
            if not training:
                break
            shares = weighed(layout, [datasets[at] for at in training])
    return Federated(trunk, [rounds for _, rounds in sites], sent // len(sites), added, published)


def site_weights(layout: Layout, datasets: Sequence[Dataset], cap: float = 2.0) -> list[NDArray[np.float32]]:
    """Of each site's entries by value, float32[layout.size], by the ledger's own rule (`core.ledger.rules.shares`).

    Args:
        cap: the charter's `weight_cap`.
    """
    training = {
        SiteKey(bytes([at])): Trains(_size_class(data), frozenset(data.trained_heads()))
        for at, data in enumerate(datasets)
    }
    found = []
    for key in training:
        weights = weights_of(key, training, weight_cap(len(training), cap), cap)
        dense = np.full(layout.size, weights.trunk, np.float32)
        for head, weight in weights.heads.items():
            for place in layout.places_of_head(head):
                dense[place] = weight
        found.append(dense / np.float32(WEIGHT_ONE))
    return found


def sealed_weights(layout: Layout, datasets: Sequence[Dataset], cap: float = 2.0) -> list[NDArray[np.float32]]:
    """The same in sealed rounds (`core.sealed.levels.share_of`): one weight for all that a site trains, heads included.

    Nobody knows there which heads the others train.
    """
    sizes = [2 ** _size_class(data) for data in datasets]
    shares = (share_of(size, [*sizes[:at], *sizes[at + 1 :]], cap) for at, size in enumerate(sizes))
    return [np.full(layout.size, share, np.float32) for share in shares]


def _size_class(data: Dataset) -> int:
    """As a site describes itself: floor(log2(measurements)) + 1."""
    return math.floor(math.log2(sum(len(data.measured(data.train, place)) for place in range(len(data.endpoints))))) + 1
