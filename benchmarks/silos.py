"""Real silos: does federating help companies that measured the same assay endpoint on other chemistry?

AstraZeneca (TDC lipophilicity and microsomal clearance), Biogen, ExpansionRx, and ChEMBL (PharmaBench without
AstraZeneca's compounds): logD, HLM clearance, efflux, solubility; eleven pairs of silo and assay endpoint. A fifth of
the scaffolds of each silo are its test fold. `--per-silo` counts the compounds per silo and assay endpoint that are
trained on or chosen with (four to one).

    python benchmarks/silos.py DATA --per-silo 300 --seeds 3 --json

DATA is a directory with the public files biogen/, expansionrx/, pharmabench/ and tdc_admet_group/ (silos_data.py). The
federation runs in one process (inprocess.py), or with `--real-peers` as four daemons on this machine (silos_peers.py);
everything after it is the product's own comparison. Scores are MAE in log10 units (logD: in its own), lower is better,
means over seeds. Beside the product's models:

    control   mean of two local models of different seeds, which a hybrid has to beat
    pooled    one model on the data of all silos, with a head for each silo: what nobody may train

`best_local` is the strongest stack a silo can make alone, `stack` the same with the federation's learners
(`learn.stack`), and `chosen` what sites predict with: the stack where held-out compounds do not contradict it, else the
best local. `cross_silo` scores each silo's models on the other silos' test folds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.parts.measure import at_most, parse, publish, publish_so_far, say, settings_of, this_machine
from benchmarks.parts.silos_data import ENDPOINTS, POLICY, SILOS, datasets, read_silos
from benchmarks.parts.silos_peers import federate_peers
from benchmarks.parts.silos_pooled import pooled_predictors
from benchmarks.parts.stacked import change_pct, stacked_sites, training_settings
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.evaluate.comparison import predictors, train_local
from kmel_p2p.learn.evaluate.scores import Predict, forest_baseline, median_baseline, scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import CHOSEN, answers, outputs_of
from kmel_p2p.learn.stack.stack import SiteStack
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

GOALS = {
    "mean_change_pct": at_most(-3.0),
    "worst_change_pct": at_most(1.0),
    "logd_mean_change_pct": at_most(-4.0),
    "logd_worst_change_pct": at_most(-2.5),
    "cross_silo_federated_change_pct": at_most(-15.0),
    "mean_change_vs_best_local_pct": at_most(-4.0),
    "worst_change_vs_best_local_pct": at_most(0.5),
    "logd_change_vs_best_local_pct": at_most(-6.0),
    "cross_silo_change_vs_best_local_pct": at_most(-12.0),
}
"""For 300 compounds and shared heads."""
SMOKE: dict[str, Any] = {"per_silo": 20, "pool": 60, "seeds": 1, "steps": 8, "entries": 2, "hidden": [8]}

SILO_NAMES = {"az": "AstraZeneca", "biogen": "Biogen", "expansion": "ExpansionRx", "chembl": "ChEMBL"}
ENDPOINT_NAMES = {"logd": "logD", "hlm": "HLM clearance", "efflux": "efflux", "solubility": "solubility"}
MARKS = {
    "control": ("two local models, averaged", "o", "0.6"),
    "federated": ("federated", "s", "tab:orange"),
    "best_local": ("best local stack", "^", "tab:green"),
    "chosen": ("what the site predicts with", "D", "tab:blue"),
}


@dataclass(frozen=True)
class Site:
    """One silo after the federation: its models, which the validation fold chose, and the stack where there is one."""

    silo: str
    data: Dataset
    predict: Mapping[str, Predict]
    chosen: Mapping[str, str]
    forest: Predict | None = None
    stack: SiteStack | None = None


def run(arguments: argparse.Namespace, seed: int, data: Sequence[Dataset]) -> dict[str, Any]:
    """All scores of one seed: `pairs`, (silo, assay endpoint) -> model -> MAE, and `cross`, the same elsewhere."""
    endpoints = tuple(e.changed(head=arguments.heads) for e in ENDPOINTS)
    data = [dataclasses.replace(part, endpoints=endpoints) for part in data]
    shape = Architecture(
        inputs=POLICY.width,
        descriptors=len(descriptor_constants()),
        trunk=arguments.trunk,
        seed=seed,
        hidden=tuple(arguments.hidden),
        endpoints=endpoints,
        dropout=arguments.dropout,
        calibrate=arguments.heads == "shared",
    )
    make = _peers if arguments.real_peers else _in_process
    sites, budget = make(arguments, seed, shape, data)
    pooled = None
    if not arguments.lean:
        pooled = pooled_predictors(shape, data, _settings(arguments, seed, 0), seed, len(data) * budget)
    pairs: dict[tuple[str, str], dict[str, float]] = {}
    cross: dict[tuple[str, str], dict[str, float]] = {}
    for at, site in enumerate(sites):
        predict = dict(site.predict)
        if pooled is not None:
            predict["control"] = _control(shape, site, _settings(arguments, seed, at), seed, budget)
            predict["pooled"] = pooled[at]
            predict["median"] = median_baseline(site.data)
            predict["forest"] = site.forest or forest_baseline(site.data, seed)
        names = [site.chosen[endpoint.name] for endpoint in endpoints]
        errors = [_errors(other.data, predict, names, Neighbours.of(site.data), site.stack) for other in sites]
        for place, endpoint in enumerate(endpoints):
            if not len(site.data.measured(site.data.train, place)):
                continue
            key = (site.silo, endpoint.name)
            pairs[key] = {name: error[place] for name, error in errors[at].items()}
            others = [
                to for to, other in enumerate(sites) if to != at and len(other.data.measured(other.data.test, place))
            ]
            means = {name: float(np.mean([errors[to][name][place] for to in others])) for name in errors[at]}
            cross[key] = means
        say(f"seed {seed}: {site.silo} scored; chosen: {dict(site.chosen)}")
    return {"pairs": pairs, "cross": cross}


def _errors(
    data: Dataset, predict: Mapping[str, Predict], chosen: Sequence[str], own: Neighbours, stack: SiteStack | None
) -> dict[str, list[float]]:
    """MAE on the test fold of each model, and of what a site with these neighbours predicts, by assay endpoint.

    NaN where nothing was measured.
    """
    inputs, labels = data.inputs.rows(data.test), data.labels[data.test]
    known = [scorable(data, data.test, place) for place in range(len(data.endpoints))]
    outputs = outputs_of(predict, predict, inputs)
    bits = data.inputs.bits(data.test)
    if stack is None:
        outputs[CHOSEN] = answers(outputs, chosen, own.foreign(bits))
    else:
        outputs |= stack.sides(inputs)
        outputs[CHOSEN] = stack.chosen(outputs, own.unusual(bits))
    found = {}
    for name, output in outputs.items():
        off = np.abs(output - labels)
        found[name] = [
            float(off[which, place].mean() * endpoint.scale) if which.any() else np.nan
            for place, (which, endpoint) in enumerate(zip(known, data.endpoints, strict=True))
        ]
    return found


def _settings(arguments: argparse.Namespace, seed: int, at: int) -> TrainingSettings:
    return training_settings(arguments, seed, at, arguments.decay)


def _in_process(
    arguments: argparse.Namespace, seed: int, shape: Architecture, data: Sequence[Dataset]
) -> tuple[list[Site], int]:
    settings = [_settings(arguments, seed, at) for at in range(len(data))]
    stacked = stacked_sites(shape, data, settings, seed, dense=arguments.dense, sealed=arguments.sealed)
    sites = []
    for silo, site in zip(SILOS, stacked, strict=True):
        own = site.comparison
        chosen = {e["name"]: e["chosen"] for e in own.result["endpoints"]}
        sites.append(Site(silo, site.data, predictors(shape, own.models), chosen, own.forest, site.stack))
        budget = own.result["steps"] + own.result["tuning_steps"]
    return sites, budget


def _peers(
    arguments: argparse.Namespace, seed: int, shape: Architecture, data: Sequence[Dataset]
) -> tuple[list[Site], int]:
    models, budget = federate_peers(shape, data, _settings(arguments, seed, 0), seed, arguments.out)
    sites = [
        Site(silo, part, model.predictors, model.chosen, stack=model.stack)
        for silo, part, model in zip(SILOS, data, models, strict=True)
    ]
    return sites, budget


def _control(shape: Architecture, site: Site, settings: TrainingSettings, seed: int, budget: int) -> Predict:
    second = Network(shape)
    train_local(shape, site.data, settings, seed, 1, steps=budget).load_into(second)
    local = site.predict["local"]
    return lambda inputs: (local(inputs) + second.predict(inputs)) / 2


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and changes against local in percent."""
    pairs = _rows([r["pairs"] for r in runs])
    changes = [pair["change_pct"] for pair in pairs]
    by_seed = [np.mean([change_pct(pair["chosen"], pair["local"]) for pair in r["pairs"].values()]) for r in runs]
    logd = [pair["change_pct"] for pair in pairs if pair["endpoint"] == "logd"]
    crossed = _rows([r["cross"] for r in runs])
    return {
        "pairs": pairs,
        "mean_change_pct": float(np.mean(changes)),
        "worst_change_pct": float(np.max(changes)),
        "mean_change_pct_by_seed": [float(change) for change in by_seed],
        "logd_mean_change_pct": float(np.mean(logd)),
        "logd_worst_change_pct": float(np.max(logd)),
        **_against_best_local(pairs, crossed),
        **{f"mean_{name}_change_pct": _change(pairs, name) for name in _compared(pairs) if name != "chosen"},
        **{f"cross_silo_{name}_change_pct": _change(crossed, name) for name in _compared(crossed)},
        "cross_silo": crossed,
        "pairs_by_seed": [_rows([r["pairs"]]) for r in runs],
    }


