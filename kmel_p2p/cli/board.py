"""`kmel-peer board`: needs and offers of the sites, and answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from kmel_p2p.cli.language import say, tell, told
from kmel_p2p.cli.options import config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen

STAGES = ("discovery", "preclinical", "clinical")

UNREAD_NAMED = 8
"""Notices that are named though this version cannot read them."""


@click.group()
def board() -> None:
    """Say what this site needs or offers, and see what the other sites do. No training is needed for it."""


@board.command()
@click.argument("kind", type=click.Choice(["need", "offer"]))
@click.option("--endpoint", "assay_endpoint", default="", help="Assay endpoint; a need has one.")
@click.option("--unit", default="", help="Its unit, as in a charter.")
@click.option("--stage", type=click.Choice(STAGES))
@click.option(
    "--measurements", type=click.IntRange(min=0), default=0, help="Own ones; only their power of two is told."
)
@click.option("--baseline-error", type=click.FloatRange(min=0), help="Of the best model of your own, in the unit.")
@click.option("--in-return", default="", help="Of a need: what is offered for it.")
@click.option("--what", type=click.Choice(["data", "model", "compute", "service"]), help="What is offered.")
@click.option("--package", default="", help="Of an offered model: name and version.")
@click.option("--package-hash", default="", help="Of an offered model: SHA-256 of the package's file.")
@click.option("--card", default="", help="Of an offered model: where its model card is.")
@click.option("--text", default="", help="Anything else, in a few lines.")
@click.option(
    "--for", "sites", multiple=True, help="A site that it is for; repeat. Everybody can read it all the same."
)
@click.option("--days", type=int, help="For how long it stands (1 to 400; default 90).")
@click.option("--edit", default="", metavar="ID", help="An own notice that this one takes the place of.")
@config_option
@json_option
def post(config_path: Path, as_json: bool, days: int | None, edit: str, measurements: int, **given: Any) -> None:
    """Post a need or an offer, or another text for an own one.

    All sites of the federation can read it, with your site's name and signature.
    """
    notice = {name: value for name, value in given.items() if value not in ("", None, ())}
    if "sites" in notice:
        notice["sites"] = list(notice["sites"])
    notice["size_class"] = min(40, measurements.bit_length())
    done = _ask(config_path, {"do": "post", "notice": notice, "edit": edit, **({} if days is None else {"days": days})})
    _said(done, "posted as {id}, until {until}", as_json)


@board.command("list")
@click.option("--kind", type=click.Choice(["need", "offer", "answer", "statement", "payoff"]))
@config_option
@json_option
def list_notices(kind: str | None, config_path: Path, as_json: bool) -> None:
    """List what stands on the board. Works whether or not the peer runs."""
    rows = [row for row in _rows(config_path) if kind in (None, row["kind"])]
    if as_json:
        echo_json(rows)
        return
    unread = _unread(config_path) if kind is None else []
    if not rows and not unread:
        tell("nothing stands on the board; kmel-peer board post need --endpoint NAME is how to begin")
        return
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("notice", "kind", "about", "stage", "data", "until", "answers"):
        table.add_column(column, overflow="fold")
    for row in rows:
        size = row.get("size_class", 0)
        table.add_row(
            row["id"], told(f"offer of {row['what']}" if row["kind"] == "offer" else row["kind"]), told(_about(row)),
            row.get("stage") or "", f"< {2**size:,}" if size else "", row["until"], " ".join(row.get("answers", ())),
        )  # fmt: skip
    screen = Screen()
    if rows:
        screen.print(table)
    if unread:
        named = ", ".join(f"{row['id']} ({row['kind']})" for row in unread[:UNREAD_NAMED])
        more = f" and {len(unread) - UNREAD_NAMED} more" if len(unread) > UNREAD_NAMED else ""
        tell(f"only a later version can read: {named}{more}")


@board.command()
@click.argument("notice")
@config_option
@json_option
def show(notice: str, config_path: Path, as_json: bool) -> None:
    """Show notice NOTICE in full, and the answers to it."""
    from kmel_p2p.agreement.errors import LocalError

    rows = {row["id"]: row for row in _rows(config_path)}
    if notice not in rows:
        raise LocalError(f"no notice {notice!r} is on the board; kmel-peer board list shows them")
    shown = {**rows[notice], "answers": [rows[each] for each in rows[notice].get("answers", ())]}
    if as_json:
        echo_json(shown)
        return
    screen = Screen()
    for name, value in rows[notice].items():
        if value not in ("", None, [], 0) and name not in ("id", "answers"):
            screen.print(f"{name.replace('_', ' '):<16} {value}", markup=False, highlight=False)
    for answer in shown["answers"]:
        interested = "interested" if answer["interested"] else "not interested"
        screen.print(f"{answer['id']:<16} {interested}: {answer['text']}", markup=False, highlight=False)


@board.command()
@click.argument("notice")
@click.option("--text", required=True)
@click.option("--not-interested", is_flag=True)
@click.option("--days", type=int, help="For how long it stands (1 to 400; default 90).")
@config_option
@json_option
def answer(notice: str, text: str, not_interested: bool, days: int | None, config_path: Path, as_json: bool) -> None:
    """Answer notice NOTICE. All sites can read it; another answer takes the place of the first."""
    asked = {"do": "answer", "id": notice, "text": text, "interested": not not_interested}
    _said(
        _ask(config_path, {**asked, **({} if days is None else {"days": days})}),
        "answered as {id}, until {until}",
        as_json,
    )


@board.command()
@click.argument("notice")
@config_option
@json_option
def withdraw(notice: str, config_path: Path, as_json: bool) -> None:
    """Take the own notice NOTICE back. What others read before, they know."""
    _said(_ask(config_path, {"do": "withdraw", "id": notice}), "withdrawn: {id}, until {until}", as_json)


@board.command()
@click.option("--all", "everybody", is_flag=True, help="Also matches in which this site has no part.")
@config_option
@json_option
def match(everybody: bool, config_path: Path, as_json: bool) -> None:
    """Show which needs and offers go together, with a score of 100 and what it is made of.

    50 for the same assay endpoint (20 for an offer that names none), 15 each for the same unit and stage, up to 10 for
    the amount of data, 10 where both sites are reachable. `kmel-peer charter new --from-board ID...` drafts a charter.
    """
    found = _matched(config_path, everybody)
    if as_json:
        echo_json(found)
        return
    if not found:
        tell("nothing on the board goes together yet")
    for each in found:
        reasons = ", ".join(f"{name} {points}" for name, points in each["reasons"].items())
        click.echo(f"{each['score']:>3}  {each['need']} with {each['other']}  ({reasons})")


def _about(row: Mapping[str, Any]) -> str:
    if row["kind"] == "answer":
        return f"to {row['to']}: {row['text'][:60]}"
    if row["kind"] == "statement":
        return f"contributions, over {row['entries']:,} entries"
    if row["kind"] == "payoff":
        from kmel_p2p.agreement.notice import BETTER, UNKNOWN

        better = sum(letter in BETTER for letter in row["classes"])
        known = sum(letter != UNKNOWN for letter in row["classes"])
        return f"what it predicts with: better than best local for {better} of {known} assay endpoints"
    named = " ".join(part for part in (row["assay_endpoint"], f"({row['unit']})" if row["unit"] else "") if part)
    return named or row.get("package") or row["text"][:60]


def _said(done: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        echo_json(done)
    else:
        click.echo(say(text).format(id=done["id"], until=done["until"]))


def _ask(config_path: Path, arguments: Mapping[str, Any]) -> Any:
    from kmel_p2p.cli.run import ask

    return ask(config_path, "board", arguments)


def _rows(config_path: Path) -> list[dict[str, Any]]:
    from kmel_p2p.site.notice_board import notice_rows

    rows = _read(config_path, {"do": "list"}, lambda site, notices: notice_rows(site, notices, set()))
    return [dict(row) for row in rows]


def _unread(config_path: Path) -> list[dict[str, Any]]:
    from kmel_p2p.site.notice_board import unread_rows

    return [dict(row) for row in _read(config_path, {"do": "unread"}, unread_rows)]


def _matched(config_path: Path, everybody: bool) -> Any:
    from kmel_p2p.site.notice_board import match_rows

    return _read(
        config_path,
        {"do": "match", "all": everybody},
        lambda site, notices: match_rows(site, notices, set(), everybody=everybody),
    )


def _read(config_path: Path, arguments: Mapping[str, Any], stored: Any) -> Any:
    """Ask the running peer; without one, read what its store holds."""
    from kmel_p2p.site.control.client import NotRunningError

    try:
        return _ask(config_path, arguments)
    except NotRunningError:
        site, notices = stored_board(config_path)
        return stored(site, notices)


def stored_board(config_path: Path) -> tuple[Any, Any]:
    """The site, and the notices in its store that stand, by author and slot."""

    from kmel_p2p.core.board.book import NoticeBook
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.notice_board import today
    from kmel_p2p.site.site import stored_constitution
    from kmel_p2p.site.state.recording import known_notices
    from kmel_p2p.site.state.store import STORE_NAME, Store

    config = load_config(config_path)
    site, book = load_site(config), NoticeBook()
    if (config.site.state_dir / STORE_NAME).exists():
        store = Store(config.site.state_dir / STORE_NAME, read_only=True)
        try:
            site = site.amended(stored_constitution(site, store))
            for notice in known_notices(store):
                if notice.stands(today()) and notice.author in site.constitution.roster:
                    book.add(notice)
        finally:
            store.close()
    return site, book
