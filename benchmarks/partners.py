"""How the gain grows with the federation: the same four silos in federations of 2, 4, 8 and 12 sites.

AstraZeneca, Biogen, ExpansionRx and ChEMBL (`silos.py`) measured logD, HLM clearance, efflux and solubility, eleven
pairs of silo and assay endpoint. They are scored at every size. With two sites each silo has one partner; with four
they are together; then come public collections of other chemistry and assay endpoints (partners_data.py).

    python benchmarks/partners.py DATA --json --plot partners.svg

`gain_vs_best_local_pct` is how much lower the error (MAE) of what a site predicts with is than that of the strongest
stack that it could make alone, on its own test compounds: in percent, mean of its assay endpoints, seeds and then the
four sites; more is better.
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

from benchmarks.parts.measure import Goal, at_least, parse, publish, publish_so_far, say, settings_of, this_machine
from benchmarks.parts.partners_data import ENDPOINTS, FEDERATIONS, PARTNERS, read_partners
from benchmarks.parts.silos_data import POLICY, SILOS, datasets, read_silos
from benchmarks.parts.stacked import change_pct, mean_absolute, stacked_sites, training_settings
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.train.dataset import Dataset

GOALS: dict[str, Goal] = {"gain_of_12_over_4": at_least(2.0)}
SMOKE: dict[str, Any] = {
    "sizes": [8],
    "only": "az",
    "seeds": 1,
    "steps": 8,
    "entries": 2,
    "hidden": [8],
    "per_site": 20,
    "pool": 60,
}
SITE_NAMES = {"az": "AstraZeneca", "biogen": "Biogen", "expansion": "ExpansionRx", "chembl": "ChEMBL"}


def run(arguments: argparse.Namespace, seed: int, data: Mapping[str, Dataset], size: int) -> list[dict[str, Any]]:
    """Errors of one seed and size: a row for each pair of silo and assay endpoint."""
    rows = []
    wanted = arguments.only.split(",")
    for names in FEDERATIONS[size]:
        scored = [at for at, name in enumerate(names) if name in wanted]
        if not scored:
            continue
        used = [
            place
            for place in range(len(ENDPOINTS))
            if any(len(data[name].measured(data[name].train, place)) for name in names)
        ]
        parts = [_with_endpoints(data[name], used) for name in names]
        shape = Architecture(
            inputs=POLICY.width,
            hidden=tuple(arguments.hidden),
            endpoints=parts[0].endpoints,
            dropout=arguments.dropout,
            calibrate=True,
        )
        # A site has the same seed in every federation, and so the same local networks.
        settings = [training_settings(arguments, seed, list(data).index(name)) for name in names]
        sites = stacked_sites(
            shape, parts, settings, seed, scored=scored, tick=lambda text: say(f"seed {seed}, {size} sites: {text}")
        )
        for at, site in zip(scored, sites, strict=True):
            errors = site.errors(mean_absolute)
            for place, endpoint in enumerate(shape.endpoints):
                if np.isfinite(errors["best_local"][place]):
                    own = {name: error[place] for name, error in errors.items()}
                    rows.append({"sites": size, "site": names[at], "endpoint": endpoint.name, "seed": seed, **own})
    return rows


def _with_endpoints(data: Dataset, places: Sequence[int]) -> Dataset:
    """The dataset with these assay endpoints alone, as a federation would have it that knows no others."""
    return dataclasses.replace(
        data,
        endpoints=tuple(data.endpoints[place] for place in places),
        labels=data.labels[:, places],
        relations=data.relations[:, places],
    )


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gains by number of sites: of each silo, and the mean of the silos."""
    frame = pd.DataFrame(rows)
    errors = frame.drop(columns="seed").groupby(["sites", "site", "endpoint"], sort=False).mean().reset_index()
    errors["gain_pct"] = [
        -change_pct(chosen, local) for chosen, local in zip(errors["chosen"], errors["best_local"], strict=True)
    ]
    by_site: dict[str, dict[str, float]] = {}
    gains: dict[str, float] = {}
    for size, own in errors.groupby("sites"):
        by_site[str(size)] = {str(name): float(part["gain_pct"].mean()) for name, part in own.groupby("site")}
        gains[str(size)] = float(own["gain_pct"].mean())
    figures: dict[str, Any] = {
        "gain_vs_best_local_pct": gains,
        "gain_by_site_pct": by_site,
        **{f"gain_of_{size}_pct": gain for size, gain in gains.items()},
        "worst_change_vs_best_local_pct": float(-errors["gain_pct"].min()),
        "pairs": errors.to_dict("records"),
    }
    if "4" in gains and "12" in gains and gains["4"] > 0:
        figures["gain_of_12_over_4"] = gains["12"] / gains["4"]
    return figures


