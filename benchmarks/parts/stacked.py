"""The stacks of the sites of a federation in one process, and the errors of what each site could predict with.

    compared = stacked_sites(shape, data, settings, seed, entries=40)
    compared[0].errors()["chosen"]            # float64[E]

`best_local` is the strongest stack a site can make alone, `stack` the same with the federation's learners
(`learn.stack`), `chosen` what the site predicts with: the stack where held-out compounds do not contradict it, else the
best local.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.inprocess import federate
from benchmarks.parts.sealed_sums import SealedSums
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.comparison import Comparison, compare, predictors
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import CHOSEN, outputs_of
from kmel_p2p.learn.stack.sides import BEST_LOCAL, STACK
from kmel_p2p.learn.stack.stack import SiteStack
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.site.loaded_site import architecture_of

NETWORKS = ("local", "federated", "personalised", "hybrid")
SHOWN = (*NETWORKS, BEST_LOCAL, STACK, CHOSEN)
"""What a site could predict with, and what it does."""

Error = Callable[[AssayEndpoint, NDArray[np.float64], NDArray[np.float32]], float]
"""Of outputs float64[n] for labels float32[n], n > 0; lower is better."""


@dataclass(frozen=True)
class StackedSite:
    """One site after the federation.

    Attributes:
        data: with its test fold.
        entries: what it published.
    """

    shape: Architecture
    data: Dataset
    comparison: Comparison
    entries: int

    @property
    def stack(self) -> SiteStack:
        assert self.comparison.stacked is not None, "asked for"
        return self.comparison.stacked.stack

    def outputs(self) -> dict[str, NDArray[np.float64]]:
        """Of each of `SHOWN` on the test fold, float64[n, E]."""
        inputs = self.data.read_by(self.stack.reads).inputs.rows(self.data.test)
        predict = predictors(self.shape, self.comparison.models)
        sides = self.stack.sides(inputs)
        unusual = Neighbours.of(self.data).unusual(self.data.inputs.bits(self.data.test))
        found = {**outputs_of(predict, NETWORKS, inputs), **sides, CHOSEN: self.stack.chosen(sides, unusual)}
        return {name: found[name] for name in SHOWN}

    def errors(self, error: Error) -> dict[str, list[float]]:
        """Of each of `SHOWN` on the test fold, by assay endpoint; NaN where the site trains or tests on no value."""
        labels = self.data.labels[self.data.test]
        known = [scorable(self.data, self.data.test, place) for place in range(len(self.data.endpoints))]
        untrained = self.data.untrained()
        return {
            name: [
                error(endpoint, output[rows, place], labels[rows, place])
                if rows.any() and place not in untrained
                else np.nan
                for place, (rows, endpoint) in enumerate(zip(known, self.data.endpoints, strict=True))
            ]
            for name, output in self.outputs().items()
        }


def training_options(parser: argparse.ArgumentParser, *, steps: int, hidden: Sequence[int], cache: str) -> None:
    """What small federations of one process train, and where structures are kept.

    Args:
        steps, hidden: unless given.
        cache: name of the folder among temporary files, unless given.
    """
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps of each site")
    parser.add_argument("--entries", type=int, default=30)
    parser.add_argument("--hidden", type=int, nargs="+", default=list(hidden))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / cache)


def training_settings(
    arguments: argparse.Namespace, seed: int, site: int, weight_decay: float = 0.01
) -> TrainingSettings:
    """Of one site, from a benchmark's command line."""
    return TrainingSettings(
        batch_size=arguments.batch,
        learning_rate=arguments.rate,
        weight_decay=weight_decay,
        seed=1000 * seed + site,
        entry_limit=arguments.entries,
        steps_per_entry=arguments.steps // arguments.entries,
    )


def stacked_sites(
    shape: Architecture,
    data: Sequence[Dataset],
    settings: Sequence[TrainingSettings],
    seed: int,
    *,
    patience: int = 0,
    dense: bool = False,
    scored: Sequence[int] | None = None,
    graph_networks: int = 0,
    sealed: bool = False,
    tick: Callable[[str], None] = lambda text: None,
) -> list[StackedSite]:
    """Federate, then compare and stack at each site as its trainer would.

    Args:
        settings: of each site; `entry_limit` entries of `steps_per_entry` steps.
        patience: the charter's `pace.patience`.
        scored: numbers of the sites that are compared; None: all.
        graph_networks: in each stack.
        sealed: exchange sums, as sealed rounds make them, instead of a ledger's entries.
        tick: called with a line of progress.
    """
    # Rounds and comparison score test folds only to show them; here they are scored at the end.
    blind = [dataclasses.replace(part, test=part.test[:0]) for part in data]
    found = []
    first, size = settings[0], trunk_layout(shape).size
    sums = SealedSums(size, len(data), first.learning_rate, first.steps_per_entry, seed) if sealed else None
    with tempfile.TemporaryDirectory() as folder:
        together = federate(
            shape, blind, settings, settings[0].entry_limit, Path(folder),
            model_seed=seed, dense=dense, patience=patience, sums=sums,
        )  # fmt: skip
        tick(f"{len(data)} sites federated; entries {together.entries}")
        for at in range(len(data)) if scored is None else scored:
            own = compare(
                shape, blind[at], settings[at], seed, together.parameters(at),
                steps=together.entries[at] * settings[at].steps_per_entry, federated_history=[],
                report=lambda done, total: None, prefix=together.rounds[at].prefix.parameters, stacking=True,
                others=together.others(at), graph_networks=graph_networks,
            )  # fmt: skip
            tick(f"site {at} compared")
            found.append(StackedSite(shape, data[at], own, together.entries[at]))
    return found


def drafted_sites(
    charter: Charter, data: Sequence[Dataset], seed: int, entries: int, scored: int, tick: Callable[[str], None]
) -> list[StackedSite]:
    """The sites of a federation that trains as its charter's draft says.

    Args:
        entries: of each site; 0: as many as the charter has.
        scored: compares only the first so many sites; 0: all.
    """
    settings = [
        TrainingSettings(
            **dict(charter.training),
            seed=1000 * seed + at,
            entry_limit=entries or charter.averaging.entry_limit,
            steps_per_entry=charter.averaging.steps_per_entry,
        )
        for at in range(len(data))
    ]
    return stacked_sites(
        architecture_of(charter), data, settings, seed,
        patience=charter.pace.patience, scored=range(min(len(data), scored or len(data))), tick=tick,
    )  # fmt: skip


def mean_absolute(endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float32]) -> float:
    """MAE in the transformed unit."""
    return float(np.abs(outputs - labels).mean() * endpoint.scale)


def change_pct(value: float, reference: float) -> float:
    """By how much `value` differs from `reference`, %."""
    return 100 * (value / reference - 1)
