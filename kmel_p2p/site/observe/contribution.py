"""The contribution report: what each author's entries were worth to this site, and what they cost.

Worth is measured on own held-out compounds and stays at this site (docs/consortium.md has how, and how good it is).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.trainer.contribution_book import BLOB, ContributionBook, Worth

SCHEMA = 1

COPIES = 0.2
"""Share of an author's entries that are nearly another author's from which on people are told."""

FEW = 4
"""Entries of which nothing is said."""


def contribution_report(site: Site, book: ContributionBook) -> dict[str, Any]:
    """Plain data.

    Returns:
        `endpoints`: of the measured assay endpoints, held-out compounds and mean loss at first and in the end.
        `authors`: by name: `entries`, `payload_bytes`, `uptime` (share of samples; null for this site itself),
        `size_class`, `weight_share`, `notes` (what people should know), and `worth`: assay endpoint -> `value`, `low`,
        `high` (by how much its entries made the loss smaller, with a 95 % interval, in labels), `share` (of the whole
        fall of the loss), `late` (the same over the second half of the run, by entries), and `beyond_weight` with its
        interval (what it gave beyond what its weight accounts for).
    """
    endpoints = site.assay_endpoints.every
    measured = [place for place in sorted(book.losses) if place < len(endpoints)]
    weight = sum(sums.weight for sums in book.authors.values())
    authors = {}
    for key in sorted(book.authors, key=lambda each: site.names.get(each, each.hex())):
        sums = book.authors[key]
        worth = {}
        for place in measured:
            own, beyond = book.worth(key, place), book.beyond_weight(key, place)
            if own is not None and beyond is not None:
                whole = sum(each.value for author in book.authors if (each := book.worth(author, place)) is not None)
                worth[endpoints[place].name] = {
                    **_rounded(own),
                    "share": round(own.value / whole, 4) if whole > 0 else None,
                    "late": None if (late := book.late(key, place)) is None else _rounded(late),
                    "beyond_weight": _rounded(beyond),
                }
        facts = {
            "key": key.hex(),
            "entries": sums.entries,
            "payload_bytes": sums.payload_bytes,
            "uptime": None if (uptime := book.uptime(key)) is None else round(uptime, 4),
            "size_class": book.sizes.get(key, 0),
            "weight_share": round(sums.weight / weight, 4) if weight > 0 else None,
            "copies": sums.copies,
            "alike": sums.alike,
            "worth": worth,
        }
        notes = notes_of(facts, own_site=key == site.identity.key)
        facts["notes"] = [NOTES[kind].format(**fields) for kind, fields in notes]
        authors[site.names.get(key, key.hex())] = facts
    return {
        "schema": SCHEMA,
        "site": site.rule.name,
        "federation": site.charter.federation,
        "stretches": book.stretches,
        "endpoints": {
            endpoints[place].name: {
                "compounds": book.compounds[place],
                "loss_first": round(book.losses[place][0], 6),
                "loss_newest": round(book.losses[place][1], 6),
            }
            for place in measured
        },
        "authors": authors,
    }


def stored_report(site: Site, store: Store) -> dict[str, Any]:
    """The report as of what the store holds.

    Raises:
        ConfigError: the store's account of contributions cannot be read.
    """
    return contribution_report(site, stored_book(store))


def stored_book(store: Store) -> ContributionBook:
    """What the store holds of this site's account of contributions.

    Raises:
        ConfigError: it cannot be read.
    """
    return ContributionBook.decode(store.get_blob(BLOB))


def _rounded(worth: Worth) -> dict[str, float]:
    return {"value": round(worth.value, 6), "low": round(worth.low, 6), "high": round(worth.high, 6)}


def notes_of(facts: Mapping[str, Any], *, own_site: bool) -> list[tuple[str, dict[str, int]]]:
    """What people should know of an author, by name of the text (`NOTES`) and what is filled in.

    Args:
        facts: of the author, as in the report.
    """
    entries = facts["entries"]
    if entries < FEW:
        return [("few", {})]
    notes: list[tuple[str, dict[str, int]]] = [
        (kind, {"count": facts[kind], "entries": entries})
        for kind in ("copies", "alike")
        if facts[kind] >= COPIES * entries
    ]
    found = facts["worth"].values()
    if found and not own_site:
        if any(worth["high"] < 0 for worth in found):
            notes.append(("harm", {}))
        elif not any(worth["low"] > 0 for worth in found):
            notes.append(("no_effect", {}))
    return notes


NOTES = {
    "few": "too few entries to say anything",
    "copies": "{count} of {entries} entries are nearly copies of entries that it knew",
    "alike": "{count} of {entries} entries are nearly another site's, and neither names the other",
    "harm": "did harm to at least one assay endpoint",
    "no_effect": "no visible effect on any assay endpoint",
}
"""Texts of notes."""


def interval_text(worth: Mapping[str, float] | None, form: str = "{value:.4f} ({low:.4f} to {high:.4f})") -> str:
    """A value with its interval; empty for none. `form`: how it is written."""
    return "" if worth is None else form.format(value=worth["value"], low=worth["low"], high=worth["high"])
