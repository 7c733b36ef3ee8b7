"""A federation in one process whose sites measure what each author's entries were worth, as the daemon does.

Sites train as in `inprocess`, in step; every voter has the daemon's own meter, schedule and book.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.inprocess import site_weights
from benchmarks.parts.poisoned import Attack, Situation
from benchmarks.parts.weighing import Weighing
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.effect import looked_at
from kmel_p2p.learn.evaluate.worth import WorthMeter
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.site.trainer.contribution_book import ContributionBook

Vector = NDArray[np.float64]


@dataclass
class Contributed:
    """What became of a run: the trunk, what each site found by its number, and the parts of each author.

    Attributes:
        weigh_s, train_s: processor seconds of measuring contributions and of training, of all sites.
    """

    trunk: NDArray[np.float32]
    books: dict[int, ContributionBook]
    added: dict[int, Vector]
    weigh_s: float = 0.0
    train_s: float = 0.0


def contributed(
    architecture: Architecture,
    datasets: Mapping[int, Dataset],
    settings: Mapping[int, TrainingSettings],
    folder: Path,
    *,
    riders: Mapping[int, Attack],
    model_seed: int = 0,
    weigh: bool = True,
) -> Contributed:
    """Train together, `entry_limit` entries each.

    Args:
        datasets: of the sites, by number.
        riders: sites that send something else than what they learned.
        weigh: whether contributions are measured.
    """
    layout, sites = trunk_layout(architecture), sorted(datasets)
    codec = DeltaCodec(layout, CodecParameters(chunk=4096, kept=64, bits=2))
    trunk = initial_trunk(layout, model_seed)
    rounds, voters = {}, {}
    for at in sites:
        network = Network(architecture)
        start_local(network, architecture, model_seed, settings[at].seed)
        rounds[at] = Rounds(network, datasets[at], layout, codec, settings[at], folder / f"site-{at}")
        looked = looked_at(datasets[at], settings[at].seed)
        voters[at] = Weighing(WorthMeter(looked, Network(architecture), settings[at].seed))
    shares = dict(zip(sites, site_weights(layout, [datasets[at] for at in sites]), strict=True))
    weights = {at: float(share.mean()) for at, share in shares.items()}
    books, added = {at: voters[at].book for at in sites}, {at: np.zeros(layout.size) for at in sites}
    run = Contributed(trunk, books, added)
    newest: dict[int, Vector] = {}
    steps: list[dict[int, Vector]] = []
    trunks = [trunk]
    for entry in range(1, settings[sites[0]].entry_limit + 1):
        made: dict[int, Vector] = {}
        for at in sites:
            began = time.process_time()
            result = rounds[at].train(entry, settings[at].steps_per_entry, None, run.trunk, lambda progress: None)
            rounds[at].commit(entry)
            took = time.process_time() - began
            run.train_s += took
            voters[at].pace.trained(took)
            change = codec.decode(result.payload).dense(layout.size).astype(np.float64)
            if at in riders:
                others = [newest[other] for other in sorted(newest) if other not in riders]
                change = riders[at](Situation(entry, change, others, np.inf, settings[at].seed))
            made[at] = change
        newest = made
        steps.append({at: shares[at] * change for at, change in made.items()})
        for at, change in steps[-1].items():
            run.added[at] += change
        run.trunk = (run.trunk + sum(steps[-1].values())).astype(np.float32)
        trunks.append(run.trunk)
        for at in sites if weigh else ():
            voters[at].weigh(rounds[at].private(), entry, steps, trunks, weights)
    run.weigh_s = sum(voter.pace.spent_s for voter in voters.values())
    return run
