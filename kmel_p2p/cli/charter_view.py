"""A charter as people read it before they sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kmel_p2p.learn.models.registry import trunk_kind

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter, CharterDocument


def charter_view(document: CharterDocument) -> RenderableType:
    """Everything a site agrees to by signing."""
    charter = document.charter
    problems = {line.split("'")[1]: line for line in document.problems()}
    sites = Table(title="sites", title_justify="left", box=None, header_style="bold")
    for column in ("name", "key", "addresses", "signature"):
        sites.add_column(column)
    for site in charter.sites:
        signature = Text("missing or wrong", "red") if site.name in problems else Text("good", "green")
        sites.add_row(site.name, site.key[:16] + "…", "\n".join(site.addresses) or "-", signature)
    endpoints = Table(title="assay endpoints", title_justify="left", box=None, header_style="bold")
    for column in ("name", "kind", "unit", "transform", "valid range", "head", "weight"):
        endpoints.add_column(column)
    for rule in charter.assay_endpoints:
        low, high = rule.valid_range
        endpoints.add_row(
            rule.name, rule.kind, rule.unit, rule.transform, f"{low:g} to {high:g}", rule.head, f"{rule.weight:g}"
        )
    title = f"{charter.federation} · charter {charter.id.hex()[:16]}"
    return Panel(Group(sites, "", endpoints, "", _rules(charter)), title=title)


def _rules(charter: Charter) -> Table:
    table = Table(title="rules", title_justify="left", box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for section in ("model", "features", "training", "averaging", "pace", "split"):
        values = getattr(charter, section).model_dump(mode="json")
        if section == "model":
            # Some keys are not written at their default.
            values |= {key: getattr(charter.model, key) for key in sorted(trunk_kind(charter.model.trunk).keys)}
        table.add_row(section, ", ".join(f"{key} {value}" for key, value in values.items() if value != ""))
    table.add_row("trunk", _trunk(charter))
    return table


def _trunk(charter: Charter) -> str:
    from kmel_p2p.learn.models.layout import trunk_layout
    from kmel_p2p.site.loaded_site import architecture_of

    shape = architecture_of(charter)
    kind, size = trunk_kind(shape.trunk), trunk_layout(shape).size
    return f"reads {kind.summary}; {size:,} values, about {kind.cost(shape):,} multiplications per compound and pass"
