"""What left a site within a time, in plain words, from the records of its egress log."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kmel_p2p.site.observe.egress_record import Total
from kmel_p2p.site.observe.status import bytes_text

KINDS = {
    "Bodies": "entries",
    "MassTransfer": "shares of the trunk",
    "SnapshotPart": "snapshots (the sum of all sites' entries)",
    "Proofs": "evidence against authors",
    "Stubs": "signed headers of entries",
    "Amendments": "amendments of the charter",
}
"""Kinds of messages that carry more than who is there and who holds what."""

OTHER = "control messages (who is there, who holds what)"

_ENTRIES = re.compile(r"(\d{1,9}) entr(?:y|ies);")


def contents(totals: Mapping[tuple[str, str], Total]) -> dict[str, dict[str, Total]]:
    """Receiver -> what left for it, in words -> how much. `totals`: by receiver and kind of message."""
    found: dict[str, dict[str, Total]] = {}
    for (to, kind), total in sorted(totals.items()):
        site, name = found.setdefault(to, {}), KINDS.get(kind, OTHER)
        site[name] = site.get(name, Total(0, 0)).plus(total.messages, total.bytes)
    return found


@dataclass(slots=True)
class _Site:
    entries: int = 0
    kinds: dict[str, Total] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "messages": sum(total.messages for total in self.kinds.values()),
            "bytes": sum(total.bytes for total in self.kinds.values()),
            "kinds": {
                kind: {"messages": total.messages, "bytes": total.bytes} for kind, total in sorted(self.kinds.items())
            },
        }

    def words(self) -> list[str]:
        """A line for each sort of content, the most bytes first."""
        sorts: dict[str, Total] = {}
        for kind, total in self.kinds.items():
            name = KINDS.get(kind, OTHER)
            sorts[name] = sorts.get(name, Total(0, 0)).plus(total.messages, total.bytes)
        lines = []
        for name, total in sorted(sorts.items(), key=lambda item: -item[1].bytes):
            count = f"{self.entries:,} " if name == "entries" else ""
            lines.append(f"{count}{name}: {_amount(total)}")
        return lines


class EgressSummary:
    """Adds up records; a record stands for all that its line sums up."""

    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}
        self._first: Mapping[str, Any] | None = None
        self._last: Mapping[str, Any] | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self._first = self._first or record
        self._last = record
        if not record["messages"]:
            return
        site = self._sites.setdefault(record["to"], _Site())
        site.kinds[record["kind"]] = site.kinds.get(record["kind"], Total(0, 0)).plus(
            record["messages"], record["bytes"]
        )
        if (found := _ENTRIES.match(record["what"])) is not None:
            site.entries += int(found[1])

    def plain(self) -> dict[str, Any]:
        """For programs."""
        ends = [record["n"] for record in (self._first, self._last) if record is not None]
        return {"records": ends, "sites": {name: site.plain() for name, site in sorted(self._sites.items())}}

    def words(self) -> list[str]:
        """For people: to whom, how much, of what kind."""
        if self._first is None or self._last is None:
            return ["Nothing is on record for this time."]
        lines = [
            f"Records {self._first['n']:,} to {self._last['n']:,}, written from {time_text(self._first['time'])} to "
            f"{time_text(self._last['time'])}:"
        ]
        for name, site in sorted(self._sites.items()):
            facts = site.plain()
            lines.append(f"  to {name}: {_amount(Total(facts['messages'], facts['bytes']))}")
            lines += [f"    {line}" for line in site.words()]
        if not self._sites:
            lines.append("  no message left")
        return lines


def _amount(total: Total) -> str:
    return f"{bytes_text(total.bytes)} in {total.messages:,} message{'' if total.messages == 1 else 's'}"


def time_text(seconds: float) -> str:
    """A time of a record, UTC; what no calendar has is shown as the number it is."""
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}Z"
