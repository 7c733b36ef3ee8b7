"""The data report as one HTML file: tables, and a range plot per assay endpoint, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.measurements import Measurements


def check_page(report: Mapping[str, Any], own: Measurements) -> str:
    """HTML of `check.check`'s report."""
    plots = {endpoint.name: _range_plot(endpoint, own, place) for place, endpoint in enumerate(own.endpoints)}
    template = resources.files("kmel_p2p.chem").joinpath("check_page.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(template).render(r=report, plots=plots)


def _range_plot(endpoint: AssayEndpoint, own: Measurements, place: int) -> str:
    """Histogram of values and bounds as base64 PNG; empty for classes and for nothing measured."""
    from matplotlib.figure import Figure

    labels = own.labels[:, place].astype(np.float64)
    measured = np.isfinite(labels)
    if endpoint.kind == "classification" or not measured.any():
        return ""
    values, bounds = endpoint.transformed(labels[measured]), own.relations[measured, place] != 0
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(values.min() - 1e-9, values.max() + 1e-9, 41).tolist()
    axes.hist([values[~bounds], values[bounds]], bins=edges, stacked=True, color=["#3b6ea5", "#d9a441"],
              label=["values", "bounds"])  # fmt: skip
    axes.set_xlabel(f"{endpoint.name} {endpoint.reported_unit}".strip())
    axes.set_ylabel("compounds")
    axes.legend(frameon=False)
    return png(figure)


def png(figure: Any) -> str:
    """A figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
