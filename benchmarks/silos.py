"""Real silos: does federating help companies that measured the same assay endpoint on other chemistry?

AstraZeneca (TDC lipophilicity and microsomal clearance), Biogen, ExpansionRx, and ChEMBL (PharmaBench without
AstraZeneca's compounds): logD, HLM clearance, efflux, solubility; eleven pairs of silo and assay endpoint. A fifth of
the scaffolds of each silo are its test fold. `--per-silo` counts the compounds per silo and assay endpoint that are
trained on or chosen with (four to one).

    python benchmarks/silos.py DATA --per-silo 300 --seeds 3 --json

DATA is a directory with the public files biogen/, expansionrx/, pharmabench/ and tdc_admet_group/. The federation runs
in one process (inprocess.py). Scores are MAE in log10 units (logD: in its own), lower is better; `control` is the mean
of two local models, which a hybrid has to beat.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from inprocess import federate
from rdkit import Chem
from rdkit.Chem import Descriptors

from kmel_p2p.chem.cache import StructureCache
from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.policy import FeaturePolicy
from kmel_p2p.chem.split import SplitPolicy
from kmel_p2p.chem.structures import describe_all
from kmel_p2p.learn.architecture import Architecture
from kmel_p2p.learn.checkpoint import train_with_checkpoints
from kmel_p2p.learn.comparison import compare, predictors, start_local
from kmel_p2p.learn.dataset import Dataset, Inputs
from kmel_p2p.learn.forest import forest_baseline
from kmel_p2p.learn.networks import Network
from kmel_p2p.learn.scores import median_baseline, scorable
from kmel_p2p.learn.session import TrainingSettings

SILOS = ("az", "biogen", "expansion", "chembl")
ENDPOINTS = (
    AssayEndpoint("logd", center=2.0, scale=1.3, head="shared"),
    AssayEndpoint("hlm", center=1.3, scale=0.6, head="shared"),
    AssayEndpoint("efflux", center=0.5, scale=0.6, head="shared"),
    AssayEndpoint("solubility", center=1.5, scale=0.8, head="shared"),
)
"""Labels are log10 values (logD: as it is). HLM is mL/min/kg or uL/min/mg by silo, which calibration has to absorb."""

POLICY = FeaturePolicy()
MAX_TEST = 1000


def read_silos(data: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Silo -> assay endpoint -> table with `smiles` and `label`."""

    def table(path: str, smiles: str, column: str, label: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
        frame = pd.read_csv(data / path)[[smiles, column]].dropna()
        values = label(pd.to_numeric(frame[column], errors="coerce").where(lambda v: np.isfinite(v)))
        return pd.DataFrame({"smiles": frame[smiles], "label": values}).dropna()

    def tdc(name: str, label: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
        return pd.concat(
            table(f"tdc_admet_group/{name}/{part}.csv", "Drug", "Y", label) for part in ("train_val", "test")
        )

    def as_is(values: pd.Series) -> pd.Series:
        return values

    def log(values: pd.Series) -> pd.Series:
        return np.log10(values.where(values > 0))

    biogen, expansion, bench = (
        "biogen/ADME_public_set_3521.csv",
        "expansionrx/expansion_data_train.csv",
        "pharmabench/final_datasets",
    )
    solubility = table(biogen, "SMILES", "LOG SOLUBILITY PH 6.8 (ug/mL)", as_is)
    # log10 ug/mL to log10 umol/L
    weights = [Descriptors.MolWt(Chem.MolFromSmiles(smiles)) for smiles in solubility["smiles"]]
    solubility["label"] = solubility["label"] + 3 - np.log10(weights)
    return {
        "az": {"logd": tdc("lipophilicity_astrazeneca", as_is), "hlm": tdc("clearance_microsome_az", log)},
        "biogen": {
            "hlm": table(biogen, "SMILES", "LOG HLM_CLint (mL/min/kg)", as_is),
            "efflux": table(biogen, "SMILES", "LOG MDR1-MDCK ER (B-A/A-B)", as_is),
            "solubility": solubility,
        },
        "expansion": {
            "logd": table(expansion, "SMILES", "LogD", as_is),
            "hlm": table(expansion, "SMILES", "HLM CLint", log),
            "efflux": table(expansion, "SMILES", "Caco-2 Permeability Efflux", log),
            "solubility": table(expansion, "SMILES", "KSOL", log),
        },
        "chembl": {
            "logd": table(f"{bench}/logd_reg_final_data.csv", "Smiles_unify", "value", as_is),
            "hlm": table(f"{bench}/hum_mic_cl_reg_final_data.csv", "Smiles_unify", "value", as_is),
        },
    }


def datasets(
    silos: dict[str, dict[str, pd.DataFrame]], per_silo: int, pool: int, seed: int, cache: StructureCache, workers: int
) -> list[Dataset]:
    """One dataset per silo, in the order of `SILOS`. Compounds of AstraZeneca are no compounds of ChEMBL's."""
    split = SplitPolicy(f"silos {seed}", valid_fraction=0.16, test_fraction=0.2)
    made, taken = [], set()
    for silo in SILOS:
        everything = pd.concat(
            frame.sample(min(pool, len(frame)), random_state=0).assign(endpoint=name)
            for name, frame in silos[silo].items()
        )
        described = describe_all(list(everything["smiles"]), POLICY, cache=cache, workers=workers)
        table = described.table
        everything["row"] = described.row_of
        everything["identity"] = [table.identities[row] for row in described.row_of]
        everything = everything[everything["identity"] != ""]
        if silo == "chembl":
            everything = everything[~everything["identity"].isin(taken)]
        if silo == "az":
            taken = set(everything["identity"])
        everything["fold"] = split.folds([table.series[row] for row in everything["row"]])
        rng = np.random.default_rng([seed, len(made)])
        made.append(_dataset(everything, table, per_silo, rng))
    return made


def _dataset(everything: pd.DataFrame, table: Any, per_silo: int, rng: np.random.Generator) -> Dataset:
    sizes = {0: per_silo - per_silo // 5, 1: per_silo // 5, 2: MAX_TEST}
    rows = everything.drop_duplicates("identity").set_index("identity")
    place = {identity: at for at, identity in enumerate(rows.index)}
    labels = np.full((len(rows), len(ENDPOINTS)), np.nan, np.float32)
    for column, endpoint in enumerate(ENDPOINTS):
        part = everything[everything["endpoint"] == endpoint.name]
        values = part.groupby("identity")["label"].median()
        folds = rows.loc[values.index, "fold"]
        for fold, size in sizes.items():
            members = values[folds == fold]
            chosen = rng.permutation(len(members))[:size]
            for identity, value in members.iloc[chosen].items():
                labels[place[identity], column] = (value - endpoint.center) / endpoint.scale
    used = np.flatnonzero(np.isfinite(labels).any(axis=1))
    part = table.take(rows["row"].to_numpy()[used])
    fold = rows["fold"].to_numpy()[used]
    relations = np.zeros((len(used), len(ENDPOINTS)), np.int8)
    folds = [np.flatnonzero(fold == number) for number in (0, 1, 2)]
    return Dataset(ENDPOINTS, Inputs(part.counts, part.descriptors), labels[used], relations, *folds)


def run(arguments: argparse.Namespace, seed: int, silos: Any, cache: StructureCache) -> dict[tuple[str, str], Any]:
    """MAE by (silo, assay endpoint) and model."""
    data = datasets(silos, arguments.per_silo, arguments.pool, seed, cache, arguments.workers)
    endpoints = tuple(dataclasses.replace(e, head=arguments.heads) for e in ENDPOINTS)
    data = [dataclasses.replace(part, endpoints=endpoints) for part in data]
    shape = Architecture(POLICY.width, (512, 256), endpoints, 0.2, calibrate=arguments.heads == "shared")
    steps = arguments.steps // arguments.entries
    settings = [
        TrainingSettings(64, arguments.rate, 0.01, 1000 * seed + at, arguments.entries, steps)
        for at in range(len(data))
    ]
    with tempfile.TemporaryDirectory() as folder:
        together = federate(
            shape, data, settings, arguments.entries, Path(folder), model_seed=seed, dense=arguments.dense,
            tick=lambda entry: _say(f"seed {seed}: entry {entry} of {arguments.entries}"),
        )  # fmt: skip
    found = {}
    for at, (silo, part, setting) in enumerate(zip(SILOS, data, settings, strict=True)):
        own = compare(
            shape, part, setting, seed, together.parameters(at), steps=steps * arguments.entries,
            federated_history=[], report=lambda done, total: None,
        )  # fmt: skip
        predict = dict(predictors(shape, own.models))
        second = Network(shape)
        start_local(second, shape, seed + 7919, setting.seed + 7919)
        other = dataclasses.replace(setting, seed=setting.seed + 7919)
        train_with_checkpoints(second, part, other, steps=own.result["steps"] + own.result["tuning_steps"],
                               every=steps, scored=False)  # fmt: skip
        local = predict["local"]
        predict["control"] = lambda inputs, local=local, second=second: (local(inputs) + second.predict(inputs)) / 2
        predict["median"], predict["forest"] = median_baseline(part), forest_baseline(part, seed)
        chosen = {e["name"]: e["chosen"] for e in own.result["endpoints"]}
        for place, endpoint in enumerate(endpoints):
            if endpoint.name in silos[silo]:
                scores = {name: _mae(part, place, function) for name, function in predict.items()}
                found[silo, endpoint.name] = scores | {"chosen": scores[chosen[endpoint.name]]}
        _say(f"seed {seed}: {silo} compared")
    return found


def _mae(data: Dataset, place: int, predict: Callable[..., Any]) -> float:
    known = scorable(data, data.test, place)
    rows = data.test[known]
    error = predict(data.inputs.rows(rows))[:, place] - data.labels[rows, place]
    return float(np.mean(np.abs(error)) * data.endpoints[place].scale)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-silo", type=int, default=300)
    parser.add_argument("--pool", type=int, default=5000, help="compounds per silo and assay endpoint to draw from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each site")
    parser.add_argument("--entries", type=int, default=40)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--heads", choices=["shared", "private"], default="shared")
    parser.add_argument("--dense", action="store_true", help="exchange float32 deltas")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    silos, cache = read_silos(arguments.data), StructureCache(arguments.cache)
    runs = [run(arguments, seed, silos, cache) for seed in range(arguments.seeds)]
    pairs = []
    for silo, endpoint in runs[0]:
        mean = {name: float(np.mean([r[silo, endpoint][name] for r in runs])) for name in runs[0][silo, endpoint]}
        pairs.append(
            {"silo": silo, "endpoint": endpoint, **mean, "change_pct": 100 * (mean["chosen"] / mean["local"] - 1)}
        )
    changes = [pair["change_pct"] for pair in pairs]
    result = {
        "per_silo": arguments.per_silo,
        "seeds": arguments.seeds,
        "pairs": pairs,
        "mean_change_pct": float(np.mean(changes)),
        "worst_change_pct": float(np.max(changes)),
        **{
            f"mean_{name}_change_pct": float(np.mean([100 * (pair[name] / pair["local"] - 1) for pair in pairs]))
            for name in ("federated", "personalised", "hybrid", "control", "forest")
        },
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(pd.DataFrame(pairs).round(3).to_string(index=False))
    print(f"mean change {result['mean_change_pct']:+.2f} %, worst {result['worst_change_pct']:+.2f} %")


if __name__ == "__main__":
    main()
