"""A picture of what `silos.py` found: errors of each silo's models relative to its local one.

Left on its own test fold, right on the chemistry of the other silos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SILOS = {"az": "AstraZeneca", "biogen": "Biogen", "expansion": "ExpansionRx", "chembl": "ChEMBL"}
ENDPOINTS = {"logd": "logD", "hlm": "HLM clearance", "efflux": "efflux", "solubility": "solubility"}
MARKS = {
    "control": ("two local models, averaged", "o", "0.6"),
    "federated": ("federated", "s", "tab:orange"),
    "chosen": ("what the site predicts with", "D", "tab:blue"),
}


def plot(figures: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the pairs of `silos.summary` to an SVG file."""
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
        changes = {name: 100 * (row[name] / row["local"] - 1) for name in MARKS if name in row}
        axis.plot([0.0, changes["chosen"]], [place, place], color="tab:blue", linewidth=2, alpha=0.5)
        for name, change in changes.items():
            text, mark, color = MARKS[name]
            axis.plot(change, place, mark, color=color, label=text if place == 0 else None, markersize=6)
    axis.set_xlabel(f"change of MAE against local, %\non {where}")
    axis.grid(axis="x", alpha=0.3)


def _name(row: Mapping[str, Any]) -> str:
    return f"{SILOS[row['silo']]}, {ENDPOINTS[row['endpoint']]}"
