"""What of a round is training, as a site's data grows, and whether a large site takes as many steps as a small one; and
what the comparison at the end costs, with the stack of a site (`comparison_s`, processor time).

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

from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, this_machine
from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.core.rounds.contract import RoundTrained
from kmel_p2p.core.rounds.pacing import Pacing
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import compare, start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.first_layer import SparseRows
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import Parameters
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


def made_up(compounds: int, endpoints: int = 1, shares: NDArray[np.float64] | None = None) -> Dataset:
    """Compounds that are measured in every assay endpoint.

    Args:
        shares: how often each position of the fingerprint is drawn, float64[BITS], sum 1; None: all equally.
    """
    rng = np.random.default_rng(compounds)
    some = np.stack(
        [np.sort(rng.choice(BITS, OCCURRING, replace=False, p=shares)) for _ in range(min(DISTINCT, compounds))]
    )
    positions = np.resize(some, (compounds, OCCURRING)).astype(np.uint16)
    offsets = np.arange(compounds + 1, dtype=np.int64) * OCCURRING
    counts = CountMatrix(offsets, positions.ravel(), np.ones(positions.size, np.uint8), BITS)
    descriptors = rng.standard_normal((compounds, len(descriptor_constants()))).astype(np.float32)
    rows = rng.permutation(compounds)
    held_out = int(HELD_OUT * compounds)
    return Dataset(
        tuple(AssayEndpoint(name=f"made_up_{at}", head="shared") for at in range(endpoints)),
        Inputs(counts, descriptors),
        descriptors[:, :endpoints] + 0.3 * rng.standard_normal((compounds, endpoints)).astype(np.float32),
        np.zeros((compounds, endpoints), np.int8),
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


def comparison_s(compounds: int, endpoints: int, entries: int, steps: int, hidden: tuple[int, ...]) -> float:
    """Processor time, s, of all that a site does once the federation has ended: networks, learners, weights, scores.

    The trunks of the federation and of the others are drawn: what they say does not change what it costs to ask.

    Args:
        entries, steps: what the site published, and steps of each; its networks take as many.
    """
    # Trees cost what the positions cost that occur often enough to be looked at. In 1,000 compounds of ExpansionRx 981
    # positions occur five times or more; drawn this way, 1,143 do.
    frequency = 1 / np.arange(15, 15 + BITS) ** 1.5
    dataset = made_up(compounds, endpoints, frequency / frequency.sum())
    shape = network_shape(dataset, hidden)
    network = Network(shape)
    start_local(network, shape, 1, 0)
    federated = Parameters.of(network)
    others = initial_trunk(trunk_layout(shape), 2)
    settings = TrainingSettings(batch_size=32, steps_per_entry=steps)
    began = process_time()
    compare(
        shape, dataset, settings, 0, federated, steps=entries * steps, federated_history=[],
        report=lambda done, total: None, stacking=True, others=others,
    )  # fmt: skip
    return process_time() - began


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


GOALS: dict[str, Goal] = {
    "training_share_largest": at_least(0.7),
    "steps_kept": at_least(1.0),
    "comparison_s": at_most(90.0),
}
SMOKE: dict[str, Any] = {
    "compounds": [50, 100],
    "rounds": 2,
    "steps": 2,
    "hidden": [16],
    "compared": 60,
    "compared_endpoints": 1,
    "compared_hidden": [8],
}

DRAFTED_ENTRIES, DRAFTED_STEPS = 60, 20
"""Of a charter for sites with 1,000 compounds."""


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compounds", type=int, nargs="+", default=[1000, 30_000, 100_000], help="of each site")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=LedgerRule().steps_per_entry, help="of a round")
    parser.add_argument("--hidden", type=int, nargs="+", default=[512, 256], help="widths of the hidden layers")
    parser.add_argument("--compared", type=int, default=1000, help="compounds of the site that compares and stacks")
    parser.add_argument("--compared-endpoints", type=int, default=4)
    parser.add_argument("--compared-hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--only-comparison", action="store_true", help="leave out rounds and steps")
    options = parse(parser, SMOKE, given)
    torch.set_num_threads(1)
    machine = this_machine()
    hidden = tuple(options.hidden)
    figures: dict[str, Any] = {}
    if not options.only_comparison:
        figures = measure(options.compounds, options.rounds, options.steps, hidden)
        figures["step_speedup"] = step_speedup(made_up(options.compounds[0]), hidden, 2 * options.steps)
    entries, steps = (2, options.steps) if options.smoke else (DRAFTED_ENTRIES, DRAFTED_STEPS)
    figures["comparison_s"] = comparison_s(
        options.compared, options.compared_endpoints, entries, steps, tuple(options.compared_hidden)
    )
    title = f"rounds of {options.steps} steps; largest site: {options.compounds[-1]:,} compounds"
    publish(title, machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
