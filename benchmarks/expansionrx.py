"""ExpansionRx by time: how good is the best model of one company, and what do three others add?

The training file of the public OpenADMET-ExpansionRx challenge, nine assay endpoints, in the order of molecule numbers:
the last fifth is the test, as if it had been made next. Labels are log10(x + 1), except LogD, as in the challenge. The
federation has three other silos beside (AstraZeneca, Biogen, ChEMBL; silos_data.py), which measured logD, HLM
clearance, efflux and solubility.

    python benchmarks/expansionrx.py DATA --json

Errors are the challenge's: relative absolute error, the sum of absolute errors over that of the test compounds' mean.
1 is worth nothing, lower is better. `best_local` is the strongest stack that ExpansionRx could make alone, `stack` the
same with the federation's learners, `chosen` what it would predict with.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.parts.measure import at_most, parse, publish, publish_so_far, say, settings_of, this_machine
from benchmarks.parts.silos_data import POLICY, datasets, labelled, read_silos
from benchmarks.parts.stacked import SHOWN, change_pct, stacked_sites, training_settings
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.train.dataset import Dataset, Inputs

GOALS = {"best_local_rae": at_most(0.62), "change_vs_best_local_pct": at_most(-3.0)}
SMOKE: dict[str, Any] = {
    "only": "logd,hlm",
    "seeds": 1,
    "steps": 8,
    "entries": 2,
    "hidden": [8],
    "per_silo": 20,
    "pool": 60,
}

COLUMNS = {
    "logd": "LogD",
    "solubility": "KSOL",
    "hlm": "HLM CLint",
    "mlm": "MLM CLint",
    "papp": "Caco-2 Permeability Papp A>B",
    "efflux": "Caco-2 Permeability Efflux",
    "mppb": "MPPB",
    "mbpb": "MBPB",
    "mgmb": "MGMB",
}
"""Assay endpoint -> column of the file."""

ENDPOINTS = (
    AssayEndpoint(name="logd", center=2.0, scale=1.3, head="shared"),
    AssayEndpoint(name="solubility", center=1.5, scale=0.8, head="shared"),
    AssayEndpoint(name="hlm", center=1.3, scale=0.6, head="shared"),
    AssayEndpoint(name="mlm", center=1.5, scale=0.7, head="shared"),
    AssayEndpoint(name="papp", center=0.8, scale=0.5, head="shared"),
    AssayEndpoint(name="efflux", center=0.5, scale=0.6, head="shared"),
    AssayEndpoint(name="mppb", center=1.0, scale=0.6, head="shared"),
    AssayEndpoint(name="mbpb", center=1.0, scale=0.6, head="shared"),
    AssayEndpoint(name="mgmb", center=1.0, scale=0.6, head="shared"),
)
TEST_SHARE = 0.2
VALID_FRACTION = 0.1


def by_time(
    data: Path,
    endpoints: tuple[AssayEndpoint, ...],
    cache: StructureCache,
    seed: int,
    compounds: int = 0,
    workers: int = 1,
) -> Dataset:
    """ExpansionRx with the last fifth of its molecules as the test fold.

    Args:
        seed: of the validation fold.
        compounds: only so many, evenly spread over time; 0: all.
    """
    frame = pd.read_csv(data / "expansionrx/expansion_data_train.csv")
    frame["number"] = frame["Molecule Name"].str.extract(r"(\d+)", expand=False).astype(int)
    frame = frame.sort_values("number", ignore_index=True)
    if compounds:
        frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, compounds).astype(int))].reset_index(drop=True)
    described = describe_all(list(frame["SMILES"]), POLICY, cache=cache, workers=workers)
    table = described.table.take(described.row_of)
    usable = np.array([not reason for reason in table.reasons])
    test = usable & (np.arange(len(frame)) >= round((1 - TEST_SHARE) * len(frame)))
    tested = {table.identities[row] for row in np.flatnonzero(test)}
    before = usable & ~test & np.array([identity not in tested for identity in table.identities])
    split = SplitRule(fold_key=f"expansionrx {seed}", valid_fraction=VALID_FRACTION, test_fraction=0.0)
    folds = split.folds(table.series)
    labels = np.stack([_labels(frame, endpoint) for endpoint in endpoints], axis=1).astype(np.float32)
    dataset = Dataset(
        endpoints,
        Inputs(table.counts, table.descriptors),
        labels,
        np.zeros(labels.shape, np.int8),
        np.flatnonzero(before & (folds == Fold.TRAIN)),
        np.flatnonzero(before & (folds == Fold.VALID)),
        np.flatnonzero(test),
        tuple(table.smiles),
    )
    return dataset.with_calibration(split.apart(table.series))


def _labels(frame: pd.DataFrame, endpoint: AssayEndpoint) -> NDArray[np.float64]:
    found = np.full(len(frame), np.nan)
    values = labelled(
        frame.reset_index(), "index", COLUMNS[endpoint.name],
        (lambda values: values) if endpoint.name == "logd" else (lambda values: np.log10(values.clip(lower=0) + 1)),
    )  # fmt: skip
    found[values["smiles"]] = (values["label"] - endpoint.center) / endpoint.scale
    return found


def relative_error(endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float32]) -> float:
    """Sum of absolute errors over that of the labels' mean."""
    return float(np.abs(outputs - labels).sum() / np.abs(labels - labels.mean()).sum())


