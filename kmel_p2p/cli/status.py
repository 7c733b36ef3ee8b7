"""`kmel-peer status`: what the running peer is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live

from kmel_p2p.cli.options import config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen
from kmel_p2p.cli.status_view import status_view

if TYPE_CHECKING:
    from kmel_p2p.site.control.client import ControlClient
    from kmel_p2p.site.observe.status import StatusDocument


WATCHED = 3
"""Alarms and waits on a full screen, so that phase and next step are always on it."""


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
    """Fill the screen until interrupted; one view below the other where the terminal cannot move its cursor."""
    screen = Screen()
    if not screen.is_terminal or screen.is_dumb_terminal:
        while True:
            screen.print(status_view(client.status()))
            time.sleep(every)
    with Live(status_view(client.status(), WATCHED), console=screen, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(every)
            live.update(status_view(client.status(), WATCHED), refresh=True)
