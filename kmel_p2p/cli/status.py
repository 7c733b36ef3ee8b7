"""`kmel-peer status`: what the running peer is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from kmel_p2p.cli.options import config_option, json_option


@click.command()
@config_option
@json_option
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between refreshes."
)
def status(config_path: Path, as_json: bool, watch: bool, every: float) -> None:
    """Show phase, ledger, members, traffic and alarms.

    Ends with code 5 when no daemon runs on the state directory, and 6 when one does but gives no answer within a
    second.
    """
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import ControlClient

    with ControlClient(load_config(config_path).site.state_dir) as client:
        if not watch:
            _show(client.request("status"), as_json)
        elif as_json:
            while True:
                click.echo(json.dumps(client.request("status"), ensure_ascii=False))
                time.sleep(every)
        else:
            _watch(client, every)


def _show(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    from kmel_p2p.cli.status_view import status_view

    Console().print(status_view(document))


def _watch(client: Any, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from kmel_p2p.cli.status_view import status_view

    with Live(status_view(client.request("status")), console=Console(), auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(status_view(client.request("status")), refresh=True)
