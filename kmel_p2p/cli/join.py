"""`kmel-peer join`: answer an invitation; key, settings, charter and signatures come about by questions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import say, tell, told
from kmel_p2p.cli.new_site import NewSite, new_site_options

if TYPE_CHECKING:
    from kmel_p2p.agreement.amendment import AmendmentDocument
    from kmel_p2p.agreement.charter import CharterDocument
    from kmel_p2p.agreement.identity import Identity
    from kmel_p2p.site.desk.joining import Joining

ASK_EVERY_S = 1.0
ASK_AT_LEAST_EVERY_S = 4.0
"""The pause grows from the one to the other while nothing changes: many sites may hold one invitation."""


@click.command()
@click.argument("text", required=False)
@new_site_options
@click.option(
    "--wait", "wait_min", type=click.FloatRange(min=0), default=1440, show_default=True, help="Minutes, at most."
)
def join(text: str | None, wait_min: float, **site: Any) -> None:
    """Join the federation that the invitation TEXT is from.

    TEXT may also be a file that holds it, or - for the first line of standard input; without TEXT it is asked. Other
    users of this machine can read what stands on a command line.

    Makes this site's key, asks the site that invites, shows the charter before you sign it, and writes charter.toml
    and site.toml. It may be interrupted: the same command goes on. Nothing of your data is sent.
    """
    from kmel_p2p.agreement.invitation import Application, Invitation, fingerprint
    from kmel_p2p.site.desk.joining import Joining

    invitation = Invitation.parse(_given(text))
    here = NewSite.opened(**site, must_listen=False)
    here.require_data()
    identity = here.identity()
    application = Application.made(identity, invitation, here.name, here.addresses)
    digits = fingerprint(invitation.site_key, identity.key, invitation.id, application.signature)
    invites = say("{site} invites to {federation}.")
    click.echo(invites.format(site=invitation.site, federation=invitation.federation))
    compare = say("Fingerprint {digits}: {site} sees the same digits. Compare them by phone.")
    click.echo(compare.format(digits=digits, site=invitation.site))
    asking = Joining(invitation, application, time.time, proxy=here.proxy_address)
    answer = _until(asking.ask, ("sign", "complete"), wait_min)
    if answer["state"] == "sign":
        _sign(here, identity, asking, answer, digits, wait_min)
        answer = _until(asking.ask, ("complete",), wait_min)
    _finish(here, identity, asking, answer)


def _given(text: str | None) -> str:
    """The text of the invitation, wherever it is.

    Raises:
        ConfigError, UsageError: it is nowhere.
    """
    import sys

    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.agreement.invitation import MAX_INVITATION_CHARACTERS, PREFIX
    from kmel_p2p.cli.new_site import answer

    if text is None:
        return answer(say("Invitation"))
    if text == "-":
        line = sys.stdin.readline(MAX_INVITATION_CHARACTERS + 1) if sys.stdin is not None else ""
        if not line.strip():
            raise ConfigError("there is no invitation on standard input: its first line has to be the text")
        return line
    if PREFIX in text or not Path(text).is_file():
        return text
    try:
        with Path(text).open(encoding="utf-8") as file:
            return file.read(MAX_INVITATION_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{text}: cannot be read: {error}") from None


def _until(ask: Callable[[], Mapping[str, Any]], states: tuple[str, ...], wait_min: float) -> Mapping[str, Any]:
    """Ask until an answer is in one of these states.

    Raises:
        LocalError, ConfigError: it will not come.
    """
    from kmel_p2p.agreement.errors import LocalError

    end, said, pause = time.monotonic() + 60 * wait_min, "", ASK_EVERY_S
    while True:
        answer = ask()
        if answer["state"] in states:
            return answer
        if answer["state"] == "refused":
            raise LocalError(f"{answer['text']}; ask its operator why")
        if answer["text"] != said:
            said, pause = str(answer["text"]), ASK_EVERY_S
            tell(said)
        if time.monotonic() > end:
            raise LocalError(f"not yet after {wait_min:g} min: {said}. The same command goes on from here")
        time.sleep(pause)
        pause = min(ASK_AT_LEAST_EVERY_S, 1.2 * pause)


def _sign(
    here: NewSite, identity: Identity, asking: Joining, answer: Mapping[str, Any], digits: str, wait_min: float
) -> None:
    from kmel_p2p.agreement.charter import SIGNING_CONTEXT, signature_is_good
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.cli.charter import feature_problems

    document = asking.offered(answer)
    _require_no_other(here.charter_path, document)
    signature = document.signatures.get(document.charter.roster[identity.key].name, "")
    if signature_is_good(identity.key, SIGNING_CONTEXT, document.charter.id, signature):
        return
    _show(document)
    if problems := feature_problems(document):
        raise ConfigError(f"this charter cannot be signed here: {'; '.join(problems)}")
    question = say("Did {inviting} read {digits} to you, and does {site} sign this charter?")
    if not here.confirm(question.format(inviting=asking.invitation.site, digits=digits, site=here.name)):
        raise click.UsageError("not signed; the same command asks again")
    signature = identity.sign(SIGNING_CONTEXT, document.charter.id).hex()
    _until(partial(asking.sign, signature), ("sign", "complete"), wait_min)
    click.echo(say("{site} signed charter {id}.").format(site=here.name, id=document.charter.id.hex()[:16]))


def _finish(here: NewSite, identity: Identity, asking: Joining, answer: Mapping[str, Any]) -> None:
    """Write the charter, the amendments and the settings."""
    from kmel_p2p.agreement.amendment import Constitution
    from kmel_p2p.agreement.amendment_words import changes_in_words
    from kmel_p2p.files import write_whole

    document, amendments = asking.complete(answer, identity.key)
    _require_no_other(here.charter_path, document)
    if identity.key not in document.charter.roster:
        _show(document)
        for amended in amendments:
            for line in changes_in_words(amended.amendment):
                number = say("amendment {number}").format(number=amended.amendment.number)
                click.echo(f"{number} {told(line)}")
        if not here.confirm(_take_part(document.charter.federation)):
            raise click.UsageError("nothing was written; the same command asks again")
    paths = [here.directory / f"amendment-{amendment.amendment.number}.toml" for amendment in amendments]
    kept = [_amendment_to_keep(path, amendment) for path, amendment in zip(paths, amendments, strict=True)]
    _keep_charter(here.charter_path, document)
    for path, text in zip(paths, kept, strict=True):
        write_whole(path, text.encode(), mode=0o644)
    constitution = Constitution(document.charter)
    for amended in amendments:
        constitution = constitution.followed_by(amended)
    here.write_settings(constitution.campaign.assay_endpoints.current, paths)
    asking.done()
    done = say("{site} is a site of {federation}. Next: kmel-peer run -c {settings}")
    click.echo(done.format(site=here.name, federation=document.charter.federation, settings=here.settings))


def _take_part(federation: str) -> str:
    return say("Take part in {federation} under this charter?").format(federation=federation)


def _keep_charter(path: Path, document: CharterDocument) -> None:
    """Write the charter; what else stands in a file that is there stays."""
    from kmel_p2p.agreement.charter_text import signed_text
    from kmel_p2p.cli.charter_draft import remarks
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.config import read_text

    if path.exists():
        text = signed_text(read_text(path, ""), document)
    else:
        text = remarks([f"The charter of {document.charter.federation}, signed by every founder."]) + document.render()
    write_whole(path, text.encode(), mode=0o644)


def _require_no_other(path: Path, document: CharterDocument) -> None:
    """Raises ConfigError where another charter is there, before anything is asked or signed."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.cli.charter import load_charter

    if path.exists() and load_charter(path).charter.id != document.charter.id:
        raise ConfigError(f"{path}: another charter is there; move it away, or choose another --directory")


def _amendment_to_keep(path: Path, amendment: AmendmentDocument) -> str:
    """The text of an amendment's file: what is there, where it says the same.

    Raises:
        ConfigError: it says something else.
    """
    from kmel_p2p.agreement.amendment import AmendmentDocument
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.site.config import read_text

    if not path.exists():
        return amendment.render()
    text = read_text(path, "")
    with contextlib.suppress(ConfigError):
        if AmendmentDocument.parse(text, str(path)) == amendment:
            return text
    raise ConfigError(f"{path}: is there already and is not the amendment that is in force; move it away")


def _show(document: CharterDocument) -> None:
    from kmel_p2p.cli.charter_view import charter_view
    from kmel_p2p.cli.screen import Screen

    Screen().print(charter_view(document))
