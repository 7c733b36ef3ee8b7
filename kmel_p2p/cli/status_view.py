"""The status document for people: what needs attention first, then what the site does, then the other sites.

Made for 80 columns and 24 lines: what is cut off on a small screen is what matters least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kmel_p2p.cli.language import say, told
from kmel_p2p.site.observe.federation_payoff import TEXTS, payoff_in_words
from kmel_p2p.site.observe.headline import BEST_LOCAL
from kmel_p2p.site.observe.next_step import STEPS, next_step
from kmel_p2p.site.observe.status import (
    SITES_NAMED,
    MembershipStatus,
    MemberStatus,
    StatusDocument,
    TrainerStatus,
    bytes_text,
    span_text,
)

STATE_STYLE = {
    "alive": "green",
    "suspect": "yellow",
    "dead": "red",
    "left": "magenta",
    "blocked": "bold red",
    "unknown": "dim",
}
WIDE = 100
"""Columns from which addresses are shown as well."""
NARROW = 72
"""Columns below which round trips are not."""

HEADINGS = {"site": False, "state": False, "heard": True, "trip": True, "entries": True, "behind": True, "in": True,
            "out": True}  # fmt: skip
"""Of the other sites' columns: whether they stand on the right."""


def status_view(document: StatusDocument, most: int | None = None) -> RenderableType:
    """The document.

    Args:
        most: alarms and waits that are shown, for a screen of which the rest has to be seen, too; None: all.
    """
    parts: list[RenderableType] = [Rule(Text(f"{document.site} · {document.federation}"), align="left", style="dim")]
    if document.alarms:
        parts += [Text(say("needs attention"), "bold red"), *_alarms(document, most)]
    return Group(*parts, _facts(document, most), _Members(document.members))


def _alarms(document: StatusDocument, most: int | None) -> Iterator[RenderableType]:
    """Over the whole width: which site an alarm is about must not be cut off."""
    for alarm in document.alarms[:most]:
        yield Text.assemble((told(alarm.what), "red"), f"  {told(alarm.text)}  ({_ago(alarm.age_s)})")
    yield from (
        Text(line, "red")
        for line in _left_out(len(document.alarms), most, "and {count} more alarms: kmel-peer status shows all")
    )


def _left_out(count: int, most: int | None, what: str) -> list[str]:
    left = 0 if most is None else count - most
    return [say(what).format(count=left)] if left > 0 else []


def _facts(document: StatusDocument, most: int | None) -> Table:
    table = _grid()
    phase = document.phase
    table.add_row(say("phase"), Text.assemble((say(phase.value), phase.style), f"  {told(document.reason)}"))
    table.add_row(say("next"), say(STEPS[next_step(document)]))
    for text in (
        *(wait.beside(document.reason, told) for wait in document.waits[:most]),
        *_left_out(len(document.waits), most, "and {count} more waits: kmel-peer status shows all"),
    ):
        table.add_row(say("waits"), text)
    for name, text in (("mode", document.mode), *document.averaging.summary):
        table.add_row(say(name), told(text))
    loss = "-" if document.loss is None else f"{document.loss:.4f}"
    table.add_row(say("loss"), f"{loss}  " + say("(trained {ago})").format(ago=_ago(document.ages.trained_s)))
    for endpoint in {**document.scores, **document.compared}:
        rounds = (f"{name} {value:.4f}" for name, value in document.scores.get(endpoint, {}).items())
        table.add_row(say("scores"), "  ".join([endpoint, *rounds, *_against_best_local(document, endpoint)]))
    if document.federation_payoff is not None:
        table.add_row(say("all sites"), payoff_in_words(document.federation_payoff, lambda name: say(TEXTS[name])))
    table.add_row(say("trainer"), _trainer(document.trainer))
    process, egress = document.process, document.egress
    table.add_row(
        say("daemon"),
        say("process {pid}, {memory}, up {time}, loop lag {lag} ms").format(
            pid=process.pid,
            memory=bytes_text(process.rss_bytes),
            time=span_text(process.uptime_s),
            lag=f"{process.loop_lag_ms:.0f}",
        ),
    )
    table.add_row(say("address"), document.address or "-")
    table.add_row(say("membership"), _membership(document.membership))
    table.add_row(
        say("traffic"),
        say("{out} out, {into} in").format(out=bytes_text(egress.bytes_out), into=bytes_text(egress.bytes_in)),
    )
    if document.last_error:
        table.add_row(say("last error"), Text(told(document.last_error), "red"))
    return table