def _against_best_local(pairs: Sequence[Mapping[str, Any]], crossed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Changes of what sites predict with against the best local stack, %; nothing where there is no stack."""
    if "best_local" not in pairs[0]:
        return {}
    changes = [change_pct(pair["chosen"], pair["best_local"]) for pair in pairs]
    logd = [change for change, pair in zip(changes, pairs, strict=True) if pair["endpoint"] == "logd"]
    cross = [change_pct(pair["chosen"], pair["best_local"]) for pair in crossed]
    return {
        "mean_change_vs_best_local_pct": float(np.mean(changes)),
        "worst_change_vs_best_local_pct": float(np.max(changes)),
        "logd_change_vs_best_local_pct": float(np.mean(logd)) if logd else np.nan,
        "cross_silo_change_vs_best_local_pct": float(np.mean(cross)),
    }


def _rows(by_seed: Sequence[Mapping[tuple[str, str], Mapping[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for silo, endpoint in by_seed[0]:
        scores = [r[silo, endpoint] for r in by_seed]
        mean = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
        change = change_pct(mean["chosen"], mean["local"])
        rows.append({"silo": silo, "endpoint": endpoint, **mean, "change_pct": change})
    return rows


def _compared(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in rows[0] if name not in ("silo", "endpoint", "local", "change_pct")]


def _change(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([change_pct(row[name], row["local"]) for row in rows]))


def plot(figures: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the errors of `summary` relative to each silo's local model to an SVG file.

    Left on its own test fold, right on the chemistry of the other silos.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "silos"  # the same figures give the same file
    panes, axes = pyplot.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    _pane(axes[0], figures["pairs"], "its own test compounds")
    _pane(axes[1], figures["cross_silo"], "compounds of the other silos")
    axes[0].set_yticks(range(len(figures["pairs"])), [_name(row) for row in figures["pairs"]])
    axes[0].invert_yaxis()
    panes.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(MARKS), fontsize=9)
    panes.suptitle(title, fontsize=11)
    panes.savefig(path, metadata={"Date": None})
    pyplot.close(panes)


def _pane(axis: Any, rows: Sequence[Mapping[str, Any]], where: str) -> None:
    axis.axvline(0.0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        changes = {name: change_pct(row[name], row["local"]) for name in MARKS if name in row}
        axis.plot([0.0, changes["chosen"]], [place, place], color="tab:blue", linewidth=2, alpha=0.5)
        for name, change in changes.items():
            text, mark, color = MARKS[name]
            axis.plot(change, place, mark, color=color, label=text if place == 0 else None, markersize=6)
    axis.set_xlabel(f"change of MAE against local, %\non {where}")
    axis.grid(axis="x", alpha=0.3)


def _name(row: Mapping[str, Any]) -> str:
    return f"{SILO_NAMES[row['silo']]}, {ENDPOINT_NAMES[row['endpoint']]}"


def command_line(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-silo", type=int, default=300)
    parser.add_argument("--pool", type=int, default=5000, help="compounds per silo and assay endpoint to draw from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="settings were chosen on seeds from 100 on")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each site")
    parser.add_argument("--entries", type=int, default=40)
    parser.add_argument("--trunk", choices=("mlp", "projected"), default="mlp", help="projected with --hidden 128 64")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--heads", choices=["shared", "private"], default="shared")
    parser.add_argument("--dense", action="store_true", help="exchange float32 deltas")
    parser.add_argument("--sealed", action="store_true", help="exchange sums as sealed rounds make them")
    parser.add_argument("--lean", action="store_true", help="without control, pooled, forest and median")
    parser.add_argument("--real-peers", action="store_true", help="four daemons instead of one process")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos", help="of real peers")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    parser.add_argument("--plot", type=Path, help="draw changes against local to this SVG file")
    parsed = parse(parser, SMOKE, given)
    if parsed.real_peers and (parsed.dense or parsed.sealed):
        parser.error("real peers encode as a ledger does; --dense and --sealed are for the federation in one process")
    if parsed.dense and parsed.sealed:
        parser.error("--dense exchanges whole deltas, --sealed sums of levels: choose one")
    return parsed


def main(given: Sequence[str] | None = None) -> None:
    arguments = command_line(given)
    machine = this_machine()
    torch.set_num_threads(1)
    silos, cache = read_silos(arguments.data), StructureCache(arguments.cache)
    runs = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        data = datasets(silos, arguments.per_silo, arguments.pool, seed, cache, arguments.workers)
        runs.append(run(arguments, seed, data))
        figures = {**summary(runs), "settings": settings_of(arguments)}
        publish_so_far(machine, figures, GOALS, arguments.json, f"seeds above {seed}")
    if arguments.plot:
        title = f"Error against the model each silo can train alone ({arguments.per_silo:,} compounds each)"
        plot(figures, title, arguments.plot)
    title = f"real silos, {arguments.per_silo} compounds per silo and assay endpoint"
    details = [pd.DataFrame(figures["pairs"]).round(3).to_string(index=False)]
    publish(title, machine, figures, GOALS, arguments.json, details)


if __name__ == "__main__":
    main()
