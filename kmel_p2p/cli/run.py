"""`kmel-peer run` and the commands that ask the running peer for something; `kmel-peer config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import config_option
from kmel_p2p.files import private_directory

STOP_WAIT_S = 15.0
"""A peer ends within 10 s of being asked; the rest is for a slow machine."""


@click.command()
@config_option
@click.option(
    "--no-training",
    is_flag=True,
    help="Read no measurements and train nothing: reach the others, use the board, apply and relay their entries.",
)
def run(config_path: Path, no_training: bool) -> int:
    """Run the peer of this site until it is stopped (or complete, with ledger.on_complete = "exit")."""
    from kmel_p2p.site.config import load_config

    # Report wrong settings at once: the daemon's imports take a second.
    load_config(config_path)
    from kmel_p2p.site import daemon

    return daemon.run(config_path, train=not no_training)


@click.command("config")
@config_option
def config_command(config_path: Path) -> None:
    """Check the settings and print them with all defaults filled in."""
    from kmel_p2p.site.config import load_config

    click.echo(load_config(config_path).render(), nl=False)


def ask(config_path: Path, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Send one request to the peer of these settings."""
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import ControlClient

    with ControlClient(load_config(config_path).site.state_dir) as client:
        return client.request(name, arguments)


@click.command()
@config_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return only when the process has ended.")
def stop(config_path: Path, wait: bool) -> None:
    """Ask the running peer to say goodbye to the other peers, save its state and end."""
    import time

    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.state.lockfile import holder

    ask(config_path, "stop")
    state_dir = load_config(config_path).site.state_dir
    deadline = time.monotonic() + STOP_WAIT_S
    while wait and (pid := holder(state_dir)) is not None:
        if time.monotonic() > deadline:
            raise LocalError(f"process {pid} was asked to end but still runs after {STOP_WAIT_S:g} s")
        time.sleep(0.05)
    tell("stopped" if wait else "asked to stop")


@click.command()
@click.option("--reason", default="asked by the operator", show_default=True, help="Kept in the log.")
@config_option
def listen(config_path: Path, reason: str) -> None:
    """Publish no more entries; keep applying and relaying those of other sites."""
    ask(config_path, "listen", {"reason": reason})
    tell("listening")


@click.command()
@click.option("--reason", default="begun by the operator", show_default=True, help="Kept in the log.")
@config_option
def begin(config_path: Path, reason: str) -> None:
    """Wait no longer for sites that are away, before the first entry of the run or of a site that lost its store.

    One site is enough to begin a run: the others that are ready follow when they see its first entry, and who comes
    later joins. A site that lost its store should wait: if a site that is away holds entries of it that it does not
    know, its log ends.
    """
    ask(config_path, "begin", {"reason": reason})
    tell("beginning with the sites that are ready")


@click.command()
@config_option
def claim(config_path: Path) -> None:
    """Go on with this machine where another one runs with the same key, as after a copy.

    Stop the other one first: two that publish under one key sign entries that contradict each other, which ends the
    log of the site.
    """
    ask(config_path, "claim")
    tell("this machine goes on; the other one must not run any more")


@click.command()
@click.option("--reason", default="paused by the operator", show_default=True, help="Shown in status.")
@config_option
def pause(config_path: Path, reason: str) -> None:
    """Train no more for now; keep applying and relaying entries of other sites. A restart does not undo it.

    An open round is finished first. The other sites go on without this one. Works whether or not the peer runs.
    """
    _pause(config_path, reason)
    tell("paused once the open round is over; kmel-peer resume goes on")


def _pause(config_path: Path, reason: str | None) -> str:
    """Pause, or with None resume, now or at the next start; returns what the peer waits for then."""
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import NotRunningError
    from kmel_p2p.site.state.lockfile import SiteLock
    from kmel_p2p.site.state.orders import OrderBook

    try:
        answer = ask(config_path, "resume") if reason is None else ask(config_path, "pause", {"reason": reason})
    except NotRunningError:
        state_dir = private_directory(load_config(config_path).site.state_dir)
        with SiteLock(state_dir):
            OrderBook(state_dir).pause(reason)
        return ""
    return str(answer["waiting"])


@click.command()
@config_option
def resume(config_path: Path) -> None:
    """Train again after a pause, within this site's training hours."""
    waiting = _pause(config_path, None)
    tell(f"resumed; waiting: {waiting}" if waiting else "resumed")


@click.command()
@click.option("--reason", default="concluded by the operator", show_default=True, help="Kept in the log.")
@config_option
def conclude(config_path: Path, reason: str) -> None:
    """End the run at this site with what is here: publish nothing more, wait for no other site, write the models.

    Entries that come later are still applied, and the models are then written anew. A restart does not undo it.
    """
    ask(config_path, "conclude", {"reason": reason})
    tell("concluding")
