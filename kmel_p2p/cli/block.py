"""`kmel-peer block` and `unblock`: whether this site listens to another one at all; `trust`: whether to one alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import config_option

if TYPE_CHECKING:
    from kmel_p2p.site.config import SiteConfig

STILL_COUNTS = (
    "What it signed still counts where other sites hand it on{held}: otherwise the sites would not agree on one trunk "
    "any more. Only an amendment that retires it takes its entries back (kmel-peer amendment)."
)


@click.command()
@click.argument("site")
@click.option("--reason", default="", help="Shown in status.")
@config_option
def block(site: str, reason: str, config_path: Path) -> None:
    """Stop listening to site SITE at once, until `kmel-peer unblock`, also over restarts.

    Its connections are refused, nothing is sent to it, and this peer waits for it no longer, neither for the start of a
    run nor for its end. Works whether or not the peer runs.
    """
    done = _order(config_path, "block", {"site": site, "reason": reason})
    entries = done["entries"]
    tell(f"{site} is blocked: this peer refuses its connections and does not wait for it")
    tell(STILL_COUNTS.format(held="" if entries is None else f" ({entries} entries or rounds so far)"))


@click.command()
@click.argument("site")
@config_option
def unblock(site: str, config_path: Path) -> None:
    """Listen to site SITE again."""
    _order(config_path, "unblock", {"site": site})
    tell(f"{site} is blocked no longer")


@click.command()
@click.argument("site")
@config_option
def trust(site: str, config_path: Path) -> None:
    """Take the ledger that site SITE gives, although too few others can attest it.

    For sites that lost their ledger, where most others lost theirs as well: `status` shows that such a site waits for
    attestations that nobody can give. Ask the operator of SITE first whether its ledger is whole (kmel-peer ledger
    verify). It is kept on whose word the ledger rests.
    """
    from kmel_p2p.cli.run import ask

    ask(config_path, "trust", {"site": site})
    tell(f"the ledger of {site} is taken on its word; kmel-peer ledger verify says so from now on")


def _order(config_path: Path, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
    """Give an order to the running peer, or leave it for the next start."""
    from kmel_p2p.cli.run import ask
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import NotRunningError

    try:
        answer: Mapping[str, Any] = ask(config_path, name, arguments)
    except NotRunningError:
        return _leave(load_config(config_path), name, arguments)
    return answer


def _leave(config: SiteConfig, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
    """Keep an order in the state directory of a peer that does not run."""
    from kmel_p2p.files import private_directory
    from kmel_p2p.site.control.requests import blockable
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.site import Site, kept_constitution
    from kmel_p2p.site.state.lockfile import SiteLock
    from kmel_p2p.site.state.orders import OrderBook

    site: Site = load_site(config)
    state_dir: Path = private_directory(config.site.state_dir)
    with SiteLock(state_dir):
        site = site.amended(kept_constitution(site.constitution, state_dir))
        key, book = blockable(site, arguments["site"]), OrderBook(state_dir)
        if name == "block":
            book.block(key, arguments["reason"])
        else:
            book.unblock(key)
    return {"entries": None}
