"""`kmel-peer run` and `kmel-peer config`."""

from __future__ import annotations

from pathlib import Path

import click

from kmel_p2p.cli.options import config_option


@click.command()
@config_option
def run(config_path: Path) -> int:
    """Run the peer of this site until it is stopped (or complete, with ledger.on_complete = "exit")."""
    from kmel_p2p.site.config import load_config

    # Wrong settings are told at once; the daemon's own imports take a second.
    load_config(config_path)
    from kmel_p2p.site import daemon

    return daemon.run(config_path)


@click.command("config")
@config_option
def config_command(config_path: Path) -> None:
    """Check the settings and print them with all defaults filled in."""
    from kmel_p2p.site.config import load_config

    click.echo(load_config(config_path).render(), nl=False)
