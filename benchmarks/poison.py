"""What members do whose deltas are valid and harmful, and what bounds, looks and votes make of it.

    python benchmarks/poison.py --json poison.json

The demo's solubilities are spread over sites that train in one process (parts/poisoned.py); in each case one of four
sites or two of eight send something else from their first entry on. Per case (`attacks`), against the run of the honest
sites without the bad ones:

  federated_ratio   error (MAE) of the trunk on the honest sites' test compounds, over that of the honest run
  predicted_ratio   the same for what sites predict with (stack, guard); null without `--predicted`, which takes long
  alarm_entries     entries of a bad site before an honest one tells its operator; the latest of them; null: never
  suspend_entries   entries of a bad site before it is suspended; likewise

`false_suspensions` counts suspended honest sites, and `false_alarms` those that another one told of, in all cases and
in `--honest` further runs without any bad site, by each kind of site in `--honest-sites` (parts/honest_sites.py); `tdc`
and `silos` read the public files in `--data`.
`--without-votes` shows what the bounds alone do. With `--real-peers`, four daemons run the attack *labels* on this
machine, and three the honest run; what sites predict with is scored, too (parts/poisoned_peers.py).
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

from benchmarks.parts.honest_sites import HONEST, SOLUBILITY, Draw
from benchmarks.parts.measure import Goal, at_most, parse, publish, say, settings_of, this_machine
from benchmarks.parts.poisoned import Attack, Bounds, Poisoned, Situation, Vector, poisoned
from benchmarks.parts.poisoned_peers import PeersRun, errors_of, federate_poisoned
from benchmarks.parts.silos_data import POLICY
from benchmarks.parts.stacked import StackedSite, mean_absolute, training_options, training_settings
from kmel_p2p.learn.evaluate.comparison import compare
from kmel_p2p.learn.evaluate.scores import outputs_in_blocks, scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset

GOALS: dict[str, Goal] = {
    "false_suspensions": at_most(0),
    "worst_predicted_ratio": at_most(1.05),
    "worst_federated_ratio": at_most(1.15),
}
SMOKE: dict[str, Any] = {
    "only": "flip",
    "of": [4],
    "per_site": 24,
    "entries": 4,
    "steps": 8,
    "hidden": [8],
}
ENDPOINT = SOLUBILITY
FAR = 1e3
"""Times its usual size: what is sent has the largest norm that stands."""


def flip(now: Situation) -> Vector:
    """Against what it learned, as far as the bound lets it."""
    return -FAR * now.own


def fixed_random(now: Situation) -> Vector:
    """The same random direction every time, as far as the bound lets it."""
    return FAR * np.random.default_rng(now.seed).standard_normal(now.own.size)


def scaled(now: Situation) -> Vector:
    """What it learned, as large as the bound lets it."""
    return FAR * now.own


def drift(now: Situation) -> Vector:
    """What it learned at first, then ever less of it, and in the end the opposite."""
    return now.own * (1 - 0.1 * now.number)


def turn(now: Situation) -> Vector:
    """What it learned up to entry 12, and from then on against it, as far as the bound lets it."""
    return now.own if now.number <= 12 else -FAR * now.own


def copy(now: Situation) -> Vector:
    """Another site's newest delta with a little added, so that it is no replay."""
    return 1.01 * now.others[0] if now.others else now.own


def noise(now: Situation) -> Vector:
    """Something new that means nothing, every time, as large as an honest entry."""
    drawn = np.random.default_rng([now.seed, now.number]).standard_normal(now.own.size)
    found: Vector = drawn * np.linalg.norm(now.own) / np.linalg.norm(drawn)
    return found


def as_trained(now: Situation) -> Vector:
    """What it learned: the harm is in its data."""
    return now.own


ATTACKS: Mapping[str, Attack] = {
    "random": fixed_random,
    "flip": flip,
    "scaled": scaled,
    "labels": as_trained,
    "drift": drift,
    "turn": turn,
    "back_door": as_trained,
    "copy": copy,
    "noise": noise,
}


def spoilt(name: str, data: Dataset) -> Dataset:
    """The data that a bad site trains on."""
    if name == "labels":
        return dataclasses.replace(data, labels=-data.labels)
    if name == "back_door":
        # One environment of the fingerprint that about one in twenty compounds has.
        bits = data.inputs.bits(np.arange(len(data.inputs)))
        rare = int(np.argmin(np.abs(bits.mean(axis=0) - 0.05)))
        return dataclasses.replace(data, labels=np.where(bits[:, [rare]], np.float32(3), data.labels))
    return data