def run(arguments: argparse.Namespace, seed: int, silos: Mapping[str, Any], cache: StructureCache) -> pd.DataFrame:
    """Relative errors of one seed: a row for each assay endpoint."""
    wanted = arguments.only.split(",") if arguments.only else list(COLUMNS)
    endpoints = tuple(endpoint for endpoint in ENDPOINTS if endpoint.name in wanted)
    own = by_time(arguments.data, endpoints, cache, seed, arguments.compounds, arguments.workers)
    others = datasets(
        {name: tables for name, tables in silos.items() if name != "expansion"},
        arguments.per_silo, arguments.pool, seed, cache, arguments.workers, endpoints,
    )  # fmt: skip
    shape = Architecture(
        inputs=POLICY.width, hidden=tuple(arguments.hidden), endpoints=endpoints, dropout=arguments.dropout,
        calibrate=True,
    )  # fmt: skip
    settings = [training_settings(arguments, seed, at) for at in range(len(others) + 1)]
    (site,) = stacked_sites(
        shape,
        [own, *others],
        settings,
        seed,
        scored=[0],
        graph_networks=arguments.graph_networks,
        tick=lambda text: say(f"seed {seed}: {text}"),
    )
    rows = pd.DataFrame(site.errors(relative_error))
    rows.insert(0, "endpoint", [endpoint.name for endpoint in endpoints])
    for fold in ("train", "test"):
        counts = [len(own.measured(getattr(own, fold), place)) for place in range(len(endpoints))]
        rows.insert(1 + (fold == "test"), fold, counts)
    return rows


def summary(runs: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Means over seeds, by assay endpoint and over all of them."""
    rows = runs[0].copy()
    for name in SHOWN:
        rows[name] = np.mean([found[name] for found in runs], axis=0)
    rows = rows[rows["best_local"].notna()]
    means = {f"{name}_rae": float(rows[name].mean()) for name in SHOWN}
    changes = [change_pct(chosen, local) for chosen, local in zip(rows["chosen"], rows["best_local"], strict=True)]
    return {
        "endpoints": rows.assign(change_pct=changes).to_dict("records"),
        **means,
        "change_vs_best_local_pct": change_pct(means["chosen_rae"], means["best_local_rae"]),
        "stack_change_vs_best_local_pct": change_pct(means["stack_rae"], means["best_local_rae"]),
        "worst_change_vs_best_local_pct": max(changes),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="assay endpoints, separated by commas; default: all nine")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--compounds", type=int, default=0, help="of ExpansionRx, evenly spread over time; 0: all")
    parser.add_argument("--per-silo", type=int, default=1000, help="compounds per other silo and assay endpoint")
    parser.add_argument("--pool", type=int, default=2000, help="compounds per silo and assay endpoint to draw from")
    parser.add_argument("--steps", type=int, default=1200, help="optimiser steps of each site")
    parser.add_argument("--entries", type=int, default=60)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--graph-networks", type=int, default=0, help="in both stacks (extra gnn)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    silos, cache = read_silos(arguments.data), StructureCache(arguments.cache)
    runs = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        runs.append(run(arguments, seed, silos, cache))
        figures = summary(runs)
        publish_so_far(machine, figures, GOALS, arguments.json, f"seeds above {seed}")
    details = [pd.DataFrame(figures["endpoints"]).round(3).to_string(index=False)]
    publish(
        "ExpansionRx by time, nine assay endpoints", machine, {**figures, "settings": settings_of(arguments)}, GOALS,
        arguments.json, details,
    )  # fmt: skip


if __name__ == "__main__":
    main()
