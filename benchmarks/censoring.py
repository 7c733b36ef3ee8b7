"""What to do with ">": the one-sided loss, plain or drawing back to the bound, dropping bounds, or taking them as "=".

ChEMBL CYP3A4 IC50s (public file of PharmaBench; 38 % of its CYP values are ">"), as log10 umol/L, one network trained
centrally for each treatment. Spearman correlation on the uncensored part of a scaffold test fold, higher is better.

    python benchmarks/censoring.py DATA --seeds 3 --json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kmel_p2p.chem.cache import StructureCache
from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.ingest import ingest
from kmel_p2p.chem.policy import FeaturePolicy
from kmel_p2p.chem.source import Column, WideSource
from kmel_p2p.chem.split import SplitPolicy
from kmel_p2p.learn.architecture import Architecture
from kmel_p2p.learn.checkpoint import train_with_checkpoints
from kmel_p2p.learn.comparison import start_local
from kmel_p2p.learn.dataset import Dataset
from kmel_p2p.learn.evaluation import further_scores
from kmel_p2p.learn.networks import Network
from kmel_p2p.learn.scores import scorable
from kmel_p2p.learn.session import TrainingSettings

ENDPOINT = AssayEndpoint(
    "cyp3a4_ic50", unit="umol/L", transform="log10", valid_range=(1e-6, 1e5), center=1.0, scale=0.8, head="shared"
)
POLICY = FeaturePolicy()
TREATMENTS = ("one_sided", "drawn_back", "dropped", "as_values")
DRAWN_BACK = 0.3
"""`beyond_bound` of the treatment of that name: chosen on the validation folds of three seeds among 0.1 and 0.3."""


def table(data: Path, target: Path, limit: int) -> WideSource:
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
    return WideSource(target, "smiles", {ENDPOINT.name: Column("IC50", "nmol/L")})


def treated(data: Dataset, treatment: str) -> Dataset:
    """Training and validation fold as the treatment leaves them; the test fold is the same for all."""
    if treatment == "one_sided":
        return data
    if treatment == "drawn_back":
        return dataclasses.replace(data, endpoints=(dataclasses.replace(ENDPOINT, beyond_bound=DRAWN_BACK),))
    if treatment == "as_values":
        relations = data.relations.copy()
        relations[np.concatenate([data.train, data.valid])] = 0
        return dataclasses.replace(data, relations=relations)
    kept = [rows[data.relations[rows, 0] == 0] for rows in (data.train, data.valid)]
    return dataclasses.replace(data, train=kept[0], valid=kept[1])


def spearman(data: Dataset, seed: int, steps: int) -> float:
    shape = Architecture(POLICY.width, (512, 256), (ENDPOINT,), 0.3)
    network = Network(shape)
    start_local(network, shape, seed, seed)
    settings = TrainingSettings(batch_size=64, learning_rate=1e-3, weight_decay=0.01, seed=seed)
    train_with_checkpoints(network, data, settings, steps=steps, every=max(1, steps // 20), scored=False)
    known = data.test[scorable(data, data.test, 0)]
    output = network.predict(data.inputs.rows(known))[:, 0]
    return float(further_scores(ENDPOINT, output, data.labels[known, 0].astype(np.float64))["spearman"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--limit", type=int, default=0, help="rows to draw; 0: all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="keeps structures for the next run")
    parser.add_argument("--only", default=",".join(TREATMENTS), help="treatments, separated by commas")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = table(arguments.data, Path(folder) / "cyp3a4.csv", arguments.limit)
        cache = StructureCache(arguments.cache or Path(folder) / "cache")
        own = ingest(source, [ENDPOINT], POLICY, cache=cache, workers=arguments.workers)
    scores: dict[str, list[float]] = {name: [] for name in arguments.only.split(",")}
    for seed in range(arguments.seeds):
        data = Dataset.build(own, own.folds(SplitPolicy(f"censoring {seed}")))
        for name in scores:
            scores[name].append(spearman(treated(data, name), seed, arguments.steps))
    result = {
        "compounds": len(own),
        "bounds": int(np.count_nonzero(own.relations)),
        "spearman": scores,
        "mean": {name: float(np.mean(values)) for name, values in scores.items()},
    }
    print(json.dumps(result, indent=1) if arguments.json else pd.DataFrame(scores).round(3).to_string())


if __name__ == "__main__":
    main()