def sites_of(arguments: argparse.Namespace, count: int, seed: int, kind: str = "demo") -> list[Dataset]:
    """Honest sites of one kind."""
    draw = Draw(count, arguments.per_site, arguments.cache, arguments.workers, arguments.data)
    return HONEST[kind](draw, seed)


class Case:
    """One federation: trained, and its errors at the honest sites."""

    def __init__(self, arguments: argparse.Namespace, data: Sequence[Dataset], seed: int) -> None:
        self._arguments, self._data, self._seed = arguments, data, seed
        self.shape = Architecture(
            inputs=POLICY.width, hidden=tuple(arguments.hidden), endpoints=data[0].endpoints, dropout=0.1
        )

    def honest(self) -> Poisoned:
        """The run of all sites without a bad one; nothing is scored."""
        settings = [training_settings(self._arguments, self._seed, at) for at in range(len(self._data))]
        with tempfile.TemporaryDirectory() as folder:
            return poisoned(self.shape, self._data, settings, Path(folder), bounds=Bounds(cap=self._arguments.cap),
                            model_seed=self._seed)  # fmt: skip

    def errors(self, sites: Sequence[int], attack: str = "", bad: Sequence[int] = ()) -> tuple[Poisoned, list[float]]:
        """The run of these sites, and what `_errors` says, over the honest ones."""
        settings = [training_settings(self._arguments, self._seed, at) for at in sites]
        blind = [dataclasses.replace(self._data[at], test=self._data[at].test[:0]) for at in sites]
        used = [spoilt(attack, blind[place]) if at in bad else blind[place] for place, at in enumerate(sites)]
        attacks = {place: ATTACKS[attack] for place, at in enumerate(sites) if at in bad}
        with tempfile.TemporaryDirectory() as folder:
            run = poisoned(
                self.shape, used, settings, Path(folder), attacks=attacks, bounds=Bounds(cap=self._arguments.cap),
                vote=not self._arguments.without_votes, model_seed=self._seed,
            )  # fmt: skip
            found = []
            for place, at in enumerate(sites):
                if at in bad:
                    continue
                federated = self._federated(run, place, self._data[at])
                predicted = np.nan
                if self._arguments.predicted:
                    own = compare(
                        self.shape, blind[place], settings[place], self._seed, run.parameters(place),
                        steps=self._arguments.steps, federated_history=[], report=lambda done, total: None,
                        prefix=run.rounds[place].prefix.parameters, stacking=True, others=run.others(place),
                    )  # fmt: skip
                    site = StackedSite(self.shape, self._data[at], own, self._arguments.entries)
                    predicted = site.errors(mean_absolute)["chosen"][0]
                found.append((federated, predicted))
        return run, [float(value) for value in np.mean(found, axis=0)]

    def _federated(self, run: Poisoned, place: int, data: Dataset) -> float:
        network, model = Network(self.shape), run.parameters(place)
        network.load(model.trunk)
        network.load_private(model.private)
        rows = data.test[scorable(data, data.test, 0)]
        with np.errstate(over="ignore", invalid="ignore"):
            apart = outputs_in_blocks(data, rows, network.predict)[:, 0] - data.labels[rows, 0]
            return float(np.abs(apart).mean())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table, and the runs without a bad site."""
    rows: list[dict[str, Any]] = []
    false, told, shares, weighing = 0, 0, [], []
    names = [name for name in ATTACKS if arguments.only in ("", "all") or name in arguments.only.split(",")]
    for count in arguments.of:
        data = sites_of(arguments, count, arguments.first_seed)
        case, bad = Case(arguments, data, arguments.first_seed), tuple(range(count // 4))
        _, honest = case.errors([at for at in range(count) if at not in bad])
        for name in names:
            run, found = case.errors(range(count), name, bad)
            false += sum(at not in bad for at in run.suspended)
            told += sum(at not in bad for at in run.alarms)
            shares.append(run.look_s / run.train_s)
            weighing.append(run.weigh_s / run.train_s)
            rows.append(_row(name, bad, count, run, found, honest))
            say(f"{rows[-1]}")
    if arguments.real_peers:
        row, suspended = by_peers(arguments, arguments.first_seed)
        rows, false = [*rows, row], false + suspended
        say(f"{row}")
    quiet = {kind: without_bad_sites(arguments, kind) for kind in (arguments.honest_sites if arguments.honest else ())}
    false += sum(each["suspended"] for each in quiet.values())
    told += sum(each["alarms"] for each in quiet.values())
    return {
        "attacks": rows,
        "false_suspensions": false,
        "worst_federated_ratio": max((row["federated_ratio"] for row in rows), default=None),
        "worst_predicted_ratio": max((ratio for row in rows if (ratio := row["predicted_ratio"])), default=None),
        "look_share": float(np.mean(shares)) if shares else None,
        "weigh_share": float(np.mean(weighing)) if shares else None,
        "false_alarms": told,
        "honest_runs": quiet,
        "settings": settings_of(arguments),
    }


def without_bad_sites(arguments: argparse.Namespace, kind: str) -> dict[str, int]:
    """Runs of four honest sites of one kind: how many, sites told of, and sites suspended, in all of them."""
    found = {"runs": 0, "alarms": 0, "suspended": 0}
    for seed in range(arguments.first_seed + 1, arguments.first_seed + 1 + arguments.honest):
        run = Case(arguments, sites_of(arguments, 4, seed, kind), seed).honest()
        found = {"runs": found["runs"] + 1, "alarms": found["alarms"] + len(run.alarms),
                 "suspended": found["suspended"] + len(run.suspended)}  # fmt: skip
        say(f"{kind}, seed {seed} without a bad site: suspended {run.suspended}, told of {run.alarms}")
    return found


def by_peers(arguments: argparse.Namespace, seed: int) -> tuple[dict[str, Any], int]:
    """The row of *labels* by four daemons, and how many honest sites were suspended."""
    data = sites_of(arguments, 4, seed)
    shape = Case(arguments, data, seed).shape
    settings = training_settings(arguments, seed, 0)
    used = [spoilt("labels", data[0]), *data[1:]]
    honest = federate_poisoned(shape, data[1:], (), settings, seed, arguments.out / "honest")
    attacked = federate_poisoned(shape, used, (0,), settings, seed, arguments.out / "labels")
    reference = np.mean([errors_of(honest.models[at - 1], data[at]) for at in (1, 2, 3)], axis=0)
    found = np.mean([errors_of(attacked.models[at], data[at]) for at in (1, 2, 3)], axis=0)
    row = _row("labels, real peers", (0,), 4, attacked, found, reference)
    return row, len(honest.suspended) + sum(at != 0 for at in attacked.suspended)


def _row(
    name: str, bad: Sequence[int], count: int, run: Poisoned | PeersRun, found: Sequence[float], honest: Sequence[float]
) -> dict[str, Any]:
    federated, predicted = (value / reference for value, reference in zip(found, honest, strict=True))

    def latest(entries: Mapping[int, int]) -> int | None:
        return max(entries[at] for at in bad) if all(at in entries for at in bad) else None

    return {
        "name": name,
        "attackers": len(bad),
        "of": count,
        "predicted_ratio": None if np.isnan(predicted) else predicted,
        "federated_ratio": federated,
        "alarm_entries": latest(run.alarms),
        "suspend_entries": latest(run.suspended),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="all", help="attacks, separated by commas")
    parser.add_argument("--of", type=int, nargs="+", default=[4, 8], help="sites; a quarter of them are bad")
    parser.add_argument("--honest", type=int, default=0, help="further runs of four sites without a bad one")
    parser.add_argument("--honest-sites", nargs="+", choices=tuple(HONEST), default=["demo"], help="kinds of them")
    parser.add_argument("--data", type=Path, help="directory of the public files, for kinds that need them")
    parser.add_argument("--predicted", action="store_true", help="also score what sites predict with")
    parser.add_argument("--real-peers", action="store_true", help="also four daemons with the attack labels")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "kmel-poison")
    parser.add_argument("--without-votes", action="store_true")
    parser.add_argument("--cap", type=float, default=1.5, help="the charter's norm_cap")
    parser.add_argument("--per-site", type=int, default=120, help="compounds per site to train on or choose with")
    parser.add_argument("--first-seed", type=int, default=0)
    training_options(parser, steps=300, hidden=(64, 32), cache="kmel-poison-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    figures = measure(arguments)
    table = pd.DataFrame(figures["attacks"]).round(3)
    publish("harm by valid deltas", machine, figures, GOALS, arguments.json, [table.to_string(index=False)])


if __name__ == "__main__":
    main()
