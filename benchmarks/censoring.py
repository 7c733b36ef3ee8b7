"""What to do with ">": the one-sided loss, plain or drawing back to the bound, dropping bounds, or taking them as "=".

ChEMBL CYP3A4 IC50s (public file of PharmaBench; 38 % of its CYP values are ">"), as log10 umol/L, one network trained
centrally for each treatment. Scored on a scaffold test fold that is the same for all treatments:

    spearman    on the uncensored compounds
    mae         on the uncensored compounds, log10 units
    agree       share of the bounds that the prediction agrees with
    auroc       compounds known to be above 10 umol/L (values and bounds) against those known to be below

    python benchmarks/censoring.py DATA --seeds 3 --json

`--first 100` draws other folds: settings were chosen on those, never on the folds that are reported.
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
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.parts.measure import parse, publish, say, this_machine
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.evaluation import further_scores
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

ENDPOINT = AssayEndpoint(
    name="cyp3a4_ic50", unit="umol/L", transform="log10", valid_range=(1e-6, 1e5), center=1.0, scale=0.8, head="shared"
)
POLICY = FeatureRule()
LIMIT = 0.0
"""10 umol/L in labels: the commonest limit, and where a chemist begins to worry."""

TREATMENTS = ("one_sided", "drawn_back", "dropped", "as_values")
STOPS = 20
"""Times that the validation fold is asked along a run."""

DRAWN_BACK = 0.3
"""`beyond_bound` of the treatment of that name: chosen on the validation folds of three seeds among 0.1 and 0.3."""
SMOKE: dict[str, Any] = {"seeds": 1, "steps": 20, "hidden": "16", "limit": 80}


def table(data: Path, target: Path, limit: int) -> Source:
    """The CYP3A4 rows as a wide table with relations in the cells."""
    raw = pd.read_csv(data / "pharmabench/raw/chembl_cyp_raw_data.csv", low_memory=False)
    columns = {name.lower().replace(" ", "_"): name for name in raw.columns}
    described = raw[columns["assay_description"]].astype(str)
    chosen = raw[described.str.contains("3A4", case=False) & (raw[columns["standard_units"]] == "nM")]
    if limit:
        chosen = chosen.sample(min(limit, len(chosen)), random_state=0)
    relation = chosen[columns["standard_relation"]].fillna("=").str.strip("'\" ")
    value = chosen[columns["standard_value"]].map("{:g}".format)
    cells = relation.where(relation != "=", "") + value
    pd.DataFrame({"smiles": chosen[columns["smiles"]], "IC50": cells}).to_csv(target, index=False)
    return Source(path=target, smiles_column="smiles", columns={ENDPOINT.name: Column(column="IC50", unit="nmol/L")})


def treated(data: Dataset, treatment: str) -> Dataset:
    """Training and validation fold as the treatment leaves them; the test fold is the same for all."""
    if treatment == "one_sided":
        return data
    if treatment == "drawn_back":
        return dataclasses.replace(data, endpoints=(ENDPOINT.changed(beyond_bound=DRAWN_BACK),))
    if treatment == "as_values":
        relations = data.relations.copy()
        relations[np.concatenate([data.train, data.valid])] = 0
        return dataclasses.replace(data, relations=relations)
    kept = [rows[data.relations[rows, 0] == 0] for rows in (data.train, data.valid)]
    return dataclasses.replace(data, train=kept[0], valid=kept[1])


def trained(data: Dataset, seed: int, steps: int, hidden: tuple[int, ...]) -> dict[str, Network]:
    """The state that the validation fold chooses by the treatment's own loss, and the last one."""
    shape = Architecture(inputs=POLICY.width, hidden=hidden, endpoints=(ENDPOINT,), dropout=0.3)
    chosen, last = Network(shape), Network(shape)
    start_local(chosen, shape, seed, seed)
    settings = TrainingSettings(batch_size=64, learning_rate=1e-3, weight_decay=0.01, seed=seed)

    def keep_last(done: int) -> None:
        if done == steps:
            Parameters.of(chosen).load_into(last)

    every = max(1, steps // STOPS)
    train_with_checkpoints(chosen, data, settings, steps=steps, every=every, tick=keep_last)
    return {"chosen": chosen, "last": last}


def scores(data: Dataset, output: NDArray[np.float64]) -> dict[str, float]:
    """What the head of this file lists, of the labels predicted for the test fold."""
    labels, relations = data.labels[data.test, 0].astype(np.float64), data.relations[data.test, 0]
    known = scorable(data, data.test, 0)
    ranked = further_scores(ENDPOINT, output[known], labels[known])
    agree = ((output - labels) * relations >= 0)[relations != 0]
    above = np.where(relations > 0, labels >= LIMIT, (relations == 0) & (labels > LIMIT))
    below = (relations <= 0) & (labels <= LIMIT)
    sure = above | below
    return {
        "spearman": ranked["spearman"],
        "mae": ranked["mae"],
        "agree": float(agree.mean()),
        "auroc": float(roc_auc_score(above[sure], output[sure])),
    }


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Means over the folds, and how far each treatment's Spearman is from that of `as_values`."""
    result: dict[str, Any] = {
        "mean": {
            name: {key: float(np.mean([fold[key] for fold in own])) for key in own[0]} for name, own in found.items()
        },
        "folds": found,
    }
    if "as_values" in found:
        result["against_as_values"] = {name: paired(own, found["as_values"]) for name, own in found.items()}
    return result


def paired(own: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float | None]:
    """Mean difference in Spearman, its standard error over the folds, and on how many folds `own` ranks better."""
    apart = np.array([a["spearman"] - b["spearman"] for a, b in zip(own, other, strict=True)])
    error = float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else None
    return {"mean": float(apart.mean()), "standard_error": error, "wins": int(np.count_nonzero(apart > 0))}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--hidden", default="512,256", help="widths of the trunk's layers")
    parser.add_argument("--limit", type=int, default=0, help="rows to draw; 0: all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="keeps structures for the next run")
    parser.add_argument("--only", default=",".join(TREATMENTS), help="treatments, separated by commas")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = table(arguments.data, Path(folder) / "cyp3a4.csv", arguments.limit)
        cache = StructureCache(arguments.cache or Path(folder) / "cache")
        own = ingest(source, [ENDPOINT], POLICY, cache=cache, workers=arguments.workers)
    hidden = tuple(int(width) for width in arguments.hidden.split(","))
    treatments = arguments.only.split(",")
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        state: {name: [] for name in treatments} for state in ("chosen", "last")
    }
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        data = Dataset.build(own, own.folds(SplitRule(fold_key=f"censoring {seed}")))
        for name in treatments:
            for state, network in trained(treated(data, name), seed, arguments.steps, hidden).items():
                found[state][name].append(scores(data, network.predict(data.inputs.rows(data.test))[:, 0]))
                progress = ", ".join(f"{key} {value:.3f}" for key, value in found[state][name][-1].items())
                say(f"seed {seed}, {name}, {state}: {progress}")
    result: dict[str, Any] = {
        "compounds": len(own),
        "bounds": int(np.count_nonzero(own.relations)),
        **{state: summary(by_treatment) for state, by_treatment in found.items()},
    }
    details = [f"{state}\n{pd.DataFrame(result[state]['mean']).T.round(3).to_string()}" for state in found]
    publish("bounds in a network", machine, result, {}, arguments.json, details)


if __name__ == "__main__":
    main()
