"""The evaluation as one self-contained HTML file with plots. It has aggregates only, so it may be shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmel_p2p.chem.report.check_page import png
from kmel_p2p.learn.evaluate.advice import LOCAL, NO_EVIDENCE, USE, in_words
from kmel_p2p.learn.predict.outputs import CHOSEN
from kmel_p2p.learn.stack.sides import BEST_LOCAL, FOREIGN, STACK
from kmel_p2p.web.templates import Filters, page

SHOWN = {
    "local": "local",
    "federated": "federated",
    "personalised": "personalised",
    "hybrid": "hybrid",
    BEST_LOCAL: "best local",
    STACK: "stack with the federation",
    FOREIGN: "federation's learners alone",
    CHOSEN: "this site predicts with",
    "baseline_forest": "forest",
    "baseline_median": "median",
}
"""Model -> what it is called on the page, in the order of the rows."""

FURTHER = {
    "regression": {"mae": "MAE", "r2": "R\N{SUPERSCRIPT TWO}", "spearman": "Spearman"},
    "classification": {"auroc": "AUROC", "average_precision": "average precision"},
}
METRICS = {"rmse": "RMSE", "log_loss": "log loss"}

ADVICE_STYLE = {USE: "use", NO_EVIDENCE: "none", LOCAL: "local"}
"""Class of the style sheet."""

BLUE, GREY, LIGHT = "#0072B2", "#8A939C", "#C5CED6"


def evaluation_page(report: Mapping[str, Any]) -> str:
    """HTML of `evaluation.evaluate`'s report."""
    plots = {e["name"]: _plot(e) for e in report["endpoints"] if "models" in e}
    values = {
        "r": report, "plots": plots, "shown": SHOWN, "further": FURTHER, "metrics": METRICS, "chosen": CHOSEN,
        "advice_style": ADVICE_STYLE,
    }  # fmt: skip
    filters: Filters = {"signed": _signed, "figure": _figure, "in_words": in_words}
    return page("kmel_p2p.learn.evaluate", "evaluation_page.html", values, filters)


def _signed(value: float, digits: int = 1) -> str:
    """The value with its sign, using a minus as wide as a plus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _plot(endpoint: Mapping[str, Any]) -> str:
    """Scores with intervals, and how well predicted intervals, classes and probabilities hold, as base64 PNG."""
    from matplotlib.figure import Figure

    curve, groups = endpoint["coverage"], endpoint["reliability"]
    ratios = [2.2, *([1] if curve else []), *([1] if groups else [])]
    figure = Figure(figsize=(9.6, 1.1 + 0.26 * len(endpoint["models"])), layout="constrained")
    panels = list(figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0])
    _scores(panels.pop(0), endpoint)
    if curve:
        _levels(panels.pop(0), curve, endpoint["kind"])
    if groups:
        _reliability(panels.pop(0), groups)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _scores(axes: Any, endpoint: Mapping[str, Any]) -> None:
    shown = [name for name in SHOWN if name in endpoint["models"]]
    for height, name in enumerate(reversed(shown)):
        found = endpoint["models"][name]
        low, high = found["interval"]
        colour = BLUE if name == CHOSEN else GREY
        axes.plot([low, high], [height, height], color=colour, linewidth=3 if name == CHOSEN else 2)
        axes.plot(found["score"], height, "o", color=colour)
    axes.axvline(endpoint["models"]["local"]["score"], color=LIGHT, linewidth=1, zorder=0)
    axes.set_yticks(range(len(shown)), [SHOWN[name] for name in reversed(shown)])
    axes.set_xlabel(" ".join(part for part in (METRICS[endpoint["metric"]], endpoint["unit"]) if part))


def _levels(axes: Any, curve: list[Mapping[str, float]], kind: str) -> None:
    levels = [point["level"] for point in curve]
    axes.plot([0.4, 1], [0.4, 1], color=LIGHT)
    axes.plot(levels, [point["inside"] for point in curve], "o-", color=BLUE)
    axes.set_title("intervals" if kind == "regression" else "sets of classes", fontsize=10)
    axes.set_xlabel("level")
    axes.set_ylabel("share inside" if kind == "regression" else "share with the true class")


def _reliability(axes: Any, groups: list[Mapping[str, float]]) -> None:
    axes.plot([0, 1], [0, 1], color=LIGHT)
    axes.plot([g["predicted"] for g in groups], [g["observed"] for g in groups], "o-", color=BLUE)
    axes.set_title("probabilities", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("observed share")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
