"""What an operator decides on those who ask to join, from another terminal: `kmel-peer invite list`, `approve` ..."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from kmel_p2p.cli.language import padded, say, tell
from kmel_p2p.cli.options import FILE, echo_json, json_option

F = TypeVar("F", bound=Callable[..., Any])


def of_site(command: F) -> F:
    """`--config site.toml`, as every command has it; without it, the settings that `kmel-peer invite` was given."""
    option = click.option("--config", "-c", "config_path", type=FILE, help="Settings of the site.")
    return click.pass_context(option(command))  # type: ignore[return-value]


def ask_peer(settings: Path, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """The answer of the peer with these settings to a request.

    Raises:
        NotRunningError, NotAnsweringError, RefusedError: see `ControlClient`.
    """
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import ControlClient

    with ControlClient(load_config(settings).site.state_dir) as client:
        return client.request(name, arguments)


def line_of(row: Mapping[str, Any]) -> str:
    """A newcomer, with the digits on a line of their own: what it chose itself cannot pass for them."""
    where = ", ".join(row["addresses"]) or say("no address: it only dials out")
    digits = f"{say('fingerprint')} {row['fingerprint']}"
    return f"{row['name']:16} {padded(say(row['state']), 9)} ({where})\n{'':16} {digits}"


def day_text(seconds: int) -> str:
    """A moment, in seconds since 1970, as people write it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


@click.command("list")
@of_site
@json_option
def list_(context: click.Context, config_path: Path | None, as_json: bool) -> None:
    """Show invitations, and who asks to join."""
    found = ask_peer(config_path or context.obj, "invitations")
    if as_json:
        echo_json(found)
        return
    for invitation in (one for one in found["invitations"] if one["expires"] > time.time()):
        tell(f"valid until {day_text(invitation['expires'])}, {invitation['places']} places left:")
        click.echo(f"{invitation['text']}\n")
    for row in found["sites"]:
        click.echo(line_of(row))
    if not found["sites"]:
        click.echo(say("Nobody has asked to join yet."))


@click.command()
@of_site
@click.argument("site")
@click.option("--yes", is_flag=True, help="The fingerprint was compared; do not ask.")
def approve(context: click.Context, config_path: Path | None, site: str, yes: bool) -> None:
    """Let SITE take part. Compare the fingerprint first, by phone: both sides see the same digits."""
    from kmel_p2p.cli.new_site import agreed

    settings = config_path or context.obj
    named = [row for row in ask_peer(settings, "invitations")["sites"] if site in (row["name"], row["key"])]
    # A name means who was not refused, and a refusal is taken back only where it is clear whose.
    rows = [row for row in named if row["state"] != "refused"] or named
    for row in rows:
        click.echo(line_of(row))
    if len(rows) > 1:
        keys = ", ".join(row["key"] for row in rows)
        raise click.UsageError(f"several sites called {site!r} were refused: name one by its key ({keys})")
    if rows and not yes and not agreed(say("Does its operator read the same digits to you?")):
        tell(f"Nothing was approved. If the digits differ: kmel-peer invite refuse {site}")
        return
    # By key and digits: it may ask anew meanwhile, and somebody else have taken the name.
    shown = {"site": rows[0]["key"], "fingerprint": rows[0]["fingerprint"]} if rows else {"site": site}
    done = ask_peer(settings, "decide", {**shown, "approve": True})
    click.echo(say("{site} is approved.").format(site=done["name"]) + done.get("text", ""))


@click.command()
@of_site
@click.argument("site")
def refuse(context: click.Context, config_path: Path | None, site: str) -> None:
    """Do not let SITE take part."""
    done = ask_peer(config_path or context.obj, "decide", {"site": site, "approve": False})
    click.echo(say("{site} is refused.").format(site=done["name"]))


@click.command()
@of_site
def withdraw(context: click.Context, config_path: Path | None) -> None:
    """End all invitations: whoever holds one and was not approved is not let in any more."""
    tell(f"{ask_peer(config_path or context.obj, 'withdraw')} invitations are withdrawn.")


DECISIONS: tuple[click.Command, ...] = (list_, approve, refuse, withdraw)
"""The commands of this file, for `kmel-peer invite`."""
