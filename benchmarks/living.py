"""A federation that lives: five campaigns over data that come in drops, predicted before they are measured.

ExpansionRx by molecule number, and three other silos by a seeded order (silos_data.py), measure logD, HLM clearance,
efflux and solubility. Each begins with `--start` compounds. After each campaign, every site predicts the `--drop`
compounds that it makes next with what it predicts with (`kmel-peer predict`, which records it), measures them, and the
next campaign begins (`kmel-peer campaign draft`, `sign`, `start`). Campaign `--adds` adds assay endpoint
`--late`, which the charter lacks, and a fifth company joins with campaign `--joins`. All are daemons with their
trainers on this machine; what they have measured, they read without a restart (`kmel-peer data reload`).

    python benchmarks/living.py DATA --json --plot living.svg

Figures:

  prospective_change_vs_best_local_pct   RMSE of what sites predicted, against what best local said at that time: mean
                                         over pairs of site and assay endpoint, all drops together
  coverage_90                            share of the values that lay inside their 90 % intervals
  entries_to_last_error_ratio            entries of the last campaign until the validation error is that of a federation
                                         which began from nothing with the same data, over the entries of that one
  digests                                different trunks after a campaign, at most
  restarts                               of peers
  folds_moved                            compounds that models of one campaign were trained on and others held out
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.parts import living_sites
from benchmarks.parts.daemons import FederationFailedError, all_published, until
from benchmarks.parts.living_data import NEWCOMER, Drop, year
from benchmarks.parts.living_sites import LivingFederation, Settings, error_by_entry, measured_since, predict
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, settings_of, this_machine
from benchmarks.parts.silos_data import ENDPOINTS, SILOS
from benchmarks.parts.stacked import change_pct
from kmel_p2p.learn.evaluate.scores import score
from kmel_p2p.learn.register.matched import Matched
from kmel_p2p.simulate.sites import DATA_NAME

GOALS: dict[str, Goal] = {
    "prospective_change_vs_best_local_pct": at_most(-3.0),
    "coverage_90": at_least(0.86),
    "coverage_90_at_most": at_most(0.94),
    "entries_to_last_error_ratio": at_most(0.4),
    "digests": at_most(1),
    "folds_moved": at_most(0),
    "restarts": at_most(0),
}
SMOKE: dict[str, Any] = {
    "start": 20, "drop": 8, "campaigns": 2, "joins": 2, "adds": 2, "entries": 1, "later": 1, "steps": 2, "hidden": [8],
    "sites": ["biogen", "expansion"], "endpoints": ["solubility", "efflux"], "no_scratch": True,
}  # fmt: skip
MEASURED = tuple(endpoint.name for endpoint in ENDPOINTS)
LEAST_VALUES = 5
"""Of a pair of site and assay endpoint, to be part of a mean."""

Curve = Mapping[int, Mapping[str, float]]
"""Own entries before it -> assay endpoint -> validation error of the trunk."""


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    settings = Settings(
        entries=arguments.entries, later=arguments.later, steps=arguments.steps, hidden=tuple(arguments.hidden),
        dropout=arguments.dropout, batch=arguments.batch, rate=arguments.rate,
    )  # fmt: skip
    sizes = arguments.start, arguments.drop, arguments.campaigns
    data = year(arguments.data, arguments.seed, *sizes, arguments.sites, arguments.endpoints)
    founders = {name: drops[0] for name, drops in data.items() if name != NEWCOMER}
    federation = LivingFederation(
        living_sites.found(folder / "living", founders, settings, arguments.seed, late=arguments.late, with_late=False),
        arguments.seed,
    )
    digests, trained, versions, before = [], [], {}, {}
    first_campaign: dict[str, Curve] = {}
    with living_sites.ended(federation):
        for campaign in range(1, arguments.campaigns + 1):
            began = time.monotonic()
            if campaign == 1:
                documents = federation.run()
                first_campaign = {
                    s.name: {n - 1: e for n, e in error_by_entry(s).items()} for s in federation.federation
                }
            else:
                before = dict(documents[0].averaging.vector)
                joining = joined([*data[NEWCOMER][:campaign]]) if campaign == arguments.joins else None
                added = arguments.late if campaign == arguments.adds else ""
                documents = federation.next(arguments.later, joining, added)
            restarts = sum(document.process.generation - 1 for document in documents)
            digests.append(len({document.averaging.digest for document in documents}))
            say(f"campaign {campaign} is over after {time.monotonic() - began:.0f} s, {digests[-1]} digests")
            trained.append({site.name: living_sites.trained_on(site) for site in federation.federation})
            for site in federation.federation:
                drop = data[site.name][campaign]
                versions[site.name, predict(site, drop, campaign)] = campaign
                drop.write(site.folder / DATA_NAME, append=True)
        matched = {site.name: measured_since(site) for site in federation.federation}
        continued = {
            site.name: {n - 1 - before.get(site.name, 0): errors for n, errors in error_by_entry(site).items()}
            for site in federation.federation
        }
    scratch = first_campaign
    if not arguments.no_scratch:
        say("the same from nothing")
        everything = {name: joined(drops[:-1]) for name, drops in data.items()}
        scratch = from_nothing(folder / "scratch", everything, settings, arguments.seed, arguments.late)
    return {
        **prospective(matched, versions),
        **entries_needed(continued, scratch),
        "digests": max(digests),
        "folds_moved": moved(trained),
        "restarts": restarts,
    }


def joined(drops: Sequence[Drop]) -> Drop:
    """Several drops as one."""
    return Drop(
        [smiles for drop in drops for smiles in drop.smiles],
        {name: [cell for drop in drops for cell in drop.cells[name]] for name in drops[0].cells},
    )


def from_nothing(folder: Path, data: Mapping[str, Drop], settings: Settings, seed: int, late: str) -> dict[str, Curve]:
    """Errors by entry of a federation of the same sites that begins from the initial trunk; it writes no models."""
    with living_sites.found(folder, data, settings, seed, late=late, with_late=True) as federation:
        federation.start()
        until(
            "every site has published its entries",
            lambda: all_published(list(federation), settings.entries, len(data)),
            living_sites.DEADLINE_S,
            federation,
        )
        return {site.name: {n - 1: errors for n, errors in error_by_entry(site).items()} for site in federation}


def moved(trained: Sequence[Mapping[str, Mapping[str, bool]]]) -> int:
    """Compounds that were trained on in one campaign and held out in another; `trained` is by campaign and site."""
    found = 0
    for site in trained[-1]:
        seen: dict[str, bool] = {}
        for campaign in trained:
            for compound, used in campaign.get(site, {}).items():
                found += seen.setdefault(compound, used) != used
    return found


def prospective(
    matched: Mapping[str, Mapping[str, Matched]], versions: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    """Errors of what was predicted before it was measured.

    Args:
        matched: by site and assay endpoint.
        versions: (site, version) -> campaign after which it predicted.
    """
    drops, pairs, inside = [], [], []
    for site, endpoints in matched.items():
        for name, part in endpoints.items():
            inside.append(part.inside[np.isfinite(part.inside)])
            of = np.array([versions[site, row.version] for row in part.rows], int)
            drops += [
                {"site": site, "endpoint": name, "drop": int(drop), **figures(part.take(of == drop))}
                for drop in np.unique(of)
            ]
            if len(part) >= LEAST_VALUES and np.isfinite(part.best_local).any():
                pairs.append({"site": site, "endpoint": name, **figures(part)})
    together = np.concatenate(inside)
    changes = [pair["change_pct"] for pair in pairs]
    coverage = float(together.mean()) if len(together) else None
    return {
        "prospective_change_vs_best_local_pct": float(np.mean(changes)),
        "worst_change_vs_best_local_pct": float(np.max(changes)),
        "change_vs_median_pct": float(np.mean([change_pct(pair["predicts"], pair["median"]) for pair in pairs])),
        "coverage_90": coverage,
        "coverage_90_at_most": coverage,
        "values": int(sum(pair["values"] for pair in pairs)),
        "pairs": _without_nan(pairs),
        "by_drop": _without_nan(_by_drop(drops)),
        "by_site_and_drop": _without_nan(drops),
    }


def _by_drop(drops: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over pairs of site and assay endpoint, and shares of all values, of each drop."""
    table = pd.DataFrame(drops)
    counted = table[(table["values"] >= LEAST_VALUES) & table["change_pct"].notna()]
    found = []
    for drop in sorted(set(counted["drop"].tolist())):
        rows = counted[counted["drop"] == drop]
        found.append(
            {
                "drop": drop,
                "values": int(rows["values"].sum()),
                "change_pct": float(rows["change_pct"].mean()),
                "change_vs_median_pct": float(np.mean(100 * (rows["predicts"] / rows["median"] - 1))),
                "inside": _mean(rows["inside"], rows["promised"]),
                "outside": _mean(rows["outside"], rows["values"]),
            }
        )
    return found


