"""`kmel-peer invite`: bring sites together; to found a federation, or to join one that runs."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kmel_p2p.cli.charter_draft import draft_charter, draft_options, remarks
from kmel_p2p.cli.founding_plan import given_of, plan_of, require_open, rules_of
from kmel_p2p.cli.invite_decisions import DECISIONS, ask_peer, day_text, line_of
from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.new_site import NewSite, new_site_options
from kmel_p2p.cli.options import FILE
from kmel_p2p.cli.qr_code import QrWanted, qr_options

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter, CharterDocument
    from kmel_p2p.agreement.identity import Identity
    from kmel_p2p.agreement.invitation import Invitation
    from kmel_p2p.site.desk.decisions import Decisions
    from kmel_p2p.site.desk.founding import FoundingTable
    from kmel_p2p.site.desk.founding_room import FoundingRoom
    from kmel_p2p.site.desk.invitations import InvitationBook


TROUBLES = 20
"""Different ones that are told; more would bury the questions."""


@click.group(invoke_without_command=True)
@click.option("--federation", help="Name of the federation that is founded: lower case, digits, - and _.")
@click.option(
    "--sites",
    "count",
    type=click.IntRange(min=1, max=65),
    help="Founding sites in all, this one included; in a run: how many the invitation may bring.",
)
@click.option(
    "--days", type=click.FloatRange(min=0.01, max=90), default=7, show_default=True, help="How long it is valid."
)
@click.option(
    "--config",
    "-c",
    "config_path",
    type=FILE,
    envvar="KMEL_CONFIG",
    show_envvar=True,
    help="Settings of a site that takes part; default: site.toml in --directory.",
)
@qr_options
@draft_options
@new_site_options
@click.pass_context
def invite(
    context: click.Context,
    /,
    config_path: Path | None,
    federation: str | None,
    count: int | None,
    days: float,
    qr: bool,
    qr_file: Path | None,
    endpoints: tuple[str, ...],
    seed: int,
    trunk: str | None,
    epsilon: float | None,
    compounds: int | None,
    **site: Any,
) -> None:
    """Print an invitation for other sites.

    To found a federation, give --federation, --sites and each --endpoint. This command then waits for the sites, asks
    about each of them, drafts the charter, and collects the signatures; `charter.toml` is complete when it ends. It
    may be interrupted: the same command goes on, without options.

    In a federation that runs, the peer makes the invitation and goes on; `invite approve` proposes the amendment that
    adds the site, and a quorum signs it with `kmel-peer amendment sign`.

    Whoever has the text may ask to join; nobody takes part before you have approved it.
    """
    settings = _settings(context, config_path, site["directory"])
    if context.invoked_subcommand is not None:
        context.obj = settings
        return
    from kmel_p2p.site.desk.invitations import FoundingPlan, InvitationBook

    wanted = QrWanted(qr, qr_file)
    if federation is None and _takes_part(settings):
        _invite_to_run(settings, count or 1, days, wanted)
        return
    if settings.name != "site.toml":
        raise click.UsageError(f"{settings} is of no site of a federation; found one with --directory")
    site["directory"] = settings.parent
    here = NewSite.opened(**site, must_listen=True)
    book = InvitationBook(here.state_dir)
    kept, drafted = book.plan, {"trunk": trunk, "seed": seed, "compounds": compounds, "epsilon": epsilon}
    if federation is not None or kept is None:
        plan = plan_of(federation, count, endpoints, drafted)
    else:
        given = {**drafted, "sites": count, "endpoints": endpoints}
        plan = FoundingPlan(**{**dict(kept), **{name: given[name] for name in given_of(context, given)}})
    require_open(here.charter_path, kept, plan)
    rules = rules_of(plan.endpoints)
    here.require_data()
    identity = here.identity()
    here.write_settings(rules)
    _found(here, identity, book, plan, days, wanted, given_of(context, ["days"]) != [])


def _settings(context: click.Context, config_path: Path | None, directory: Path) -> Path:
    """Of the site: what the command line names, else what KMEL_CONFIG does, else the settings here."""
    config, folder = (
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("config_path", "directory")
    )
    if config and folder:
        raise click.UsageError("--config and --directory name the same thing; leave one of them out")
    return config_path if config_path is not None and not folder else directory / "site.toml"


def _takes_part(settings: Path) -> bool:
    """Whether the site with these settings has a charter in force."""
    from kmel_p2p.cli.charter import load_charter
    from kmel_p2p.site.config import load_config

    if not settings.exists():
        return False
    path = load_config(settings).site.charter
    return path.exists() and not load_charter(path).problems()


def _invite_to_run(settings: Path, uses: int, days: float, wanted: QrWanted) -> None:
    """Have the running peer make an invitation."""
    from kmel_p2p.site.control.client import NotRunningError

    try:
        made = ask_peer(settings, "invite", {"uses": uses, "days": float(days)})
    except NotRunningError:
        raise NotRunningError(
            f"the charter is complete, and the peer does not run: kmel-peer run -c {settings}. Founders "
            "that lack the charter fetch it from the running peer, and kmel-peer invite lets later partners in there"
        ) from None
    told = say("Send this text to the {count} new sites:")
    if uses == 1:
        told = say("Send this text to the new site:")
    click.echo(told.format(count=uses) + "\n")
    click.echo(f"{made['text']}\n")
    wanted.show(made["text"])
    click.echo(_they_run(made["expires"]))
    click.echo(say("kmel-peer invite list shows who asks; invite approve SITE proposes the amendment that adds it."))


for _decision in DECISIONS:
    invite.add_command(_decision)


# ---- founding ---------------------------------------------------------------------------------------------------


def _found(
    here: NewSite, identity: Identity, book: InvitationBook, plan: Any, days: float, wanted: QrWanted,
    days_were_given: bool = False,
) -> None:  # fmt: skip
    from kmel_p2p.site.desk.decisions import Decisions
    from kmel_p2p.site.desk.founding import FoundingTable
    from kmel_p2p.site.desk.founding_room import FoundingRoom
    from kmel_p2p.site.desk.newcomers import NewcomersDesk

    table = FoundingTable(book, here.charter_path, identity.key)
    document = table.document
    if document is not None:
        _require_own(here.charter_path, document.charter, plan.federation, identity)
    news = threading.Event()
    desk = NewcomersDesk(book, table, here.name, identity.key, time.time, news.set)
    decisions = Decisions(here.name, identity, book, news.set)
    with FoundingRoom(identity, here.bind, here.state_dir, book, desk, decisions.answer, _told_once()) as room:
        room.do(lambda: book.plan_founding(plan))
        invitation = room.do(lambda: _invitation(here, identity, book, plan.federation, plan.sites - 1, days))
        click.echo(_listening(room.address, plan.sites - 1))
        click.echo(f"\n{invitation.render(identity)}\n")
        wanted.show(invitation.render(identity))
        click.echo(_they_run(invitation.expires))
        if days_were_given and abs(invitation.expires - (time.time() + days * 86_400)) > 60:
            tell(
                f"This is the text that was handed out before, so --days {days:g} changes nothing; kmel-peer invite "
                "withdraw from another terminal ends it, and the next start makes a new one."
            )
        _gather(here, room, decisions, table, news)
        _sign(here, identity, room, table, plan)
        _collect(room, table, news)
    done = say("{path} is complete: {federation} is founded. Next: kmel-peer run -c {settings}")
    click.echo(done.format(path=here.charter_path, federation=plan.federation, settings=here.settings))


def _listening(address: str, others: int) -> str:
    told = say("Listening at {address}. Send this text to the other {count} sites:")
    if others == 1:
        told = say("Listening at {address}. Send this text to the other site:")
    return told.format(address=address, count=others)


def _they_run(expires: int) -> str:
    told = say("They run: kmel-peer join TEXT --directory NAME. It is valid until {day}.")
    return told.format(day=day_text(expires))


def _require_own(path: Path, charter: Charter, federation: str, identity: Identity) -> None:
    """Raises ConfigError where the charter that is there is another than the one to be founded."""
    from kmel_p2p.agreement.errors import ConfigError

    if charter.federation != federation:
        raise ConfigError(
            f"{path}: this charter is of {charter.federation!r}; found {federation!r} in another --directory, or move "
            "the file away"
        )
    if identity.key not in charter.roster:
        raise ConfigError(f"{path}: this charter does not list this site; move it away to found another")


def _told_once() -> Callable[[str], None]:
    """Tells the operator of what keeps the desk from answering, each once: newcomers ask every few seconds."""
    said: set[str] = set()

    def tell_once(text: str) -> None:
        if text not in said and len(said) < TROUBLES:
            said.add(text)
            tell(text, err=True)

    return tell_once


def _invitation(
    here: NewSite, identity: Identity, book: InvitationBook, federation: str, uses: int, days: float
) -> Invitation:
    """The invitation that is handed out already, or a new one."""
    now = time.time()
    for invitation, left in book.handed_out(here.name, identity.key):
        started = any(newcomer.invitation == invitation.id.hex() for newcomer in book.newcomers)
        same = invitation.federation == federation and (invitation.addresses == here.addresses[:4])
        if same and now < invitation.expires and (left > 0 or started):
            return invitation
    book.invite(federation, here.addresses, max(1, uses), int(now + days * 86_400), secrets.token_bytes(16))
    return book.handed_out(here.name, identity.key)[-1][0]


def _gather(
    here: NewSite, room: FoundingRoom, decisions: Decisions, table: FoundingTable, news: threading.Event
) -> None:
    """Until every founding site is approved."""
    told: set[str] = set()
    while room.do(lambda: table.document is None and table.missing > 0):
        news.clear()
        for newcomer in room.do(lambda: [one for one in decisions.book.newcomers if one.state == "asks"]):
            row = decisions.row(newcomer)
            if row["fingerprint"] in told or not room.do(lambda: table.missing):
                continue
            told.add(row["fingerprint"])
            click.echo(line_of(row))
            if here.yes:
                tell(f"Compare the digits, then: kmel-peer invite approve {newcomer.name}, or refuse")
                continue
            question = say("Does {site} read the same digits to you, and may it take part?").format(site=newcomer.name)
            approve = here.confirm(question)
            _decide(room, decisions, row, approve)
        news.wait(0.5)


def _decide(room: FoundingRoom, decisions: Decisions, row: Mapping[str, Any], approve: bool) -> None:
    """Decide on what was shown, unless it was decided on, withdrawn or replaced while the question stood."""

    def decide() -> str:
        now = next((one for one in map(decisions.row, decisions.book.newcomers) if one["key"] == row["key"]), None)
        if now == row:
            decisions.decide(row["key"], approve, row["fingerprint"])
            return ""
        if now is None:
            return "it does not ask any more"
        return "it asks anew since" if now["state"] == "asks" else f"it was {now['state']} meanwhile"

    if changed := room.do(decide):
        tell(f"Your answer about {row['name']} counts for nothing: {changed}.")


def _sign(here: NewSite, identity: Identity, room: FoundingRoom, table: FoundingTable, plan: Any) -> None:
    """Draft the charter with the sites that are there, unless it is drafted, and sign it."""
    from kmel_p2p.cli.charter_comments import commented
    from kmel_p2p.cli.charter_view import charter_view
    from kmel_p2p.cli.screen import Screen
    from kmel_p2p.files import write_new

    if table.document is None:
        click.echo(say("All sites are here: drafting the charter."))
        own = {"name": here.name, "key": identity.key.hex(), "addresses": here.addresses}
        newcomers = room.do(table.newcomers)
        others = [{"name": one.name, "key": one.key, "addresses": one.addresses} for one in newcomers]
        document, reason = draft_charter(
            plan.federation, [own, *others], plan.endpoints,
            trunk=plan.trunk, seed=plan.seed, compounds=plan.compounds, epsilon=plan.epsilon,
        )  # fmt: skip
        write_new(here.charter_path, (remarks(reason) + commented(document)).encode(), 0o644)
        click.echo(say("Wrote {path}. You may still edit it; nobody has signed.").format(path=here.charter_path))
    if table.is_signed():
        return
    document = _present(table)
    while True:
        Screen().print(charter_view(document))
        if not here.confirm(say("Sign this charter for this site, and ask the others to sign it?")):
            raise click.UsageError(
                f"not signed. Edit {here.charter_path} as agreed; the same kmel-peer invite goes on from there"
            )
        shown, document = document, _present(table)
        if document.charter.id == shown.charter.id:
            break
        tell(f"{here.charter_path} was edited while the question stood. It says now:")
    signed = document.signed_by(identity)
    room.do(lambda: table.keep(signed))
    told = say("{site} signed charter {id}; the others are asked to.")
    click.echo(told.format(site=here.name, id=signed.charter.id.hex()[:16]))


def _present(table: FoundingTable) -> CharterDocument:
    document = table.document
    assert document is not None, "written before"
    return document


def _collect(room: FoundingRoom, table: FoundingTable, news: threading.Event) -> None:
    """Until all have signed, and have fetched the whole charter."""
    told: list[str] = []
    while problems := room.do(lambda: _present(table).problems()):
        if problems != told:
            tell("; ".join(problems))
            told = problems
        news.clear()
        news.wait(0.5)
    click.echo(say("All have signed. Waiting until every site has fetched the charter; Ctrl-C ends that."))
    with contextlib.suppress(KeyboardInterrupt):
        while not room.do(table.all_have_it):
            news.clear()
            news.wait(0.5)
