"""The evaluation as one HTML file with plots, nothing loaded from elsewhere. Aggregates only: it may be shared."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from kmel_p2p.chem.check_page import png

SHOWN = ("local", "federated", "personalised", "hybrid", "baseline_forest", "baseline_median")


def evaluation_page(report: Mapping[str, Any]) -> str:
    """HTML of `evaluation.evaluate`'s report."""
    plots = {e["name"]: _plot(e) for e in report["endpoints"] if "models" in e}
    template = resources.files("kmel_p2p.learn").joinpath("evaluation_page.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(template).render(r=report, plots=plots, shown=SHOWN)


def _plot(endpoint: Mapping[str, Any]) -> str:
    """Scores with intervals, and where there is one the calibration curve, as base64 PNG."""
    from matplotlib.figure import Figure

    curve = endpoint["coverage"]
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=[2, 1]) if curve else [figure.subplots()]
    axes = panels[0]
    for height, name in enumerate(reversed(SHOWN)):
        found = endpoint["models"][name]
        low, high = found["interval"]
        color = "#3b6ea5" if name == endpoint["chosen"] else "#8a97a5"
        axes.plot([low, high], [height, height], color=color, linewidth=2)
        axes.plot(found["score"], height, "o", color=color)
    axes.set_yticks(range(len(SHOWN)), [name.replace("baseline_", "") for name in reversed(SHOWN)])
    axes.set_xlabel(f"{endpoint['metric']} {endpoint['unit']}".strip())
    if curve:
        levels = [point["level"] for point in curve]
        panels[1].plot([0.4, 1], [0.4, 1], color="#c5ced6")
        panels[1].plot(levels, [point["inside"] for point in curve], "o-", color="#3b6ea5")
        panels[1].set_xlabel("level")
        panels[1].set_ylabel("share inside")
    return png(figure)