def _without_nan(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no NaN."""
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]


def _mean(shares: pd.Series, counts: pd.Series) -> float:
    """Share of all values together; NaN where there is none."""
    return float((shares * counts).sum() / counts.sum()) if counts.sum() else np.nan


def figures(part: Matched) -> dict[str, Any]:
    """RMSE of what a site predicted, of best local and of the median on the same values; NaN where there is none."""
    found: dict[str, Any] = {"values": len(part)}
    labels = part.labels.astype(np.float32)
    for name, column in (("predicts", part.outputs), ("best_local", part.best_local), ("median", part.median)):
        known = np.isfinite(column)
        found[name] = score(part.endpoint, column[known], labels[known]) if known.all() and len(part) else np.nan
    told = np.isfinite(part.inside)
    return {
        **found,
        "change_pct": change_pct(found["predicts"], found["best_local"]),
        "promised": int(told.sum()),
        "inside": float(part.inside[told].mean()) if told.any() else np.nan,
        "outside": float(part.outside.mean()) if len(part) else np.nan,
    }


def entries_needed(continued: Mapping[str, Curve], scratch: Mapping[str, Curve]) -> dict[str, Any]:
    """How soon the last campaign is as good as a federation that began from nothing is at its end.

    Errors are relative to the last one of the federation from nothing, mean over pairs of site and assay endpoint.

    Raises:
        FederationFailedError: a site has trained nothing.
    """
    for site, curve in [*continued.items(), *scratch.items()]:
        if not curve:
            raise FederationFailedError(f"{site} has trained nothing: it came after the end, or never had its data")
    last = {site: curve[max(curve)] for site, curve in scratch.items()}
    made = max(max(curve) for curve in scratch.values())

    def relative(curves: Mapping[str, Curve], entry: int) -> float:
        parts = [
            curves[site][entry][name] / value
            for site, errors in last.items()
            for name, value in errors.items()
            if entry in curves[site] and name in curves[site][entry]
        ]
        return float(np.mean(parts))

    ours = [relative(continued, entry) for entry in range(max(max(curve) for curve in continued.values()) + 1)]
    theirs = [relative(scratch, entry) for entry in range(made + 1)]
    reached = next((entry for entry, error in enumerate(ours) if error <= 1.0), None)
    best = min(theirs)
    at_best = next((entry for entry, error in enumerate(ours) if error <= best), None)
    # Not reached: as if the entry after the last one would.
    return {
        "entries_to_last_error": len(ours) if reached is None else reached,
        "entries_to_last_error_ratio": (len(ours) if reached is None else reached) / max(1, made),
        "entries_to_best_error_ratio": (len(ours) if at_best is None else at_best) / max(1, theirs.index(best)),
        "reached": reached is not None,
        "error_by_entry": {"continued": ours, "from_nothing": theirs},
    }


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw errors by drop, and errors by entry of the last campaign, to an SVG file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "living"  # the same figures give the same file
    panes, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    rows = pd.DataFrame(found["by_site_and_drop"])
    rows = rows[rows["values"] >= LEAST_VALUES]
    drops = sorted(rows["drop"].unique())
    for name, text, color in (
        ("predicts", "what sites predicted with", "tab:blue"), ("best_local", "best local then", "tab:green"),
    ):  # fmt: skip
        relative = (rows[name] / rows["median"]).groupby(rows["drop"]).mean()
        left.plot(drops, [relative[drop] for drop in drops], "o-", color=color, label=text)
    left.set_xlabel("drop, each predicted before it was measured")
    left.set_ylabel("RMSE over that of the median")
    left.set_xticks(drops)
    for name, text, color in (
        ("continued", "continued campaign", "tab:blue"), ("from_nothing", "the same from nothing", "0.5"),
    ):  # fmt: skip
        right.plot(found["error_by_entry"][name], "o-", color=color, label=text, markersize=3)
    right.axhline(1.0, color="black", linewidth=1)
    right.set_xlabel("entries of each site")
    right.set_ylabel("validation error over the last from nothing")
    for pane in (left, right):
        pane.grid(alpha=0.3)
        pane.legend(fontsize=9)
    panes.savefig(path, metadata={"Date": None})
    pyplot.close(panes)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="settings were chosen on seeds from 100 on")
    parser.add_argument("--sites", nargs="+", choices=SILOS, default=list(SILOS), help="founders")
    parser.add_argument("--endpoints", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--start", type=int, default=200, help="compounds of each site at the start")
    parser.add_argument("--drop", type=int, default=60, help="compounds of each site and drop")
    parser.add_argument("--campaigns", type=int, default=5, help="and drops")
    parser.add_argument("--joins", type=int, default=4, help="campaign with which a fifth company joins")
    parser.add_argument("--late", choices=MEASURED, default="efflux", help="assay endpoint that is added later")
    parser.add_argument("--adds", type=int, default=3, help="campaign that adds it")
    parser.add_argument("--entries", type=int, default=40, help="of each site in the first campaign")
    parser.add_argument("--later", type=int, default=20, help="of each site in each later campaign")
    parser.add_argument(
        "--no-scratch", action="store_true", help="no federation from nothing: compare with the first campaign instead"
    )
    parser.add_argument("--steps", type=int, default=15, help="optimiser steps of an entry")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "kmel-living", help="is replaced")
    parser.add_argument("--plot", type=Path, help="draw errors by drop and by entry to this SVG file")
    arguments = parse(parser, SMOKE, given)
    if not 2 <= arguments.joins <= arguments.campaigns:
        parser.error("--joins names a campaign from 2 to --campaigns")
    if not 2 <= arguments.adds <= arguments.campaigns or {*arguments.endpoints} <= {arguments.late}:
        parser.error("--adds names a campaign from 2 to --campaigns, and --endpoints more than --late")
    machine = this_machine()
    folder = arguments.out / f"seed-{arguments.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    found = run(arguments, folder)
    found |= {"seconds": round(time.monotonic() - began, 1), "settings": settings_of(arguments)}
    if arguments.plot:
        plot(found, arguments.plot)
    shown = ("site", "endpoint", "values", "predicts", "best_local", "median", "change_pct", "inside", "outside")
    details = [
        pd.DataFrame(found["pairs"])[list(shown)].round(3).to_string(index=False),
        pd.DataFrame(found["by_drop"]).round(3).to_string(index=False),
    ]
    publish("a federation that lives", machine, found, GOALS, arguments.json, details)


if __name__ == "__main__":
    main()
