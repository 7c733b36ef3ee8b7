"""Plots of the report, as SVG text that goes into the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

SITE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B5EA7", "#8C8C00")
"""Okabe and Ito's palette, safe for colour-blind readers, and two more."""

MODEL_STYLE = {
    "local": ("#8A939C", "o"),
    "federated": ("#0072B2", "s"),
    "personalised": ("#E69F00", "D"),
    "hybrid": ("#009E73", "^"),
}
PREDICTS_STYLE, FOREST_STYLE = ("#D55E00", "*"), ("#8A939C", "x")
"""What a site predicts with, and the forest it would have without any network."""
POOLED_COLOUR = "#1F2933"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9AA5B1",
    "axes.labelcolor": "#3E4C59",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.8,
    "xtick.color": "#52606D",
    "ytick.color": "#52606D",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "savefig.transparent": True,
}


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each site; colours repeat beyond eight."""
    return {name: SITE_COLOURS[at % len(SITE_COLOURS)] for at, name in enumerate(names)}


def error_label(report: Mapping[str, Any]) -> str:
    """What the error is, with its unit."""
    name = report["metric"].upper() if report["metric"] == "rmse" else report["metric"].replace("_", " ")
    return f"test {name}" + (f", {report['unit']}" if report["unit"] else "")


def error_by_model(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Test error of every model at every site, with the pooled model as the line to reach."""
    sites = report["sites"]
    more = [details["sites"][site["site"]] for site in sites]
    series = [(model, *style, [site[model] for site in sites]) for model, style in MODEL_STYLE.items()]
    series.append(("what it predicts with", *PREDICTS_STYLE, [site["predicts"] for site in more]))
    series.append(("random forest", *FOREST_STYLE, [site["forest"] for site in more]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for at, (model, colour, marker, values) in enumerate(series):
            places = np.arange(len(sites)) + (at - (len(series) - 1) / 2) * 0.145
            axes.vlines(places, 0, values, color=colour, linewidth=5, alpha=0.25)
            axes.plot(places, values, marker, color=colour, markersize=11 if marker == "*" else 8, label=model)
            for x, y in zip(places, values, strict=True):
                axes.annotate(
                    f"{y:.2f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=7.5, color=colour
                )
        axes.axhline(report["pooled"], color=POOLED_COLOUR, linewidth=1.2, linestyle="--", label="pooled")
        axes.set_xticks(range(len(sites)), [f"{site['site']}\n{site['train_rows']} compounds" for site in sites])
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, 1.15 * max(value for *_, values in series for value in values))
        axes.set_ylabel(error_label(report))
        axes.legend(ncols=len(series) + 1, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.0)

    return _svg(draw, 9.6, 3.8)


def error_by_entry(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """One panel per site: test error while entries were published, federated against local."""

    def draw(figure: Figure) -> None:
        sites = report["sites"]
        columns = min(4, len(sites))
        rows = -(-len(sites) // columns)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(sites) :]:
            axes.set_visible(False)
        for axes, site in zip(grid.flat, sites, strict=False):
            history = details["sites"][site["site"]]["comparison"]["history"]
            for model in ("local", "federated"):
                line = _curve(history[model])
                colour, _ = MODEL_STYLE[model]
                axes.plot(*line, color=colour, linewidth=1.8, label=model if axes is grid.flat[0] else None)
            pooled_label = "pooled" if axes is grid.flat[0] else None
            axes.axhline(report["pooled"], color=POOLED_COLOUR, linewidth=1.1, linestyle="--", label=pooled_label)
            axes.set_title(site["site"])
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        top = max(max(site["local"], site["federated"]) for site in sites)
        grid.flat[0].set_ylim(0.8 * min(report["pooled"], *(site["federated"] for site in sites)), 2.2 * top)
        grid.flat[0].set_yscale("log")
        grid.flat[0].yaxis.set_major_locator(MaxNLocator(5))
        grid.flat[0].yaxis.set_minor_locator(mpl.ticker.NullLocator())
        grid.flat[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes in grid[:, 0]:
            axes.set_ylabel(error_label(report))
        for axes in grid[-1]:
            axes.set_xlabel("entries")
        figure.legend(ncols=3, loc="outside upper right")

    rows = -(-len(report["sites"]) // 4)
    return _svg(draw, 9.6, 0.6 + 2.5 * rows)


def vectors_over_time(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Newest entry of each author as each site knew it. Where lines of one colour part, entries are under way."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = [site["site"] for site in report["sites"]]
        colours = colour_of(names)
        for observer in names:
            samples = details["sites"][observer]["samples"]
            for author in names:
                axes.step(
                    [sample["at_s"] for sample in samples],
                    [sample["vector"].get(author, 0) for sample in samples],
                    where="post",
                    color=colours[author],
                    linewidth=2.2 if author == observer else 0.9,
                    alpha=1.0 if author == observer else 0.6,
                    label=author if author == observer else None,
                )
        axes.set_xlabel("seconds since the start")
        axes.set_ylabel("rounds trained" if "spread" in report else "newest entry in the ledger")
        # Above, as no corner is free of curves that rise from one to the other.
        title = "author (thick: at its own site)"
        axes.legend(ncols=min(len(names), 4), title=title, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return _svg(draw, 4.7, 3.8)


def bytes_over_time(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Bytes each site sent, all traffic included."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = [site["site"] for site in report["sites"]]
        for name, colour in colour_of(names).items():
            samples = details["sites"][name]["samples"]
            axes.plot(
                [sample["at_s"] for sample in samples],
                [sample["bytes_out"] / 1e6 for sample in samples],
                color=colour,
                linewidth=1.8,
                label=name,
            )
        dense = report["fp32_bytes_per_exchange"] / 1e6
        axes.axhline(dense, color=POOLED_COLOUR, linewidth=1.1, linestyle="--", label="the trunk once, in float32")
        axes.set_ylim(0, 1.6 * max(dense, *(site["bytes_sent"] / 1e6 for site in report["sites"])))
        axes.set_xlabel("seconds since the start")
        axes.set_ylabel("sent by the site, MB")
        axes.legend(loc="upper left")

    return _svg(draw, 4.7, 3.4)


def _curve(history: Sequence[Any]) -> tuple[list[float], list[float]]:
    """(entries, mean test score over the assay endpoints)."""
    points = [(at, [fold["test"] for fold in scores.values() if "test" in fold]) for at, scores in history]
    known = [(at, fmean(values)) for at, values in points if values]
    return [at for at, _ in known], [value for _, value in known]


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """The figure as an `<svg>` element without size, so that the page scales it."""
    with mpl.rc_context(cast("Any", {**STYLE, "svg.hashsalt": draw.__qualname__})):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            assert isinstance(axes, Axes)
            axes.set_axisbelow(True)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + body
