"""The data report as one HTML file: tables, and a range plot per assay endpoint, self-contained."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.catalogue import look_up
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.web.templates import page

VALUES, BOUNDS, REFUSED, PILE, TYPICAL = "#3b6ea5", "#d9a441", "#b23b3b", "#7a4d00", "#e8f1e6"
BINS = 48
MAX_ROUNDED = 400
"""With more distinct values, rounding is not looked for."""


def check_page(report: Mapping[str, Any], own: Measurements) -> str:
    """HTML of `check.check`'s report."""
    piles = {e["name"]: e.get("piles", []) for e in report["endpoints"]}
    plots = {
        endpoint.name: _range_plot(endpoint, own.readings[place], piles[endpoint.name])
        for place, endpoint in enumerate(own.endpoints)
        if endpoint.name in piles
    }
    filters = {"number": lambda value: f"{value:.3g}", "many": lambda value: f"{value:,}"}
    return page("kmel_p2p.chem.report", "check_page.html", {"r": report, "plots": plots}, filters)


def _range_plot(endpoint: AssayEndpoint, readings: Readings, piles: list[dict[str, Any]]) -> str:
    """Every number of the file (used or refused) where it lies, as base64 PNG; empty for classes and without numbers.

    Shaded: what is typical by the catalogue. Dashed: the charter's range. Numbers far outside stand at the edge.
    """
    values, outside, bounds = _plotted(endpoint, readings)
    if endpoint.kind == "classification" or not len(values):
        return ""
    from matplotlib.figure import Figure

    inside = values[~outside] if (~outside).any() else values
    width = max(float(np.ptp(inside)), 1e-6)
    left, right = inside.min() - 0.08 * width, inside.max() + 0.08 * width
    shown = np.clip(values, left, right)
    figure = Figure(figsize=(8.4, 2.3), layout="constrained")
    axes = figure.subplots()
    every = (
        ("values", VALUES, ~outside & ~bounds),
        ("bounds", BOUNDS, ~outside & bounds),
        ("refused", REFUSED, outside),
    )
    kinds = [kind for kind in every if kind[2].any()]
    axes.hist(
        [shown[chosen] for _, _, chosen in kinds],
        bins=_edges(inside, left, right).tolist(),
        stacked=True,
        color=[color for _, color, _ in kinds],
        label=[f"{name} ({int(chosen.sum()):,})" for name, _, chosen in kinds],
    )
    _mark_ranges(axes, endpoint, left, right)
    _mark_piles(axes, readings, values, piles)
    axes.set_xlim(left, right)
    axes.set_xlabel(f"{endpoint.name} {endpoint.reported_unit}".strip())
    axes.set_ylabel("measurements")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png(figure)


def _edges(values: NDArray[np.float64], left: float, right: float) -> NDArray[np.float64]:
    """Edges of the bars: each as wide as a whole number of steps of rounded values, or every other bar would be low."""
    width = (right - left) / BINS
    known = np.unique(np.round(values, 9))
    steps = np.diff(known)
    if 0 < len(steps) < MAX_ROUNDED and np.allclose(steps / steps.min(), np.round(steps / steps.min()), atol=1e-3):
        step = float(steps.min())
        width = np.ceil(width / step) * step
        left = known[0] - step / 2 - np.ceil((known[0] - step / 2 - left) / width) * width
    return left + width * np.arange(np.ceil((right - left) / width) + 1)


def _plotted(
    endpoint: AssayEndpoint, readings: Readings
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """(transformed numbers, whether outside the charter's range, whether bounds), without those that have no place."""
    native, relations = np.asarray(readings.native, np.float64), np.asarray(readings.relations, np.int8)
    placed = np.isfinite(native) & ((native > 0) if endpoint.transform == "log10" else True)
    native, relations = native[placed], relations[placed]
    low, high = endpoint.valid_range
    values = np.log10(native) if endpoint.transform == "log10" else native
    return values, (native < low) | (native > high), relations != 0


def _mark_ranges(axes: Any, endpoint: AssayEndpoint, left: float, right: float) -> None:
    entry = look_up(endpoint.name)
    if entry is not None and entry.typical and entry.endpoint.reported_unit == endpoint.reported_unit:
        low, high = (_place(endpoint, edge) for edge in entry.typical)
        axes.axvspan(max(low, left), min(high, right), color=TYPICAL, zorder=0, label="typical")
    label = "charter's range"
    for edge in (_place(endpoint, limit) for limit in endpoint.valid_range):
        if left < edge < right:
            axes.axvline(edge, color="#555", lw=1, ls="--", label=label)
            label = ""


def _mark_piles(axes: Any, readings: Readings, values: NDArray[np.float64], piles: list[dict[str, Any]]) -> None:
    """Name the heap of a pile: the plotted number that occurs most often on its side."""
    if not readings.written or not len(values):
        return
    for pile in piles:
        if pile["value"] == 0 and pile["setting"] != "low_limit = 0.0":
            continue  # zeros that have no logarithm are not on the axis
        found, counts = np.unique(values, return_counts=True)
        near = np.flatnonzero(counts >= 0.9 * pile["count"])
        if len(near):
            at = found[near[0] if pile["side"] == "low_limit" else near[-1]]
            axes.annotate(
                f"{pile['count']:,} equal",
                (at, 0.97),
                xycoords=("data", "axes fraction"),
                ha="left" if at < values.mean() else "right",
                va="top",
                fontsize=8,
                color=PILE,
                xytext=(6 if at < values.mean() else -6, 0),
                textcoords="offset points",
            )


def _place(endpoint: AssayEndpoint, native: float) -> float:
    if endpoint.transform == "log10":
        return float(np.log10(native)) if native > 0 else -np.inf
    return native


def png(figure: Any) -> str:
    """A figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
