"""`kmel-peer status`: what the running peer is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kmel_p2p.cli.options import config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen
from kmel_p2p.site.observe.status import (
    MembershipStatus,
    MemberStatus,
    StatusDocument,
    TrainerStatus,
    age_text,
    bytes_text,
)

if TYPE_CHECKING:
    from kmel_p2p.site.control.client import ControlClient

STATE_STYLE = {
    "alive": "green",
    "suspect": "yellow",
    "dead": "red",
    "left": "magenta",
    "blocked": "bold red",
    "unknown": "dim",
}


@click.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between refreshes."
)
def status(config_path: Path, as_json: bool, watch: bool, every: float) -> None:
    """Show phase, progress, the other sites, traffic and alarms.

    Exits with 5 if no daemon runs on the state directory, and with 6 if one runs but does not answer within a second.
    """
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import ControlClient

    with ControlClient(load_config(config_path).site.state_dir) as client:
        if not watch:
            _show(client.status(), as_json)
        elif as_json:
            while True:
                click.echo(json.dumps(client.status().as_dict(), ensure_ascii=False))
                time.sleep(every)
        else:
            _watch(client, every)


def _show(document: StatusDocument, as_json: bool) -> None:
    if as_json:
        echo_json(document.as_dict())
        return
    Screen().print(status_view(document))


def _watch(client: ControlClient, every: float) -> None:
    with Live(status_view(client.status()), console=Screen(), auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(status_view(client.status()), refresh=True)


def status_view(document: StatusDocument) -> RenderableType:
    """The whole document: what the site does, how far averaging is, the other sites, and what needs attention."""
    parts: list[RenderableType] = [_facts(document), _members(document.members)]
    if document.alarms:
        lines = Text("\n").join(
            Text.assemble((alarm.what, "bold red"), f"  {alarm.text}  ({age_text(alarm.age_s)})")
            for alarm in document.alarms
        )
        parts.append(Panel(lines, title="needs attention", border_style="red"))
    title = f"{document.site} · {document.federation}"
    return Panel(Group(*parts), title=title, subtitle=document.address or None)


def _facts(document: StatusDocument) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    phase = document.phase
    table.add_row("phase", Text.assemble((phase.value, phase.style), f"  {document.reason}"))
    for wait in document.waits:
        table.add_row("waits", wait.text)
    for name, text in (("mode", document.mode), *document.averaging.summary):
        table.add_row(name, text)
    loss = "-" if document.loss is None else f"{document.loss:.4f}"
    table.add_row("loss", f"{loss}  (trained {age_text(document.ages.trained_s)})")
    for endpoint, scores in document.scores.items():
        table.add_row(endpoint, "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    table.add_row("trainer", _trainer(document.trainer))
    process, egress = document.process, document.egress
    table.add_row(
        "daemon",
        f"process {process.pid}, {bytes_text(process.rss_bytes)}, up {process.uptime_s:.0f} s, "
        f"loop lag {process.loop_lag_ms:.0f} ms",
    )
    table.add_row("membership", _membership(document.membership))
    table.add_row("traffic", f"{bytes_text(egress.bytes_out)} out, {bytes_text(egress.bytes_in)} in")
    if document.last_error:
        table.add_row("last error", Text(document.last_error, "red"))
    return table


def _trainer(trainer: TrainerStatus) -> str:
    text: str = trainer.state
    if trainer.pid:
        text += f", process {trainer.pid}, {bytes_text(trainer.rss_bytes)}"
    if trainer.progress:
        stage, done, total = trainer.progress
        text += f", {stage} {done} of {total}"
    if trainer.restarts:
        text += f", restarted {trainer.restarts} times"
    return text


def _membership(membership: MembershipStatus) -> str:
    health = f"probes {membership.health + 1} times slower" if membership.health else "well"
    counts = (f"{name.replace('_', ' ')} {count}" for name, count in membership.counters.items() if count)
    return ", ".join((health, *counts))


def _members(members: tuple[MemberStatus, ...]) -> Table:
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
        table.add_row(
            member.name,
            Text(member.state, STATE_STYLE[member.state]),
            age_text(member.heard_age_s),
            "-" if member.rtt_ms is None else f"{member.rtt_ms:.1f} ms",
            str(member.entries_applied),
            bytes_text(member.bytes_in),
            bytes_text(member.bytes_out),
            Text(member.problem, "red") if member.problem else member.address,
        )
    return table
