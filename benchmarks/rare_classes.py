"""Rare classes: which pairs of site and assay endpoint get class sets, and do the sets hold for either class?

Several assays on one library of compounds, few of which are active, as in Tox21: PubChem's screens of three cytochromes
(TDC), in each of which active compounds are forgotten at random until so many remain as `--share` says. Sites with
different chemistry train under the charter that `kmel-peer charter new` drafts for them.

    python benchmarks/rare_classes.py DATA --json

    pairs_with_sets           of the pairs with at least ten values of each class to train on and hold out, the share
                              that has class sets; `pairs_told` counts these pairs, `pairs` all
    coverage_inactive, coverage_active
                              share of the test compounds of that class whose set at level 0.9 has it, of all pairs
    coverage_by_class         the smaller of the two

    single                    by pair, the share of test compounds' sets with one class

Class sets are calibrated per class, on held-out compounds, or where these have few of a class (`judged`) on all that no
test compound is among; test compounds have series of their own.
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

from benchmarks.parts.draft_cases import drafted_for
from benchmarks.parts.measure import at_least, parse, publish, say, settings_of, this_machine
from benchmarks.parts.silos_data import tdc_rows
from benchmarks.parts.stacked import StackedSite, drafted_sites
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.split import Fold
from kmel_p2p.chem.dataset.partition import series_partition
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.predict.answering import ByStack, parts_of
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.stack_file import StoredStack
from kmel_p2p.learn.predict.uncertainty import calibrate_stack, class_sets_of
from kmel_p2p.learn.stack.rare_classes import MIN_OF_CLASS
from kmel_p2p.learn.train.dataset import Dataset, Inputs

GOALS = {"pairs_with_sets": at_least(1.0), "coverage_by_class": at_least(0.87)}
SMOKE: dict[str, Any] = {"compounds": 12, "sites": 2, "entries": 2, "share": 0.5, "scored": 1}

SCREENS = {"cyp2c9_inhibitor": "cyp2c9_veith", "cyp2d6_inhibitor": "cyp2d6_veith", "cyp3a4_inhibitor": "cyp3a4_veith"}
"""Assay endpoint, as the catalogue calls it -> TDC split."""

LEVEL = 0.9


def screened(data: Path, compounds: int, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """A row for each structure and a column for each of `SCREENS`: 0, 1, or NaN where it was not measured.

    Args:
        compounds: structures at most.
        share: of class 1 among what is measured; further active ones are forgotten.
    """
    tables = {
        name: tdc_rows(data, split).drop_duplicates("Drug").set_index("Drug")["Y"] for name, split in SCREENS.items()
    }
    # In an order of its own, so that the same compounds are drawn whatever the files' order.
    together = pd.DataFrame(tables).sort_index()
    together = together.iloc[np.sort(rng.permutation(len(together))[:compounds])].astype(float)
    for name in SCREENS:
        active = np.flatnonzero(together[name] == 1)
        kept = round(share / (1 - share) * int((together[name] == 0).sum()))
        forgotten = rng.permutation(active)[kept:]
        together.loc[together.index[forgotten], name] = np.nan
    return together


def sites_of(arguments: argparse.Namespace, charter: Charter, seed: int) -> list[Dataset]:
    """One dataset for each site."""
    rng = np.random.default_rng([seed, arguments.compounds])
    measured = screened(arguments.data, arguments.sites * arguments.compounds, arguments.share, rng)
    cache = StructureCache(arguments.cache)
    described = describe_all(list(measured.index), charter.features, cache=cache, workers=arguments.workers)
    every = described.table.take(described.row_of)
    identities = pd.Series(every.identities)
    usable = np.flatnonzero(np.array([not reason for reason in every.reasons]) & ~identities.duplicated().to_numpy())
    table, labels = every.take(usable), measured.to_numpy(np.float32)[usable]
    site_of = series_partition(table, arguments.sites, seed)
    split = charter.split.changed(fold_key=f"rare classes {seed}")
    made = []
    for site in range(arguments.sites):
        rows = np.flatnonzero(site_of == site)
        own = table.take(rows)
        folds = split.folds(own.series)
        train, valid, test = (np.flatnonzero(folds == fold) for fold in (Fold.TRAIN, Fold.VALID, Fold.TEST))
        dataset = Dataset(
            charter.assay_endpoints, Inputs(own.counts, own.descriptors), labels[rows],
            np.zeros((len(rows), len(SCREENS)), np.int8), train, valid, test, tuple(own.smiles),
            series=tuple(own.series),
        )  # fmt: skip
        made.append(dataset.with_calibration(split.apart(own.series)))
    return made


def pairs_of(site: StackedSite, number: int) -> list[dict[str, Any]]:
    """A row for each assay endpoint: values by class, and how many test compounds' sets have their class."""
    data, stacked = site.data, site.comparison.stacked
    assert stacked is not None, "asked for"
    neighbours = Neighbours.of(data)
    calibrations = calibrate_stack(data, stacked, neighbours)
    answering = ByStack(StoredStack(site.stack, calibrations), data.untrained(), neighbours)
    answer = answering.answer(data.inputs.rows(data.test), neighbours.nearest(data.inputs.bits(data.test)))
    own = np.concatenate([data.train, data.valid, data.calibration])
    rows = []
    for place, (endpoint, held) in enumerate(zip(data.endpoints, stacked.held_out, strict=True)):
        known = scorable(data, data.test, place)
        labels, values = data.labels[data.test[known], place], data.labels[own, place]
        parts = parts_of(calibrations[endpoint.name], answer.far[known])
        sets, has_set = class_sets_of(parts, answer.judged[known, place], LEVEL)
        row: dict[str, Any] = {"site": number, "endpoint": endpoint.name, "sets": all(own for _, own in parts)}
        row["judged"] = held.out_of_fold is not None
        for value, name in enumerate(("inactive", "active")):
            which = (labels == value) & has_set
            row[f"values_{name}"] = int(np.count_nonzero(values == value))
            row[f"held_out_{name}"] = int(np.count_nonzero(held.labels == value))
            row[f"test_{name}"] = int(np.count_nonzero(labels == value))
            row[f"inside_{name}"] = int(sets[which, value].sum())
            row[f"asked_{name}"] = int(which.sum())
        rows.append({**row, "single": float((sets[has_set].sum(axis=1) == 1).mean()) if has_set.any() else np.nan})
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all pairs together; NaN where no compound of a class has a set."""
    told = [row for row in rows if min(row["values_inactive"], row["values_active"]) >= MIN_OF_CLASS]
    inside = {
        name: _share(sum(row[f"inside_{name}"] for row in rows), sum(row[f"asked_{name}"] for row in rows))
        for name in ("inactive", "active")
    }
    return {
        "pairs": len(rows),
        "pairs_told": len(told),
        "pairs_with_sets": _share(sum(row["sets"] for row in told), len(told)),
        **{f"coverage_{name}": share for name, share in inside.items()},
        "coverage_by_class": min(inside.values()),
        "by_pair": list(rows),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def run(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """The pairs of one federation."""
    charter = drafted_for(tuple(SCREENS), arguments.sites, arguments.compounds)
    data = sites_of(arguments, charter, seed)
    sites = drafted_sites(
        charter, data, seed, arguments.entries, arguments.scored, lambda text: say(f"seed {seed}: {text}")
    )
    return [{"seed": seed, **row} for number, site in enumerate(sites) for row in pairs_of(site, number)]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--compounds", type=int, default=1500, help="of each site, all folds together")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.06, help="of active compounds among those measured")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scored", type=int, default=0, help="compare only the first so many sites; 0: all")
    parser.add_argument("--entries", type=int, default=0, help="instead of the draft's, for a trial")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows = [row for seed in seeds for row in run(arguments, seed)]
    figures = {**summary(rows), "settings": settings_of(arguments)}
    details = [pd.DataFrame(rows).round(3).to_string(index=False)]
    publish("rare classes", machine, figures, GOALS, arguments.json, details)


if __name__ == "__main__":
    main()
