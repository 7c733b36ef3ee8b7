"""How the status document looks on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PHASE_STYLE = {
    "preparing": "yellow",
    "waiting": "yellow",
    "training": "green",
    "listening": "cyan",
    "complete": "bold green",
    "failed": "bold red",
    "stopping": "magenta",
}
STATE_STYLE = {"alive": "green", "suspect": "yellow", "dead": "red", "left": "magenta", "unknown": "dim"}


def bytes_text(count: float | None) -> str:
    """A byte count for people."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def age_text(seconds: float | None) -> str:
    """An age for people."""
    if seconds is None:
        return "never"
    if seconds < 120:
        return f"{seconds:.1f} s ago" if seconds < 10 else f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.1f} h ago"


def status_view(document: Mapping[str, Any]) -> RenderableType:
    """The whole document: what the site does, its ledger, the others, and what needs attention."""
    parts: list[RenderableType] = [_facts(document), _members(document["members"])]
    alarms = document["alarms"]
    if alarms:
        lines = Text("\n").join(
            Text.assemble((alarm["what"], "bold red"), f"  {alarm['text']}  ({age_text(alarm['age_s'])})")
            for alarm in alarms
        )
        parts.append(Panel(lines, title="needs attention", border_style="red"))
    title = f"{document['site']} · {document['federation']}"
    return Panel(Group(*parts), title=title, subtitle=document["address"] or None)


def _facts(document: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    phase = document["phase"]
    table.add_row("phase", Text.assemble((phase, PHASE_STYLE.get(phase, "")), f"  {document['reason']}"))
    for name, text in _averaging(document):
        table.add_row(name, text)
    loss = "-" if document["loss"] is None else f"{document['loss']:.4f}"
    table.add_row("loss", f"{loss}  (trained {age_text(document['ages']['trained_s'])})")
    for endpoint, scores in document["scores"].items():
        table.add_row(endpoint, "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    table.add_row("trainer", _trainer(document["trainer"]))
    process = document["process"]
    table.add_row(
        "daemon",
        f"process {process['pid']}, {bytes_text(process['rss_bytes'])}, up {process['uptime_s']:.0f} s, "
        f"loop lag {process['loop_lag_ms']:.0f} ms",
    )
    egress = document["egress"]
    table.add_row("traffic", f"{bytes_text(egress['bytes_out'])} out, {bytes_text(egress['bytes_in'])} in")
    if document["last_error"]:
        table.add_row("last error", Text(document["last_error"], "red"))
    return table


def _averaging(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the site's averaging mode has to show."""
    from kmel_p2p.site.observe.status import averaging_of

    mode, ages, section = document.get("mode", "ledger"), document["ages"], averaging_of(document)
    yield "mode", mode
    limit = f" of {section['entry_limit']}" if section["entry_limit"] else ""
    held = f", {section['held']} held for approval" if section["held"] else ""
    digest = section["digest"][:16] or "being computed"
    if mode == "ledger":
        yield "published", f"{section['published']}{limit}{held}  ({age_text(ages['published_s'])})"
        yield "applied", f"{section['applied']} of others  ({age_text(ages['applied_s'])})"
        yield "digest", f"{digest}  at {_vector(section['vector'])}"
        return
    yield "trained", f"{section['published']}{limit} rounds{held}  ({age_text(ages['published_s'])})"
    yield (
        "shares",
        f"{section['shares_sent']} sent, {section['applied']} received  (the last {age_text(ages['applied_s'])})",
    )
    weight = section["weight"]
    yield "mass", f"{section['mass'] / weight:.2f} of its weight" if weight else "none yet"
    waiting = " ".join(section["outstanding"])
    yield "without receipt", f"shares for {waiting}" if waiting else "none"
    yield "trunk", f"mixed up to round {section['age']}; the federation is at {section['reached']}"
    if section["neighbours"]:
        yield "neighbours", " ".join(section["neighbours"])
    yield "digest", f"{digest}  of this site's own state"
    yield "rounds", _vector(section["vector"])


def _vector(vector: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{number}" for name, number in vector.items()) or "the charter's initial trunk"


def _trainer(trainer: Mapping[str, Any]) -> str:
    text = str(trainer["state"])
    if trainer["pid"]:
        text += f", process {trainer['pid']}, {bytes_text(trainer['rss_bytes'])}"
    if trainer["progress"]:
        stage, done, total = trainer["progress"]
        text += f", {stage} {done} of {total}"
    if trainer["restarts"]:
        text += f", restarted {trainer['restarts']} times"
    return text


def _members(members: list[Mapping[str, Any]]) -> Table:
    table = Table(expand=True, box=None, header_style="bold")
    for name, right in (
        ("site", False),
        ("state", False),
        ("heard", True),
        ("round trip", True),
        ("entries", True),
        ("in", True),
        ("out", True),
        ("address", False),
    ):
        table.add_column(name, justify="right" if right else "left")
    for member in members:
        state = member["state"]
        rtt = member["rtt_ms"]
        table.add_row(
            member["name"],
            Text(state, STATE_STYLE.get(state, "")),
            age_text(member["heard_age_s"]),
            "-" if rtt is None else f"{rtt:.1f} ms",
            str(member["entries_applied"]),
            bytes_text(member["bytes_in"]),
            bytes_text(member["bytes_out"]),
            Text(member["problem"], "red") if member["problem"] else member["address"],
        )
    return table
