"""What of a round is training, as a site's data grows, and whether a large site takes as many steps as a small one.

Made-up fingerprints and descriptors of the real size, so that neither RDKit nor files are needed. Everything else is
the product's: rounds with scoring, codec and state file, and the rule that sets a site's steps by its time per step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.parts.measure import Goal, at_least, parse, publish, say, this_machine
from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.core.rounds.contract import RoundTrained
from kmel_p2p.core.rounds.pacing import Pacing
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.first_layer import SparseRows
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.learn.worker.session import Progress

BITS = 2048
OCCURRING = 60
"""Environments of a molecule in its fingerprint."""

DISTINCT = 2000
"""Made-up molecules; more compounds repeat them."""

HELD_OUT = 0.1
"""Share of the compounds in the validation fold, and in the test fold."""


def made_up(compounds: int) -> Dataset:
    """Compounds with one assay endpoint."""
    rng = np.random.default_rng(compounds)
    some = np.stack([np.sort(rng.choice(BITS, OCCURRING, replace=False)) for _ in range(min(DISTINCT, compounds))])
    positions = np.resize(some, (compounds, OCCURRING)).astype(np.uint16)
    offsets = np.arange(compounds + 1, dtype=np.int64) * OCCURRING
    counts = CountMatrix(offsets, positions.ravel(), np.ones(positions.size, np.uint8), BITS)
    descriptors = rng.standard_normal((compounds, len(descriptor_constants()))).astype(np.float32)
    rows = rng.permutation(compounds)
    held_out = int(HELD_OUT * compounds)
    return Dataset(
        (AssayEndpoint(name="made_up", head="shared"),),
        Inputs(counts, descriptors),
        descriptors[:, :1] + 0.3 * rng.standard_normal((compounds, 1)).astype(np.float32),
        np.zeros((compounds, 1), np.int8),
        np.sort(rows[2 * held_out :]),
        np.sort(rows[:held_out]),
        np.sort(rows[held_out : 2 * held_out]),
    )


def network_shape(dataset: Dataset, hidden: tuple[int, ...]) -> Architecture:
    """As a charter describes it."""
    described = len(descriptor_constants())
    return Architecture(
        inputs=BITS + described, descriptors=described, hidden=hidden, endpoints=dataset.endpoints, dropout=0.1
    )


class Site:
    """A site that trains beside one other."""

    def __init__(self, dataset: Dataset, hidden: tuple[int, ...], steps: int, folder: Path) -> None:
        architecture = network_shape(dataset, hidden)
        layout = trunk_layout(architecture)
        network = Network(architecture)
        start_local(network, architecture, 0, 0)
        self._trunk: NDArray[np.float32] = network.trunk_values()
        settings = TrainingSettings(steps_per_entry=steps)
        folder.mkdir()
        self._rounds = Rounds(network, dataset, layout, DeltaCodec(layout), settings, folder)
        self._pacing = Pacing(max_lead=10**6, patience=0, settle_us=0, stuck_after_us=0, now=0)
        self._charter_steps, self._number = steps, 0
        self.steps: list[int] = []
        self.shares: list[float] = []

    @property
    def step_us(self) -> int:
        """What it tells the other."""
        return self._pacing.step_us

    def train(self, other_us: int) -> None:
        """One round. `other_us`: the other's time per step."""
        self._number += 1
        steps = self._pacing.steps(self._charter_steps, [other_us])
        began = perf_counter()
        result = self._rounds.train(self._number, steps, None, self._trunk, _quiet)
        self._rounds.commit(self._number)
        took_us = (perf_counter() - began) * 1e6
        self.steps.append(steps)
        self.shares.append(result.training_us / took_us)
        trained = RoundTrained(self._number, result.payload, steps, result.training_us, result.state_file)
        self._pacing.trained(trained, round(took_us))


def step_speedup(dataset: Dataset, hidden: tuple[int, ...], steps: int) -> float:
    """Processor time of a step whose first layer multiplies by every input, over that of the product's; they take
    turns."""
    shape = network_shape(dataset, hidden)
    optimisers = [LocalOptimiser(Network(shape), dataset, TrainingSettings()) for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        for optimiser, took in zip(optimisers, times, strict=True):
            dense = patch.object(SparseRows, "of", return_value=None) if took is times[0] else nullcontext()
            with dense:
                began = process_time()
                optimiser.train(1, 1.0)
                took.append(process_time() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


def _quiet(progress: Progress) -> None:
    """Nobody watches."""


def measure(sizes: Sequence[int], rounds: int, steps: int, hidden: tuple[int, ...]) -> dict[str, Any]:
    """Figures of sites of these sizes, each of which trains beside the first; their rounds take turns."""
    with tempfile.TemporaryDirectory() as folder:
        sites = [Site(made_up(size), hidden, steps, Path(folder) / str(size)) for size in sizes]
        for number in range(rounds):
            for site in sites:
                site.train(sites[0].step_us)
            say(f"round {number + 1} of {rounds}")
    # The first round warms up.
    shares: Mapping[str, float] = {
        str(size): statistics.median(site.shares[1:]) for size, site in zip(sizes, sites, strict=True)
    }
    return {
        "training_share": shares,
        "training_share_largest": shares[str(sizes[-1])],
        "steps_kept": sum(sites[-1].steps) / (rounds * steps),
        "step_ms": {str(size): site.step_us / 1e3 for size, site in zip(sizes, sites, strict=True)},
    }


GOALS: dict[str, Goal] = {"training_share_largest": at_least(0.7), "steps_kept": at_least(1.0)}
SMOKE: dict[str, Any] = {"compounds": [50, 100], "rounds": 2, "steps": 2, "hidden": [16]}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compounds", type=int, nargs="+", default=[1000, 30_000, 100_000], help="of each site")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=LedgerRule().steps_per_entry, help="of a round")
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 256], help="widths of the hidden layers")
    options = parse(parser, SMOKE, given)
    torch.set_num_threads(1)
    machine = this_machine()
    hidden = tuple(options.hidden)
    figures = measure(options.compounds, options.rounds, options.steps, hidden)
    figures["step_speedup"] = step_speedup(made_up(options.compounds[0]), hidden, 2 * options.steps)
    title = f"rounds of {options.steps} steps; largest site: {options.compounds[-1]:,} compounds"
    publish(title, machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