def _against_best_local(document: StatusDocument, endpoint: str) -> Iterator[str]:
    """Whether it pays, once the run has ended; the smaller error is the better one."""
    if errors := document.compared.get(endpoint):
        own, local = errors["predicts"], errors[BEST_LOCAL]
        change = f" ({own / local - 1:+.1%})" if local > 0 else ""
        yield say("predicts with {own}, best local {local}").format(own=f"{own:.4f}", local=f"{local:.4f}") + change


def _ago(seconds: float | None) -> str:
    return say("never") if seconds is None else say("{time} ago").format(time=span_text(seconds))


def _grid() -> Table:
    """Names on the left, texts that wrap on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", overflow="fold", max_width=14)
    table.add_column()
    return table


def _trainer(trainer: TrainerStatus) -> str:
    text: str = say(trainer.state)
    if trainer.pid:
        text += ", " + say("process {pid}, {memory}").format(pid=trainer.pid, memory=bytes_text(trainer.rss_bytes))
    if trainer.progress:
        stage, done, total = trainer.progress
        text += ", " + say("{stage} {done} of {total}").format(stage=told(stage), done=done, total=total)
    if trainer.restarts:
        text += ", " + say("restarted {count} times").format(count=trainer.restarts)
    if trainer.limits:
        text += "; " + say("held to {limits}").format(limits=told(trainer.limits))
    return text


def _membership(membership: MembershipStatus) -> str:
    slower = say("probes {count} times slower").format(count=membership.health + 1)
    health = slower if membership.health else say("well")
    counts = (f"{say(name.replace('_', ' '))} {count}" for name, count in membership.counters.items() if count)
    return ", ".join((health, *counts))


class _Members:
    """The other sites: a line each, and under them in words why there is no connection."""

    def __init__(self, members: tuple[MemberStatus, ...]) -> None:
        self._members = members

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width)
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for member in self._members:
            if member.problem:
                alike[member.problem].append(member.name)
        for problem, names in alike.items():
            left = len(names) - SITES_NAMED
            more = " " + say("and {count} more").format(count=left) if left > 0 else ""
            who = " ".join(names[:SITES_NAMED]) + more
            yield Padding(Text.assemble((who, "red"), f"  {told(problem)}"), (0, 1))

    def _table(self, width: int) -> Table:
        table, wide = Table(box=None, header_style="bold", padding=(0, 1)), width >= WIDE
        shown = {name: right for name, right in HEADINGS.items() if name != "trip" or width >= NARROW}
        for name, right in shown.items():
            # A name is broken over lines before any other column is cut.
            name_of_site = name == "site"
            table.add_column(
                say(name),
                justify="right" if right else "left",
                no_wrap=not name_of_site,
                overflow="fold" if name_of_site else "ellipsis",
            )
        if wide:
            table.add_column(say("address"), no_wrap=True)
        for member in self._members:
            row: dict[str, RenderableType] = {
                "site": member.name,
                "state": Text(say(member.state), STATE_STYLE[member.state]),
                "heard": say("never") if member.heard_age_s is None else span_text(member.heard_age_s),
                "trip": "-" if member.rtt_ms is None else f"{member.rtt_ms:.1f} ms",
                "entries": str(member.entries_applied),
                "behind": "-" if member.behind is None else str(member.behind),
                "in": bytes_text(member.bytes_in),
                "out": bytes_text(member.bytes_out),
            }
            table.add_row(*(row[name] for name in shown), *([member.address] if wide else []))
        return table
