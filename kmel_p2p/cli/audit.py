"""`kmel-peer audit`: what this site's entries show of its own data, before they leave and afterwards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.language import padded, tell, told
from kmel_p2p.cli.leak_view import NOT_PRIVATE, leak_in_words, measured
from kmel_p2p.cli.options import config_option, echo_json, json_option
from kmel_p2p.cli.own_payloads import NOTHING_HELD, held_entry, kept_payloads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmel_p2p.learn.audit.own_entries import LeakAudit, Shown
    from kmel_p2p.site.config import SiteConfig
    from kmel_p2p.site.site import Site


@click.group()
def audit() -> None:
    """Measure what this site's entries show of its data."""


@audit.command()
@config_option
@click.option("--held", "held_only", is_flag=True, help="Only the entry that waits for approval.")
@click.option(
    "--at-most",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 8 if the entries looked at show a larger share of this site's fingerprint bits, or let a larger "
    "share of its training compounds be picked out at 1 % false alarms.",
)
@json_option
def leak(config_path: Path, held_only: bool, at_most: float | None, as_json: bool) -> None:
    """Say what fraction of this site's fingerprint bits and compounds its own entries show to any member.

    Looks at the own entries that the store still keeps and, if the peer runs with `[ledger] hold = true`, at the one
    that waits for `kmel-peer held approve`. Compounds of the folds that are not trained on stand for what an attacker
    would take for this site's by mistake. Reads the site's data; writes what `kmel-peer evaluate` writes about them.
    """
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site

    config = load_config(config_path)
    site = load_site(config)
    payloads, held = _payloads(site, config, held_only)
    if not payloads:
        raise LocalError("no own entry is kept here yet, and none waits for approval: there is nothing to look at")
    looked, energies = measured(site, payloads, as_json)
    entries = {number: looked.shown([each]) for number, each in energies.items()}
    together = looked.shown(energies.values())
    facts = {
        "trunk": site.charter.model.trunk,
        "own_bits": looked.own_bits,
        "compounds": looked.compounds,
        "other_compounds": looked.others,
        "held": held,
        "entries": [{"number": number, **asdict(shown)} for number, shown in entries.items()],
        "together": asdict(together),
    }
    if as_json:
        echo_json(facts)
    else:
        _show(looked, entries, together, held)
    if at_most is not None:
        worst = max(together.own_share or 0.0, together.picked_at_1pct or 0.0)
        if worst > at_most:
            raise DoesNotHoldError(f"the entries looked at show {worst:.1%} of this site's data; at most {at_most:.1%}")


def _payloads(site: Site, config: SiteConfig, held_only: bool) -> tuple[dict[int, bytes], int | None]:
    """Own payloads by number, and the number of the held one."""
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.control.client import NotRunningError
    from kmel_p2p.site.modes import mode_of

    if not mode_of(site.charter).keeps_entries:
        raise LocalError(f"this federation averages in mode {site.mode}: sites exchange shares and keep no entries")
    found = {} if held_only else kept_payloads(site, config)
    try:
        held = held_entry(config)
    except NotRunningError:
        if held_only:
            raise
        held = None
    if held is None:
        if held_only:
            raise LocalError(NOTHING_HELD)
        return found, None
    return {**found, held.number: held.payload}, held.number


def _show(looked: LeakAudit, entries: Mapping[int, Shown], together: Shown, held: int | None) -> None:
    tell(
        f"{looked.compounds:,} training compounds with {looked.own_bits:,} fingerprint bits, against {looked.others:,} "
        "other compounds of this site"
    )
    for number, shown in entries.items():
        name = f"entry {number} (held)" if number == held else f"entry {number}"
        click.echo(f"{padded(told(name), 18)} {leak_in_words(shown)}")
    click.echo(f"{padded(told('together'), 18)} {leak_in_words(together)}")
    tell(NOT_PRIVATE)
