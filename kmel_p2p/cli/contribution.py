"""`kmel-peer contribution`: what each author's entries were worth to this site; read from its store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen


@click.command()
@config_option
@json_option
@click.option("--html", "page", type=FILE, help="Write a page to this file as well.")
def contribution(config_path: Path, as_json: bool, page: Path | None) -> None:
    """Show by how much each author's entries made the loss on this site's own held-out compounds smaller.

    Works whether or not the peer runs. Nothing of it leaves the site.
    """
    from kmel_p2p.files import write_whole
    from kmel_p2p.learn.worker.session import FEWEST_COMPOUNDS
    from kmel_p2p.site.observe.contribution import contribution_page

    report = _report(config_path)
    if page is not None:
        write_whole(page, contribution_page(report).encode())
    if as_json:
        echo_json(report)
        return
    if not report["authors"]:
        click.echo("nothing measured yet: the peer does so while it trains (averaging mode ledger)")
        return
    screen = Screen()
    if not report["endpoints"]:
        click.echo(
            f"{report['stretches']} stretches of the run measured, and no assay endpoint has enough held-out compounds "
            f"({FEWEST_COMPOUNDS}) with a value to say what they were worth"
        )
    for name, facts in report["endpoints"].items():
        screen.print(_table(report, name, facts))
    for author, facts in report["authors"].items():
        for note in facts["notes"]:
            screen.print(f"{author}: {note}")


def _report(config_path: Path) -> dict[str, Any]:
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.observe.contribution import stored_report
    from kmel_p2p.site.state.store import STORE_NAME, Store

    config = load_config(config_path)
    path = config.site.state_dir / STORE_NAME
    if not path.exists():
        raise LocalError(f"{path}: there is no store yet; kmel-peer run makes it")
    site = load_site(config)
    store = Store(path, read_only=True)
    try:
        return stored_report(site, store)
    finally:
        store.close()


def _table(report: Mapping[str, Any], endpoint: str, facts: Mapping[str, Any]) -> Table:
    from kmel_p2p.site.observe.contribution import interval_text
    from kmel_p2p.site.observe.status import bytes_text

    title = f"{endpoint}: worth to {report['site']}, on {facts['compounds']} held-out compounds"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for column in ("site", "entries", "bytes", "worth (95 %)", "share", "second half"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for name, author in report["authors"].items():
        worth = author["worth"].get(endpoint)
        share = worth["share"] if worth is not None else None
        table.add_row(
            name,
            str(author["entries"]),
            bytes_text(author["payload_bytes"]),
            interval_text(worth) if worth is not None else "",
            "" if share is None else f"{100 * share:.0f} %",
            interval_text(worth["late"]) if worth is not None and worth["late"] is not None else "",
        )
    return table
