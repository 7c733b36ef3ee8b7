"""What honest sites lose by the bounds on norms and weights, and what one bad site can do within them.

    python benchmarks/bounds.py DATA --json bounds.json

Three kinds of federations of four honest sites train in one process (parts/poisoned.py): the demo's solubilities spread
at random, shards of a TDC split with whole series at one site, and the four real silos (parts/honest_sites.py). In each
the sites have from a quarter of the compounds up to all of `--per-site`. One bound is changed at a time from the
charter's defaults:

  norm_cap     largest norm of an entry, in medians of the other authors' newest ones
  first_norm   bound of a first entry, in what the optimiser can do
  weight_cap   largest weight, in equal shares

Per value (`bounds`): `honest_ratio`, the trunk's error (MAE in labels; log loss of classes) over that of the same sites
without any bound and with weights up to twice the equal share, mean over sites and assay endpoints; `worst_ratio`, of
the site that loses most; with `--beside flip,turn,drift`, `flip_ratio` and so on: the honest sites' error beside a bad
first site (poison.py), nobody voting, over that of the honest run without bounds. Means over kinds and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.parts.honest_sites import HONEST, Draw
from benchmarks.parts.measure import at_most, parse, publish, say, settings_of, this_machine
from benchmarks.parts.poisoned import Bounds, Poisoned, poisoned
from benchmarks.parts.silos_data import POLICY
from benchmarks.parts.stacked import training_options, training_settings
from benchmarks.poison import ATTACKS
from kmel_p2p.learn.evaluate.losses import log_losses
from kmel_p2p.learn.evaluate.scores import outputs_in_blocks, scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset

GOALS = {"default_honest_ratio": at_most(1.01)}
SMOKE: dict[str, Any] = {
    "sites": ["demo"],
    "per_site": 24,
    "entries": 3,
    "steps": 6,
    "hidden": [8],
    "values": ["norm_cap=1.5"],
    "beside": "flip",
}

NONE = 1e6
"""A bound that nothing reaches."""

UNBOUNDED = Bounds(cap=NONE, first=NONE, weight_cap=2.0)
DEFAULTS = Bounds(cap=1.5, first=1.0, weight_cap=2.0)
"""A drafted charter's."""

FIELDS = {"norm_cap": "cap", "first_norm": "first", "weight_cap": "weight_cap"}
VALUES = (
    *("norm_cap=1.01", "norm_cap=1.5", "norm_cap=2", "norm_cap=3", "norm_cap=4"),
    *("first_norm=0.25", "first_norm=0.5", "first_norm=2"),
    *("weight_cap=1", "weight_cap=1.25", "weight_cap=1.5"),
)
PARTS = (1.0, 0.5, 0.25, 0.25)
"""Of the compounds to train on, that each site has."""


def bounded(value: str) -> Bounds:
    """The defaults with one bound changed, such as `norm_cap=2`."""
    name, number = value.split("=")
    return dataclasses.replace(DEFAULTS, **{FIELDS[name]: float(number)})


class Federation:
    """Sites of one kind and seed."""

    def __init__(self, arguments: argparse.Namespace, kind: str, seed: int) -> None:
        draw = Draw(len(PARTS), arguments.per_site, arguments.cache, arguments.workers, arguments.data)
        self._seed = seed
        self._data = [
            dataclasses.replace(data, train=data.train[: max(8, round(part * len(data.train)))])
            for data, part in zip(HONEST[kind](draw, seed), PARTS, strict=True)
        ]
        self._shape = Architecture(
            inputs=POLICY.width, hidden=tuple(arguments.hidden), endpoints=self._data[0].endpoints, dropout=0.1
        )
        self._settings = [training_settings(arguments, seed, at) for at in range(len(PARTS))]
        self._without = self._errors(self._run(UNBOUNDED), 0)

    def ratios(self, bounds: Bounds, attack: str = "") -> list[float]:
        """Error of each honest site over the run without bounds; `attack`: what the first site does, if it is bad."""
        first = int(bool(attack))
        errors = self._errors(self._run(bounds, attack), first)
        return [float(error / without) for error, without in zip(errors, self._without[first:], strict=True)]

    def _run(self, bounds: Bounds, attack: str = "") -> Poisoned:
        attacks = {0: ATTACKS[attack]} if attack else {}
        with tempfile.TemporaryDirectory() as folder:
            return poisoned(self._shape, self._data, self._settings, Path(folder), attacks=attacks, bounds=bounds,
                            vote=False, model_seed=self._seed)  # fmt: skip

    def _errors(self, run: Poisoned, first: int) -> list[float]:
        """Of the trunk at each site from `first` on, mean over its assay endpoints."""
        network, found = Network(self._shape), []
        for at, data in list(enumerate(self._data))[first:]:
            model = run.parameters(at)
            network.load(model.trunk)
            network.load_private(model.private)
            outputs = outputs_in_blocks(data, data.test, network.predict)
            found.append(float(np.mean(_errors_of(data, outputs))))
        return found


def _errors_of(data: Dataset, outputs: np.ndarray[Any, Any]) -> list[float]:
    errors = []
    for place, endpoint in enumerate(data.endpoints):
        rows = scorable(data, data.test, place)
        if np.count_nonzero(rows):
            labels, found = data.labels[data.test[rows], place], outputs[rows, place]
            with np.errstate(over="ignore", invalid="ignore"):
                apart = log_losses(found, labels) if endpoint.kind == "classification" else np.abs(found - labels)
            errors.append(float(apart.mean()))
    return errors


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One row per value; the defaults' own is that of `norm_cap=1.5`."""
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    federations = [Federation(arguments, kind, seed) for kind in arguments.sites for seed in seeds]
    rows = []
    for value in arguments.values:
        honest = [each.ratios(bounded(value)) for each in federations]
        row: dict[str, Any] = {
            "bound": value,
            "honest_ratio": float(np.mean([ratio for each in honest for ratio in each])),
            "worst_ratio": float(np.mean([max(each) for each in honest])),
        }
        for attack in arguments.beside.split(",") if arguments.beside else ():
            bad = [each.ratios(bounded(value), attack) for each in federations]
            row[f"{attack}_ratio"] = float(np.mean([ratio for each in bad for ratio in each]))
        rows.append({**row, "by_federation": [float(np.mean(each)) for each in honest]})
        say(f"{rows[-1]}")
    own = next((row["honest_ratio"] for row in rows if bounded(row["bound"]) == DEFAULTS), None)
    return {"bounds": rows, "default_honest_ratio": own, "settings": settings_of(arguments)}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="directory of the public files, for `tdc` and `silos`")
    parser.add_argument("--sites", nargs="+", choices=tuple(HONEST), default=["demo", "tdc", "silos"])
    parser.add_argument("--values", nargs="+", default=list(VALUES), help="bounds to change, such as norm_cap=2")
    parser.add_argument("--beside", default="", help="attacks of poison.py, separated by commas")
    parser.add_argument("--per-site", type=int, default=240, help="compounds of the largest site and assay endpoint")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    training_options(parser, steps=450, hidden=(64, 32), cache="kmel-poison-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    figures = measure(arguments)
    table = pd.DataFrame(figures["bounds"]).drop(columns="by_federation").round(3)
    title = "what honest sites lose by bounds"
    publish(title, machine, figures, GOALS, arguments.json, [table.to_string(index=False)])


if __name__ == "__main__":
    main()
