"""`kmel-peer contribution`: what each author's entries were worth to this site, what sites state of it, and the shares
that follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from kmel_p2p.cli.language import korean, say, tell
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen


@click.group(invoke_without_command=True)
@click.pass_context
@config_option
@json_option
@click.option("--html", "page", type=FILE, help="Write a page to this file as well.")
def contribution(context: click.Context, config_path: Path, as_json: bool, page: Path | None) -> None:
    """Show by how much each author's entries made the loss on this site's own held-out compounds smaller.

    Works whether or not the peer runs. Nothing of it leaves the site, unless you declare it.
    """
    if context.invoked_subcommand is not None:
        return
    from kmel_p2p.files import write_whole
    from kmel_p2p.learn.worker.session import FEWEST_COMPOUNDS
    from kmel_p2p.site.observe.contribution import contribution_report
    from kmel_p2p.site.page.contribution_page import contribution_page

    report = contribution_report(*_measured(config_path))
    if page is not None:
        write_whole(page, contribution_page(report, "ko" if korean() else "en").encode())
    if as_json:
        echo_json(report)
        return
    if not report["authors"]:
        tell("nothing measured yet: the peer does so while it trains (averaging mode ledger)")
        return
    screen = Screen()
    if not report["endpoints"]:
        tell(
            f"{report['stretches']} stretches of the run measured, and no assay endpoint has enough held-out compounds "
            f"({FEWEST_COMPOUNDS}) with a value to say what they were worth"
        )
    for name, facts in report["endpoints"].items():
        screen.print(_table(report, name, facts))
    for author, facts in report["authors"].items():
        for note in facts["notes"]:
            tell(f"{author}: {note}")


@contribution.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--days", type=int, help="For how long it stands (1 to 400; default 90).")
@config_option
@json_option
def declare(yes: bool, days: int | None, config_path: Path, as_json: bool) -> None:
    """State on the board what the other sites' contributions were worth to this site, coarsely and signed.

    It shows what it will say, and asks. All sites can read it; a later statement takes the place of this one. The
    charter's [reward] says what statements are for.
    """
    from kmel_p2p.agreement.notice import PREFIX
    from kmel_p2p.cli.run import ask
    from kmel_p2p.site.contribution_statement import stated

    site, book = _measured(config_path)
    content = stated(site.charter, site.identity.key, book)
    names = {key.hex()[:PREFIX]: name for key, name in site.names.items()}
    if not as_json:
        tell(f"Of what the other sites gave ({content.measure} of the run, {content.entries:,} entries):")
        for author, percent in content.given:
            click.echo(f"  {names.get(author, author)}  {percent} %")
        for author in content.copiers:
            tell(f"  {names.get(author, author)}  copies others")
        if not content.given:
            tell("  nobody gave 1 % or more")
    if not yes:
        click.confirm(say("Sign this and post it, for all sites to read?"), abort=True, err=as_json)
    notice = content.model_dump(mode="json")
    arguments = {"do": "post", "notice": notice, **({} if days is None else {"days": days})}
    done = ask(config_path, "board", arguments)
    if as_json:
        echo_json({**done, **notice})
    else:
        tell(f"declared as {done['id']}, until {done['until']}")


@contribution.command()
@click.option("--output", "-o", type=FILE, help="Write the report, with the statements in it, signed by this site.")
@config_option
@json_option
def shares(output: Path | None, config_path: Path, as_json: bool) -> None:
    """Show the shares that the charter's [reward] makes of the statements on the board.

    Sites that hold the same statements get the same shares and the same digest. Works whether or not the peer runs;
    statements that came since it last wrote its store are missing then.
    """
    import json

    from kmel_p2p.cli.board import stored_board
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.reward_report import body_digest, report_body, signed_report

    site, notices = stored_board(config_path)
    body = report_body(site.charter, site.constitution, notices)
    if output is not None:
        write_whole(output, json.dumps(signed_report(body, site.identity), indent=1).encode() + b"\n")
    if as_json:
        echo_json({**body, "digest": body_digest(body)})
    else:
        _show_shares(body, body_digest(body))


@contribution.command()
@click.argument("report", type=FILE)
@config_option
@json_option
def verify(report: Path, config_path: Path, as_json: bool) -> None:
    """Check a report of shares from another site: who signed it, and whether its shares follow from its statements."""
    from kmel_p2p.cli.board import stored_board
    from kmel_p2p.site.reward_report import body_digest, checked_report

    site, _ = stored_board(config_path)
    checked = checked_report(report, site.charter, site.constitution)
    body = {name: value for name, value in checked.items() if name not in ("signer", "signature")}
    if as_json:
        echo_json({**checked, "digest": body_digest(body)})
        return
    _show_shares(body, body_digest(body))
    tell(f"signed by {body['names'][checked['signer']]}; the shares follow from the statements")


def _show_shares(body: Mapping[str, Any], digest: str) -> None:
    from kmel_p2p.site.reward_report import percent

    rule = body["rule"]
    title = f"Shares: {rule['equal_percent']} % equal, the rest by the {rule['measure']} of the run"
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("site", "share", "has stated"):
        table.add_column(column, justify="right" if column == "share" else "left")
    for key, share in body["shares"].items():
        table.add_row(body["names"][key], percent(share), say("yes" if key in body["statements"] else "no"))
    screen = Screen()
    screen.print(title)  # as a table's title it would be wrapped to the table's width
    screen.print(table)
    tell(f"digest {digest}")


def _measured(config_path: Path) -> tuple[Any, Any]:
    """The site, and its account of contributions as of what the store holds.

    Raises:
        LocalError: there is no store yet.
        ConfigError: the store's account cannot be read.
    """
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.observe.contribution import stored_book
    from kmel_p2p.site.state.store import STORE_NAME, Store

    config = load_config(config_path)
    path = config.site.state_dir / STORE_NAME
    if not path.exists():
        raise LocalError(f"{path}: there is no store yet; kmel-peer run makes it")
    site = load_site(config)
    store = Store(path, read_only=True)
    try:
        return site, stored_book(store)
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
