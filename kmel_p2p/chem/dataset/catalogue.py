"""The assay endpoints people usually mean: unit, transform, credible range, class borders (`catalogue.toml`)."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.strict import build


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One assay endpoint of the catalogue.

    Attributes:
        endpoint: the rules a charter would take.
        synonyms: other names in use, among them those of K-MELLODDY and TDC.
        direction: which values are wanted: `high`, `low`, or within a `range`.
        typical: native values that most compounds of a project lie between; None for classes.
        thresholds: usual class borders, native.
        note: what exactly is measured.
        border: value and unit that usually divide numbers into classes; empty where assays give classes.
        positive: which side of it is class 1.
    """

    endpoint: AssayEndpoint
    synonyms: tuple[str, ...]
    direction: str
    typical: tuple[float, float] | None
    thresholds: tuple[float, ...]
    note: str
    border: str = ""
    positive: str = ""


@functools.cache
def catalogue() -> Mapping[str, CatalogueEntry]:
    """Entries by name, in the order of the file."""
    text = resources.files("kmel_p2p.chem.dataset").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {raw["name"]: _entry(raw) for raw in tomllib.loads(text)["endpoint"]}


def look_up(name: str) -> CatalogueEntry | None:
    """The entry of that name or synonym; case, blanks, hyphens and underscores are ignored."""
    wanted = plain(name)
    for entry in catalogue().values():
        if wanted in {plain(other) for other in (entry.endpoint.name, *entry.synonyms)}:
            return entry
    return None


def nearest(name: str) -> str:
    """The entry whose name or synonym is most like this one; empty when none is."""
    names = {plain(other): entry.endpoint.name for entry in catalogue().values()
             for other in (entry.endpoint.name, *entry.synonyms)}  # fmt: skip
    near = difflib.get_close_matches(plain(name), names, n=1, cutoff=0.6)
    starts = [entry for known, entry in names.items() if known.startswith(plain(name)) and len(name) > 2]
    return names[near[0]] if near else starts[0] if starts else ""


def charter_rules(name: str) -> dict[str, Any] | None:
    """What `charter new` writes for an assay endpoint of this name; None where the catalogue has none."""
    entry = catalogue().get(name)
    if entry is None:
        return None
    endpoint = entry.endpoint
    rules: dict[str, Any] = {"name": endpoint.name, "kind": endpoint.kind}
    if endpoint.kind == "regression":
        rules |= {
            "unit": endpoint.unit,
            "transform": endpoint.transform,
            "valid_range": endpoint.valid_range,
            "center": endpoint.center,
            "scale": endpoint.scale,
        }
    return rules


def _entry(raw: Mapping[str, Any]) -> CatalogueEntry:
    rules = {key: raw[key] for key in AssayEndpoint.model_fields if key in raw}
    typical = raw.get("typical")
    return CatalogueEntry(
        build(AssayEndpoint, rules, "catalogue.toml"),
        tuple(raw["synonyms"]),
        raw["direction"],
        (float(typical[0]), float(typical[1])) if typical else None,
        tuple(map(float, raw.get("thresholds", ()))),
        raw["note"],
        raw.get("border", ""),
        raw.get("positive", ""),
    )


def plain(name: str) -> str:
    """A name for comparison: without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", name).lower()