def plot(figures: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the gains of `summary` by number of sites to an SVG file: a line for each silo, and their mean."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "partners"  # the same figures give the same file
    canvas, axis = pyplot.subplots(figsize=(7.5, 4.4), layout="constrained")
    sizes = [int(size) for size in figures["gain_vs_best_local_pct"]]
    axis.axhline(0.0, color="black", linewidth=1)
    colors = ("tab:orange", "tab:green", "tab:red", "tab:purple")
    for silo, color in zip(SILOS, colors, strict=True):
        own = [figures["gain_by_site_pct"][str(size)].get(silo, np.nan) for size in sizes]
        if np.isfinite(own).any():
            axis.plot(sizes, own, "o--", color=color, linewidth=1, markersize=5, label=SITE_NAMES[silo])
    mean = list(figures["gain_vs_best_local_pct"].values())
    axis.plot(sizes, mean, "D-", color="tab:blue", linewidth=2.5, markersize=7, label="mean of all pairs")
    for size, gain in zip(sizes, mean, strict=True):
        axis.annotate(f"{gain:.1f} %", (size, gain), (0, 8), textcoords="offset points", ha="center", weight="bold")
    axis.set_xticks(sizes)
    axis.set_xlabel("sites in the federation")
    axis.set_ylabel("error below the best\nthat the site can do alone, %")
    axis.grid(axis="y", alpha=0.3)
    axis.margins(y=0.15)
    axis.legend(fontsize=9, loc="best")
    axis.set_title(title, fontsize=11)
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(FEDERATIONS), default=list(FEDERATIONS))
    parser.add_argument(
        "--only", default=",".join(SILOS), help="silos to score, separated by commas; default: the four"
    )
    parser.add_argument("--per-site", type=int, default=300, help="compounds per site and assay endpoint")
    parser.add_argument("--pool", type=int, default=2000, help="compounds per site and assay endpoint to draw from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps of each site")
    parser.add_argument("--entries", type=int, default=40)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "kmel-silos-cache")
    parser.add_argument("--plot", type=Path, help="draw the gains to this SVG file")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    torch.set_num_threads(1)
    cache = StructureCache(arguments.cache)
    most = {name for size in arguments.sizes for names in FEDERATIONS[size] for name in names}
    tables = {**read_silos(arguments.data), **read_partners(arguments.data, most & set(PARTNERS), arguments.per_site)}
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        parts = datasets(tables, arguments.per_site, arguments.pool, seed, cache, arguments.workers, ENDPOINTS)
        data = dict(zip(tables, parts, strict=True))
        for size in arguments.sizes:
            rows += run(arguments, seed, data, size)
            figures = {**summary(rows), "settings": settings_of(arguments)}
            publish_so_far(machine, figures, GOALS, arguments.json, f"what comes after {size} sites, seed {seed}")
    if arguments.plot:
        plot(figures, f"What joining is worth ({arguments.per_site:,} compounds per site and assay)", arguments.plot)
    table = pd.DataFrame(figures["pairs"])[["sites", "site", "endpoint", "local", "best_local", "chosen", "gain_pct"]]
    publish("gain by number of sites", machine, figures, GOALS, arguments.json, [table.round(3).to_string(index=False)])


if __name__ == "__main__":
    main()
