"""The prospective report as one self-contained HTML file that a project team looks at every month."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmel_p2p.chem.report.check_page import png
from kmel_p2p.web.templates import page

METRICS = {"rmse": "RMSE", "log_loss": "log loss"}
RANKING = {"regression": ("spearman", "Spearman"), "classification": ("auroc", "AUROC")}
BLUE, ORANGE, GREY, LIGHT = "#0072B2", "#B35900", "#8A939C", "#C5CED6"


def prospective_page(report: Mapping[str, Any]) -> str:
    """HTML of `prospective.prospective`'s report."""
    plots = {e["name"]: _plot(e) for e in report["endpoints"] if len(_months(e)) > 1}
    filters = {
        "in_words": in_words,
        "figure": lambda value: "" if value is None else f"{value:.3f}",
        "signed": lambda value: f"{value:+.2f}",
        "percent": lambda value: "" if value is None else f"{100 * value:.0f} %",
    }
    values = {"r": report, "plots": plots, "metrics": METRICS, "ranking": RANKING}
    return page("kmel_p2p.learn.register", "prospective_page.html", values, filters)


def in_words(endpoint: Mapping[str, Any]) -> str:
    """What a project team wants to know, in one or two sentences."""
    waiting = f"{endpoint['waiting']} more wait for a measurement" if endpoint["waiting"] else "none waits"
    values = endpoint["values"]
    if "score" not in endpoint:
        return f"{values or 'no'} predicted values were measured since, too few for figures; {waiting}."
    text = f"{METRICS[endpoint['metric']]} {endpoint['score']:.3f} on {values} values measured after their prediction"
    if "change_vs_best_local_pct" in endpoint:
        change, (low, high) = endpoint["change_vs_best_local_pct"], endpoint["change_vs_best_local_interval_pct"]
        text += (
            f", {abs(change):.1f} % {'lower' if change < 0 else 'higher'} than best local's (95 %: {low:+.1f} to "
            f"{high:+.1f} %)"
        )
    if "inside" in endpoint:
        what = "intervals hold" if endpoint["kind"] == "regression" else "sets of classes hold"
        text += f"; {what} {100 * endpoint['inside']:.0f} % where {100 * endpoint['promised']:.0f} % were promised"
    return f"{text}; {waiting}."


def _months(endpoint: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [month for month in endpoint["months"] if "score" in month]


def _plot(endpoint: Mapping[str, Any]) -> str:
    """Error and intervals by month, as base64 PNG."""
    from matplotlib.figure import Figure

    months = _months(endpoint)
    names = [month["month"] for month in months]
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    errors, shares = figure.subplots(1, 2)
    for key, title, colour in (
        ("score", "predicts", BLUE),
        ("best_local", "best local", ORANGE),
        ("median", "median", GREY),
    ):
        known = [(name, month[key]) for name, month in zip(names, months, strict=True) if key in month]
        if known:
            errors.plot(*zip(*known, strict=True), "o-", color=colour, label=title)
    errors.set_title(f"{METRICS[endpoint['metric']]} {endpoint['unit']}", fontsize=10)
    errors.set_ylim(bottom=0)
    errors.legend(frameon=False, fontsize=9)
    told = [(name, 100 * month["inside"], 100 * month["promised"]) for name, month in zip(names, months, strict=True)
            if "inside" in month]  # fmt: skip
    if told:
        where, inside, promised = zip(*told, strict=True)
        shares.plot(where, promised, color=LIGHT, label="promised")
        shares.plot(where, inside, "o-", color=BLUE, label="inside")
        shares.legend(frameon=False, fontsize=9)
    shares.set_title("% of measured values inside their intervals", fontsize=10)
    shares.set_ylim(0, 102)
    for axes in (errors, shares):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", rotation=45)
    return png(figure)
