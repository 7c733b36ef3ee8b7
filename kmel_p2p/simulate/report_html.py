"""The report as one HTML page that needs nothing else: no script, no network, plots inside."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import jinja2
from markupsafe import Markup

from kmel_p2p.simulate import report_plots as plots

TEMPLATE = "report.html.j2"


def render_html(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: as in `report.json`.
        details: as in `details.json`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kmel_p2p.simulate", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = _size
    environment.filters["percent"] = _percent
    return environment.get_template(TEMPLATE).render(
        report=report,
        details=details,
        headline=_headline(report),
        metric=plots.error_label(report),
        kinds=sorted({kind for site in details["sites"].values() for kind in site["egress"]}),
        models=list(plots.MODEL_STYLE),
        own_trunks="spread" in report,
        agreed=len({(site["digest"], tuple(sorted(site["vector"].items()))) for site in report["sites"]}) == 1,
        error_by_model=Markup(plots.error_by_model(report, details)),
        error_by_entry=Markup(plots.error_by_entry(report, details)),
        vectors=Markup(plots.vectors_over_time(report, details)),
        traffic=Markup(plots.bytes_over_time(report, details)),
    )


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the sites, and the ratios people ask for."""
    sites = report["sites"]
    local, federated = fmean(site["local"] for site in sites), fmean(site["federated"] for site in sites)
    entry = fmean(site["payload_bytes_mean"] for site in sites)
    return {
        "local": local,
        "federated": federated,
        "change": federated / local - 1,
        "to_pooled": federated / report["pooled"] - 1,
        "entry_bytes": entry,
        "smaller": report["fp32_bytes_per_exchange"] / entry if entry else 0.0,
        "least_gain": max(site["federated"] / site["local"] - 1 for site in sites),
    }


def _percent(share: float, digits: int) -> str:
    """A relative change for people, with its sign."""
    return f"{100 * share:+.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _size(count: float) -> str:
    """A byte count for people."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
