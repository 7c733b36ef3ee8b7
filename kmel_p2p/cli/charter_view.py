"""A charter as people read it before they sign, whole; and what differs between two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kmel_p2p.cli.language import say, told
from kmel_p2p.learn.models.registry import kind_of

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter, CharterDocument

OF_ITS_OWN = ("sites", "assay_endpoints", "federation", "version")
"""Parts of a charter that are no sections of settings."""


def charter_view(document: CharterDocument) -> RenderableType:
    """Everything a site agrees to by signing."""
    charter = document.charter
    title = f"{charter.federation} · charter {charter.id.hex()[:16]}"
    endpoints = _endpoints(charter)
    return Panel(Group(_sites(document), "", endpoints, "", _rules(charter)), title=title)


def differences(one: Charter, other: Charter) -> Iterator[tuple[str, str, str]]:
    """(setting, here, there) for each that differs; sites and assay endpoints by name, `-` where there is none."""
    here, there = _flat(one), _flat(other)
    for name in [*here, *(name for name in there if name not in here)]:
        values = here.get(name, "-"), there.get(name, "-")
        if values[0] != values[1]:
            yield name, *values


def _sites(document: CharterDocument) -> Table:
    problems = {line.split("'")[1]: line for line in document.problems()}
    table = Table(title="sites", title_justify="left", box=None, header_style="bold")
    for column in ("name", "key", "addresses", "signature"):
        table.add_column(column, overflow="fold")
    for site in document.charter.sites:
        signed = site.name in document.signatures
        bad = "wrong" if signed else "missing"
        signature = Text(say(bad), "red") if site.name in problems else Text(say("good"), "green")
        table.add_row(site.name, site.key[:16] + "…", "\n".join(site.addresses) or "-", signature)
    return table


def _endpoints(charter: Charter) -> Table:
    table = Table(title="assay endpoints", title_justify="left", box=None, show_header=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for rule in charter.assay_endpoints:
        values = rule.model_dump(mode="json")
        table.add_row(values.pop("name"), _listed(values))
    return table


def _rules(charter: Charter) -> Table:
    table = Table(title="rules", title_justify="left", box=None, show_header=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for section in (name for name in type(charter).model_fields if name not in OF_ITS_OWN):
        table.add_row(section, _listed(_section(charter, section)))
    table.add_row("trunk", _trunk(charter))
    return table


def _section(charter: Charter, name: str) -> dict[str, Any]:
    values: dict[str, Any] = getattr(charter, name).model_dump(mode="json")
    if name == "model":
        # Some keys are not written at their default.
        values |= {key: getattr(charter.model, key) for key in sorted(kind_of(charter.model).keys)}
        if (package := charter.model.package) is not None:
            options = f" with {' '.join(package.options)}" if package.options else ""
            tensors = hashlib.sha256("\n".join(package.tensors).encode()).hexdigest()[:16]
            values["package"] = (
                f"{package.name} {package.version}{options} (sha256 {package.sha256}), {len(package.tensors)} tensors "
                f"({tensors})"
            )
    return values


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    match value:
        case "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
        case list() | tuple():
            return " to ".join(map(_shown, value)) if len(value) == 2 else " ".join(map(_shown, value)) or "-"
    return str(value)


def _flat(charter: Charter) -> dict[str, str]:
    """Every setting by its name in words of the file."""
    found = {"federation": charter.federation}
    for site in charter.sites:
        found[f"site {site.name}"] = f"{site.key} {' '.join(site.addresses)}".rstrip()
    for rule in charter.assay_endpoints:
        values = rule.model_dump(mode="json")
        name = values.pop("name")
        found |= {f"assay endpoint {name}: {key}": _shown(value) for key, value in values.items()}
    for section in (name for name in type(charter).model_fields if name not in OF_ITS_OWN):
        found |= {f"{section}.{key}": _shown(value) for key, value in _section(charter, section).items()}
    return found


def _trunk(charter: Charter) -> str:
    from kmel_p2p.learn.models.layout import trunk_layout
    from kmel_p2p.site.loaded_site import architecture_of

    shape = architecture_of(charter)
    kind, size = kind_of(shape), trunk_layout(shape).size
    cost = f"{kind.cost(shape):,}"
    return told(f"reads {kind.summary}; {size:,} values, about {cost} multiplications per compound and pass")
