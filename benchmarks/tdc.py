"""The 22 official TDC ADMET splits with our trunk: at the centre, and scattered over scaffold-clustered sites.

Each split is trained centrally (nine tenths of the scaffolds of train_val to train on, one to choose the checkpoint),
then, unless `--centre-only`, scattered over `--sites` sites (chem.partition) and trained locally and federated; all are
scored on the official test file. `kept_pct` is the federated share of the centre's lead over the mean local model, of
the means over seeds, on splits where the centre leads by more than two standard errors over seeds. Where the federation
beats the centre, or the lead is small, it exceeds 100; so `mean_kept_pct` counts each split at most 100, beside the
`median_kept_pct` of all and `kept_of_all_pct`, the sum of what was kept over the sum of all leads (in percent of the
local score).

    python benchmarks/tdc.py DATA --seeds 3 --json [--only caco2_wang,herg]

DATA holds tdc_admet_group/<split>/{train_val,test}.csv. Published figures: RDKit2D+MLP from the TDC leaderboard pages
(February 2023), Chemprop v2 from JacksonBurns/chemeleon, analysis/polaris_results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.parts.inprocess import federate
from benchmarks.parts.measure import at_least, parse, publish, say, this_machine
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.partition import series_partition
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.evaluation import further_scores
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import KINDS, trunk_kind
from kmel_p2p.learn.train.checkpoint import train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.worker.plan import TrainingSettings

POLICY = FeatureRule(stereo="keep")
BATCH = 64
EPOCHS, FEWEST_STEPS = 25, 400
STOPS, PATIENCE = 50, 15
"""Stops at which the validation fold looks for a checkpoint, and those without a better one that end the training."""

GOALS = {"beats_rdkit2d": at_least(16), "beats_chemprop": at_least(8), "mean_kept_pct": at_least(90)}
SMOKE: dict[str, Any] = {
    "only": "caco2_wang",
    "seeds": 1,
    "steps": 20,
    "entries": 2,
    "sites": 2,
    "limit": 60,
    "members": 1,
}


@dataclasses.dataclass(frozen=True)
class Split:
    """One official split: score, whether labels are logarithms, and what others published."""

    metric: str
    log: bool = False
    rdkit2d: float | None = None
    chemprop: float | None = None


SPLITS = {
    "caco2_wang": Split("mae", False, 0.393, 0.372),
    "bioavailability_ma": Split("auroc", False, 0.672, 0.597),
    "lipophilicity_astrazeneca": Split("mae", False, 0.574, 0.462),
    "solubility_aqsoldb": Split("mae", False, 0.827),
    "hia_hou": Split("auroc", False, 0.972),
    "pgp_broccatelli": Split("auroc", False, 0.918, 0.887),
    "bbb_martins": Split("auroc", False, 0.889, 0.864),
    "ppbr_az": Split("mae", False, 9.994, 8.106),
    "vdss_lombardo": Split("spearman", True, 0.561, 0.476),
    "cyp2c9_veith": Split("average_precision", False, 0.742),
    "cyp2d6_veith": Split("average_precision", False, 0.616),
    "cyp3a4_veith": Split("average_precision", False, 0.829),
    "cyp2c9_substrate_carbonmangels": Split("average_precision", False, 0.360, 0.412),
    "cyp2d6_substrate_carbonmangels": Split("average_precision", False, 0.677, 0.655),
    "cyp3a4_substrate_carbonmangels": Split("auroc", False, 0.639, 0.566),
    "half_life_obach": Split("spearman", True, 0.184, 0.275),
    "clearance_hepatocyte_az": Split("spearman", True, 0.382, 0.352),
    "clearance_microsome_az": Split("spearman", True, 0.586, 0.513),
    "ld50_zhu": Split("mae", False, 0.678, 0.598),
    "herg": Split("auroc", False, 0.841, 0.697),
    "ames": Split("auroc", False, 0.823, 0.836),
    "dili": Split("auroc", False, 0.875, 0.906),
}


def load(
    data: Path, name: str, cache: StructureCache, workers: int, limit: int, trunk: str = "mlp"
) -> tuple[AssayEndpoint, Dataset, StructureTable]:
    """Assay endpoint, dataset (train_val in the train fold, then the test file) and structures in the same order.

    `trunk`: kind of trunk that reads the inputs.
    """
    parts = [pd.read_csv(data / "tdc_admet_group" / name / f"{part}.csv") for part in ("train_val", "test")]
    if limit:
        parts = [part.sample(min(limit, len(part)), random_state=0) for part in parts]
    both = pd.concat(parts, ignore_index=True)
    described = describe_all(list(both["Drug"]), POLICY, cache=cache, workers=workers)
    # A test compound that cannot be read would have to be guessed; there are two in all 22 splits.
    usable = np.flatnonzero([not described.table.reasons[row] for row in described.row_of])
    table = described.table.take(described.row_of[usable])
    values = both["Y"].to_numpy(np.float64)[usable]
    test = usable >= len(parts[0])
    split = SPLITS[name]
    if split.metric in ("auroc", "average_precision"):
        endpoint = AssayEndpoint(name=name, kind="classification", head="shared")
    else:
        values = np.log10(np.maximum(values, 1e-3)) if split.log else values
        center, scale = float(np.mean(values[~test])), float(np.std(values[~test]))
        endpoint = AssayEndpoint(name=name, center=center, scale=scale, head="shared")
    labels = endpoint.label(values).astype(np.float32)[:, None]
    dataset = Dataset(
        (endpoint,), Inputs(table.counts, table.descriptors, trunk_kind(trunk).molecules(table.smiles)), labels,
        np.zeros(labels.shape, np.int8), np.flatnonzero(~test), np.empty(0, np.int64), np.flatnonzero(test),
    )  # fmt: skip
    return endpoint, dataset, table


def shape_of(arguments: argparse.Namespace, endpoint: AssayEndpoint) -> Architecture:
    """The network of `--trunk`: an ensemble of perceptrons, or message passing with one layer behind it."""
    if trunk_kind(arguments.trunk).perceptron:
        return Architecture(
            inputs=POLICY.width,
            descriptors=len(descriptor_constants()),
            trunk=arguments.trunk,
            hidden=(512, 256) if arguments.trunk == "mlp" else (128, 64),
            endpoints=(endpoint,),
            dropout=arguments.dropout,
            members=arguments.members or 3,
        )
    return Architecture(
        inputs=POLICY.width, hidden=(300,), endpoints=(endpoint,), dropout=arguments.dropout,
        members=arguments.members or 1, trunk="dmpnn",
        descriptors=len(descriptor_constants()),
    )  # fmt: skip


def budget(compounds: int, most: int) -> int:
    """Optimiser steps: 25 epochs, within bounds."""
    return min(most, max(FEWEST_STEPS, EPOCHS * compounds // BATCH))


def held_out(dataset: Dataset, table: StructureTable, rows: np.ndarray, seed: int) -> Dataset:
    """`rows` of the train fold, a tenth of their scaffolds for choosing."""
    folds = SplitRule(fold_key=f"tdc {seed}", valid_fraction=0.1, test_fraction=0.0).folds(
        [table.series[row] for row in rows]
    )
    return dataclasses.replace(dataset, train=rows[folds == Fold.TRAIN], valid=rows[folds == Fold.VALID])


def test_score(dataset: Dataset, predict: Callable[..., Any], metric: str) -> float:
    endpoint = dataset.endpoints[0]
    output = predict(dataset.inputs.rows(dataset.test))[:, 0]
    found = further_scores(endpoint, output, dataset.labels[dataset.test, 0].astype(np.float64))
    return float(found[metric]) if found[metric] is not None else float("nan")


def run(arguments: argparse.Namespace, name: str, seed: int, cache: StructureCache) -> dict[str, float]:
    """Scores of one split and seed."""
    endpoint, dataset, table = load(arguments.data, name, cache, arguments.workers, arguments.limit, arguments.trunk)
    metric = SPLITS[name].metric
    shape = shape_of(arguments, endpoint)

    def trained(data: Dataset, site_seed: int, steps: int) -> float:
        network = Network(shape)
        start_local(network, shape, seed, site_seed)
        settings = TrainingSettings(batch_size=BATCH, learning_rate=arguments.rate, weight_decay=0.01, seed=site_seed)
        train_with_checkpoints(
            network,
            data,
            settings,
            steps=steps,
            every=max(1, steps // STOPS),
            stops_without_gain=PATIENCE,
        )
        return test_score(data, network.predict, metric)

    steps = budget(len(dataset.train), arguments.steps)
    scores = {"centre": trained(held_out(dataset, table, dataset.train, seed), seed, steps)}
    if arguments.centre_only:
        return scores
    site_of = series_partition(table.take(dataset.train), arguments.sites, seed)
    parts = [
        held_out(dataset, table, dataset.train[site_of == site], seed)
        for site in range(arguments.sites)
        if np.count_nonzero(site_of == site) >= 8
    ]
    per_entry = max(1, round(arguments.share * steps / arguments.entries))
    settings = [
        TrainingSettings(
            batch_size=BATCH,
            learning_rate=arguments.rate,
            weight_decay=0.01,
            seed=1000 * seed + at,
            entry_limit=arguments.entries,
            steps_per_entry=per_entry,
        )
        for at in range(len(parts))
    ]
    with tempfile.TemporaryDirectory() as folder:
        blind = [dataclasses.replace(part, valid=part.valid[:0], test=part.test[:0]) for part in parts]
        together = federate(shape, blind, settings, arguments.entries, Path(folder), model_seed=seed)
    network = Network(shape)
    network.load(together.trunk)
    scores["federated"] = test_score(dataset, network.predict, metric)
    local = [
        trained(part, setting.seed, per_entry * arguments.entries)
        for part, setting in zip(parts, settings, strict=True)
    ]
    scores["local"] = float(np.nanmean(local))
    return scores


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="splits, separated by commas; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500, help="at most; 25 epochs where those are fewer")
    parser.add_argument("--trunk", choices=list(KINDS), default="mlp", help="dmpnn needs the extra gnn")
    parser.add_argument("--members", type=int, help="networks in the ensemble; default: 3, with dmpnn 1")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--entries", type=int, default=100)
    parser.add_argument("--share", type=float, default=1.0, help="of the centre's steps that each site takes")
    parser.add_argument("--rate", type=float, default=1e-4, help="chosen on scaffold-disjoint fifths of train_val")
    parser.add_argument("--limit", type=int, default=0, help="rows per file, for a trial; 0: all")
    parser.add_argument("--centre-only", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-tdc-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    names = arguments.only.split(",") if arguments.only else list(SPLITS)
    rows = []
    for name in names:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        runs = [run(arguments, name, seed, StructureCache(arguments.cache)) for seed in seeds]
        rows.append(summary(name, runs))
        say(f"{name}: {json.dumps(rows[-1])}")
    details = [pd.DataFrame(rows).drop(columns="runs").round(3).to_string(index=False)]
    publish("TDC ADMET splits", machine, overall(rows), GOALS, arguments.json, details)


def summary(name: str, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over seeds of one split, beside published figures, and what of the centre's lead was kept."""
    split = SPLITS[name]
    mean = {key: float(np.mean([scores[key] for scores in runs])) for key in runs[0]}
    sign = 1 if split.metric == "mae" else -1
    row: dict[str, Any] = {"split": name, "metric": split.metric, **mean, "runs": list(runs)}
    for other in ("rdkit2d", "chemprop"):
        published = getattr(split, other)
        if published is not None:
            row |= {other: published, f"beats_{other}": sign * mean["centre"] <= sign * published}
    if "local" in mean:
        leads = np.array([sign * (scores["local"] - scores["centre"]) for scores in runs])
        error = float(leads.std(ddof=1)) / len(leads) ** 0.5 if len(leads) > 1 else 0.0
        lead, kept = float(leads.mean()), sign * (mean["local"] - mean["federated"])
        row |= {"lead_pct": 100 * lead / abs(mean["local"]), "kept_of_local_pct": 100 * kept / abs(mean["local"])}
        if lead > max(0.0, 2 * error):
            row["kept_pct"] = 100 * kept / lead
    return row


def overall(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and means over splits."""
    found: dict[str, Any] = {
        "splits": rows,
        "beats_rdkit2d": sum(row.get("beats_rdkit2d", False) for row in rows),
        "beats_chemprop": sum(row.get("beats_chemprop", False) for row in rows),
    }
    kept = [row["kept_pct"] for row in rows if "kept_pct" in row]
    if kept:
        found |= {
            "mean_kept_pct": float(np.mean(np.minimum(kept, 100.0))),
            "median_kept_pct": float(np.median(kept)),
            "splits_with_a_lead": len(kept),
        }
    scattered = [row for row in rows if "lead_pct" in row]
    if scattered:
        leads = sum(row["lead_pct"] for row in scattered)
        found["kept_of_all_pct"] = 100 * sum(row["kept_of_local_pct"] for row in scattered) / leads
    return found


if __name__ == "__main__":
    main()
