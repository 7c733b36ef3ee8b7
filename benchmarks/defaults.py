"""Drafted settings: does a site ever predict with something worse than what it could have made alone?

Federations of a few sites on public data, from 100 to 5,000 compounds each (draft_cases.py), under the charter that
`kmel-peer charter new` drafts for them, unedited: networks, learning rate, steps and patience are the draft's.

    python benchmarks/defaults.py DATA --json

Scores are RMSE in the transformed unit, or log loss, on each site's own test compounds. `best_local` is the strongest
stack the site could make alone, `chosen` what it predicts with; `worst_vs_best_local_pct` is the largest change from
the first to the second, over all sites. The networks of the comparison without a stack are listed beside them.
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

from benchmarks.parts.draft_cases import CASES, Case, drafted, site_datasets
from benchmarks.parts.measure import at_most, parse, publish, publish_so_far, say, settings_of, this_machine
from benchmarks.parts.stacked import change_pct, drafted_sites
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.evaluate.scores import score

GOALS = {"worst_vs_best_local_pct": at_most(2.0)}
SMOKE: dict[str, Any] = {"only": "caco2", "seeds": 1, "entries": 2, "scored": 1}


def run(arguments: argparse.Namespace, case: Case, seed: int, cache: StructureCache) -> list[dict[str, Any]]:
    """Scores of one federation: a row for each site that has test compounds."""
    charter = drafted(case)
    data = site_datasets(arguments.data, case, charter, seed, cache, arguments.workers)
    sites = drafted_sites(
        charter, data, seed, arguments.entries, arguments.scored, lambda text: say(f"{case.name}, seed {seed}: {text}")
    )
    rows = []
    for at, site in enumerate(sites):
        scores = {name: errors[0] for name, errors in site.errors(score).items()}
        if not np.isfinite(scores["best_local"]):
            continue
        counts = {
            "train": len(site.data.train),
            "held_out": len(site.data.valid) + len(site.data.calibration),
            "test": len(site.data.test),
        }
        change = change_pct(scores["chosen"], scores["best_local"])
        told: dict[str, Any] = {"case": case.name, "site": at, "seed": seed, **counts, "entries": site.entries}
        rows.append({**told, **scores, "change_pct": change})
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst and the mean change against best local, over sites and by federation."""
    frame = pd.DataFrame(rows)
    worst = max(rows, key=lambda row: float(row["change_pct"]))
    networks = ["local", "federated", "personalised", "hybrid"]
    return {
        "worst_vs_best_local_pct": float(frame["change_pct"].max()),
        "worst_site": f"{worst['case']}, site {worst['site']}",
        "mean_vs_best_local_pct": float(frame["change_pct"].mean()),
        "sites_worse": int((frame["change_pct"] > 0).sum()),
        "sites_in_all": len(frame),
        **{
            f"worst_{name}_vs_best_local_pct": float((100 * (frame[name] / frame["best_local"] - 1)).max())
            for name in networks
        },
        "by_case": {
            str(name): {"mean_pct": float(own["change_pct"].mean()), "worst_pct": float(own["change_pct"].max())}
            for name, own in frame.groupby("case", sort=False)
        },
        "sites": list(rows),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="federations, separated by semicolons; default: all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="settings were chosen on seeds from 100 on")
    parser.add_argument("--scored", type=int, default=0, help="compare only the first so many sites of each; 0: all")
    parser.add_argument("--entries", type=int, default=0, help="instead of the draft's, for a trial")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    known = {case.name: case for case in CASES}
    names = arguments.only.split(";") if arguments.only else list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no federation {unknown[0]!r}; there are: {'; '.join(known)}")
    rows: list[dict[str, Any]] = []
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    federations = [(name, seed) for name in names for seed in seeds]
    for done, (name, seed) in enumerate(federations, start=1):
        rows += run(arguments, known[name], seed, StructureCache(arguments.cache))
        figures = {**summary(rows), "settings": settings_of(arguments)}
        left = f"{len(federations) - done} of {len(federations)} federations"
        publish_so_far(machine, figures, GOALS, arguments.json, left)
    details = [pd.DataFrame(rows).round(3).to_string(index=False)]
    publish("drafted settings", machine, figures, GOALS, arguments.json, details)


if __name__ == "__main__":
    main()
