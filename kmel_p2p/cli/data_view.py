"""The data report and the catalogue for the screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kmel_p2p.cli.language import say

if TYPE_CHECKING:
    from rich.table import Table

    from kmel_p2p.chem.dataset.catalogue import CatalogueEntry

REASONS = 8
"""Kinds of refusal that are shown; the page and rejects.csv have all."""

SHOWN_SMILES = 60
"""Characters of a structure that are shown."""

MASSES = {"parent": " (mass of the compound)", "written": " (mass of the form as written)"}


def data_view(report: Mapping[str, Any]) -> Iterator[Table | str]:
    """Tables and lines, to be printed one below the other."""
    yield f"{report['file']}: {report['rows_in']:,} rows, {report['compounds']:,} compounds"
    yield (
        f"{report['found']:,} measurements found = {report['used']:,} used + {report['rejected']:,} rejected"
        f" + {report['aggregated']:,} aggregated"
    )
    if held_out := report["test_file"]:
        yield (
            f"test file: {held_out['found']:,} measurements found = {held_out['used']:,} used + "
            f"{held_out['rejected']:,} rejected + {held_out['aggregated']:,} aggregated"
        )
    yield _counts(report)
    for endpoint in report["endpoints"]:
        for line in _details(endpoint):
            yield f"{endpoint['name']}: {line}"
    if report["unnamed"]:
        yield f"{report['unnamed']:,} rows without a measurement of a mapped assay endpoint count as one rejected each"
    folds = report["folds"]
    both = f"{folds['compounds_in_train_and_test']} compounds and {folds['scaffolds_in_train_and_test']} scaffolds"
    yield (
        f"folds: {folds['train']:,} compounds train, {folds['valid']:,} choose, {folds['test']:,} test; "
        f"in train and test: {both}"
    )
    for kind, changed in report["structures_changed"].items():
        first = changed["examples"][0]
        what = f", {first['removed']}" if first["removed"] else ""
        shown = f"line {first['row']}{what}: {_short(first['written'])} became {_short(first['standardised'])}"
        yield f"structures: {changed['rows']:,} rows: {kind} (first: {shown})"
    for entry, withheld in report["embargo_withheld"].items():
        yield f"embargo: {withheld:,} rows withheld by {entry}"
    for reason, rows in list(report["refused_for"].items())[:REASONS]:
        first = report["examples"][reason][0]
        shown = f": {first['value']}" if first["value"] else ""
        yield f"refused: {rows:,} for: {reason} (first: line {first['row']} {first['column']}{shown})"
    if len(report["refused_for"]) > REASONS:
        yield f"refused: and {len(report['refused_for']) - REASONS} reasons more"
    for text in report["advice"]:
        yield f"advice: {text}"


def _short(smiles: str) -> str:
    return smiles if len(smiles) <= SHOWN_SMILES else smiles[:SHOWN_SMILES] + "..."


def _counts(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    names = ("", "found", "used", "rejected", "aggregated", "train/valid/test", "<", ">", "quorum")
    for name in names:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for e in report["endpoints"]:
        counts = [f"{e[key]:,}" for key in ("found", "used", "rejected", "aggregated")]
        bounds = [f"{e[key]:,}" for key in ("below_limit", "above_limit")]
        folds = f"{e['train']}/{e['valid']}/{e['test']}"
        table.add_row(e["name"], *counts, folds, *bounds, say("met" if e["quorum"] else "not met"))
    return table


def _details(endpoint: Mapping[str, Any]) -> Iterator[str]:
    if endpoint["kind"] == "classification":
        yield f"{endpoint['class_1']:,} of class 1, {endpoint['class_0']:,} of class 0"
    elif endpoint["range"]:
        points = endpoint["range"]
        ends = f"{points['lowest']:.3g} to {points['highest']:.3g}, median {points['median']:.3g} {endpoint['unit']}"
        yield f"{ends.rstrip()}; 90 % between {points['p05']:.3g} and {points['p95']:.3g}"
    for unit in endpoint["units"]:
        how = MASSES.get(unit.get("mass_of", ""), "")
        how += f" (times {unit['factor']:g})" if "factor" in unit else ""
        how += " (what is missing to 100 %)" if "complement" in unit else ""
        if unit["written"] != unit["used"] or how:
            yield f"{unit['values']:,} numbers in {unit['written']} became {unit['used']}{how}"
    if endpoint["limited_by_setting"]:
        yield f"{endpoint['limited_by_setting']:,} values on a declared limit count as bounds"
    again = endpoint["replicates"]
    if again["compounds"]:
        spread = ""
        if endpoint["kind"] == "regression" and again["median_spread"] is not None:
            spread = (
                f"; standard deviation: median {again['median_spread']:.2g}, largest {again['widest_spread']:.2g} "
                f"{endpoint['unit']}".rstrip()
            )
        yield f"{again['compounds']:,} compound(s) measured several times (up to {again['most']}){spread}"


def catalogue_entry(entry: CatalogueEntry) -> dict[str, Any]:
    """One entry, JSON-ready; what an assay endpoint of its kind does not have is left out."""
    endpoint = entry.endpoint
    shown: dict[str, Any] = {"name": endpoint.name, "kind": endpoint.kind, "note": entry.note}
    if endpoint.kind == "regression":
        shown |= {
            "unit": endpoint.unit,
            "transform": endpoint.transform,
            "valid_range": list(endpoint.valid_range),
            "typical": list(entry.typical or ()),
            "center": endpoint.center,
            "scale": endpoint.scale,
            "thresholds": list(entry.thresholds),
        }
    elif entry.border:
        shown |= {"border": entry.border, "positive": entry.positive}
    return shown | {"direction": entry.direction, "synonyms": list(entry.synonyms)}


def catalogue_view(entries: Sequence[Mapping[str, Any]], whole: bool) -> Iterator[str]:
    """A line for each entry, or every field of one."""
    if whole:
        for key, value in entries[0].items():
            yield f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        return
    rows = [(entry["name"], *_catalogue_cells(entry), entry["note"]) for entry in entries]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])


def _catalogue_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    """(what values are, which are credible)."""
    if entry["kind"] == "classification":
        return "class", f"1 {entry['positive']} {entry['border']}" if "border" in entry else ""
    unit, (low, high) = entry["unit"], entry["valid_range"]
    values = f"log10({unit})" if entry["transform"] == "log10" else unit or "value"
    return values, f"{low:g} to {high:g} {unit}".rstrip()
