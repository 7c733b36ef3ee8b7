"""`kmel-peer amendment`: change roster, quorum or length of a running federation, by a quorum of its sites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
    from kmel_p2p.agreement.identity import Identity


@click.group()
def amendment() -> None:
    """Add, retire or re-key a site of a running federation, end a suspension, or extend the run; signed by a quorum."""


@amendment.command()
@config_option
@click.option("--add", "added", multiple=True, metavar="NAME=KEY[@ADDRESS,...]", help="A new site; repeat.")
@click.option(
    "--retire",
    "retired",
    multiple=True,
    metavar="NAME[:LAST[:RETRACT_FROM]]",
    help="A site leaves. LAST: its last entry that counts (default: the newest kept here). "
    "RETRACT_FROM: first entry to take out of the model (default: none).",
)
@click.option(
    "--rekey",
    "rekeyed",
    multiple=True,
    metavar="NAME=KEY[:LAST[:DAY]]",
    help="A site gets a new key. DAY (YYYY-MM-DD): until then its old key is let in, too, so that it changes over "
    "without a gap (default: not at all).",
)
@click.option("--lift", "lifted", multiple=True, metavar="NAME", help="End the suspension of a site; repeat.")
@click.option("--quorum", type=click.Choice(["majority", "two-thirds", "all"]), help="Of later amendments.")
@click.option(
    "--entries",
    type=click.IntRange(min=1),
    help="Entries that each site may publish in all, more than before: extends the run, also one that is complete.",
)
@click.option("--output", "-o", type=FILE, default=Path("amendment.toml"), show_default=True)
def draft(
    config_path: Path,
    added: tuple[str, ...],
    retired: tuple[str, ...],
    rekeyed: tuple[str, ...],
    lifted: tuple[str, ...],
    quorum: str | None,
    entries: int | None,
    output: Path,
) -> None:
    """Draft the next amendment of this federation's charter."""
    from kmel_p2p.agreement.key_overlap import overlap_problem
    from kmel_p2p.cli.charter_draft import site_of
    from kmel_p2p.files import write_new
    from kmel_p2p.site.notice_board import today

    constitution, heads, _ = in_force(config_path)
    changes: dict[str, Any] = {
        "add": [site_of(text) for text in added],
        "retire": [_retirement(text, heads) for text in retired],
        "rekey": [_new_key(text, heads) for text in rekeyed],
        "lift": list(lifted),
        "entries": entries,
    }
    if quorum:
        changes["quorum"] = quorum
    document = constitution.draft(**{name: value for name, value in changes.items() if value})
    if problem := overlap_problem(document.amendment, today()):
        raise click.UsageError(problem)
    write_new(output, document.render().encode(), 0o644)
    tell(f"Wrote {output}: amendment {document.amendment.number}, unsigned.")
    tell(f"{constitution.signatures_needed} sites now run: kmel-peer amendment sign {output} --config site.toml")
    if document.amendment.add:
        from kmel_p2p.site.loaded_site import needs_of

        sites = len(constitution.everyone) + len(document.amendment.add)
        tell("\n".join(needs_of(constitution.genesis, sites)))


@amendment.command()
@click.argument("path", type=FILE, required=False)
@config_option
@click.option(
    "--number", default="", help="Which of several amendments that are proposed: number, or start of its hash."
)
@click.option("--yes", is_flag=True, help="It was read; do not ask.")
@click.option(
    "--instead",
    is_flag=True,
    help="Sign even though this site signed another amendment with this number, since dropped.",
)
def sign(path: Path | None, config_path: Path, number: str, yes: bool, instead: bool) -> None:
    """Add this site's signature: it binds the site.

    Without PATH it is about an amendment that another site has proposed: it is shown, and the running peer hands the
    signature on. With PATH, the file is signed; read it first (amendment show).
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.agreement.key_overlap import overlap_problem
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.notice_board import today
    from kmel_p2p.site.state.signed_amendments import note_signature

    if path is None:
        _sign_proposal(config_path, number, yes, instead)
        return
    constitution, heads, identity = in_force(config_path)
    document = _read(path).signed_by(identity, constitution)
    opened = document.amendment.campaign
    if opened is not None and heads and (problem := opened.boundary_problem(heads)):
        raise ConfigError(f"{path}: {problem}")
    if problem := overlap_problem(document.amendment, today()):
        raise ConfigError(f"{path}: {problem}")
    note_signature(load_config(config_path).site.state_dir, document.amendment, instead)
    write_whole(path, document.render().encode(), mode=0o644)
    missing = constitution.why_not_in_force(document)
    tell(f"Signed amendment {document.amendment.number}. " + (missing or "A quorum has signed: enact it."))


@amendment.command()
@config_option
@json_option
def proposed(config_path: Path, as_json: bool) -> None:
    """List amendments that wait for signatures, as the running peer knows them."""
    from kmel_p2p.cli.run import ask

    rows = ask(config_path, "proposals")
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        _show_row(row)
    if not rows:
        tell("No amendment waits for signatures.")


@amendment.command()
@click.argument("path", type=FILE)
@config_option
@click.option("--instead", is_flag=True, help="As for sign.")
def propose(path: Path, config_path: Path, instead: bool) -> None:
    """Sign an amendment, and have the running peer bring it to the other sites, whose operators may sign it."""
    from kmel_p2p.cli.run import ask

    row = ask(config_path, "propose", {"document": _read(path).render(), "instead": instead})
    tell(f"Amendment {row['number']} is proposed to the other sites: {row['missing']}.")


def _sign_proposal(config_path: Path, which: str, yes: bool, instead: bool) -> None:
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.cli.new_site import agreed
    from kmel_p2p.cli.run import ask

    rows = [
        row for row in ask(config_path, "proposals") if which in ("", str(row["number"]), row["hash"][: len(which)])
    ]
    if len(rows) != 1:
        raise LocalError(
            f"{len(rows)} amendments are proposed here; kmel-peer amendment proposed lists them"
            + (", --number tells them apart" if rows else "")
        )
    (row,) = rows
    _show_row(row)
    if not yes and not agreed(say("Does this site sign it?")):
        tell("Not signed.")
        return
    done = ask(config_path, "sign_proposal", {"which": row["hash"], "instead": instead})
    tell(f"Signed amendment {done['number']}: {done['missing']}.")


def _show_row(row: Mapping[str, Any]) -> None:
    tell(f"amendment {row['number']} ({row['hash'][:16]})")
    for line in row["changes"]:
        tell(f"  {line}")
    tell(f"  signed by {', '.join(row['signed'])}; {row['missing']}")


@amendment.command()
@click.argument("path", type=FILE)
@config_option
@json_option
def show(path: Path, config_path: Path, as_json: bool) -> None:
    """Show what an amendment changes and who has signed it. Exits with 8 while it is not in force."""
    from kmel_p2p.agreement.amendment_words import changes_in_words
    from kmel_p2p.cli.exits import DoesNotHoldError

    constitution, _, _ = in_force(config_path)
    document = _read(path)
    enacted = any(known.amendment.hash == document.amendment.hash for known in constitution.documents)
    problem = "" if enacted else constitution.why_not_in_force(document)
    if as_json:
        echo_json({**document.model_dump(mode="json"), "enacted": enacted, "problem": problem})
    else:
        tell(f"amendment {document.amendment.number} ({document.amendment.hash.hex()[:16]})")
        for line in changes_in_words(document.amendment):
            tell(f"  {line}")
        tell(f"  signed by {', '.join(sorted(document.signatures)) or 'nobody yet'}")
    if problem:
        raise DoesNotHoldError(f"{path}: {problem}")
    if not as_json:
        tell("# in force here" if enacted else "# signed by a quorum: kmel-peer amendment enact puts it in force")


@amendment.command()
@click.argument("path", type=FILE)
@config_option
def enact(path: Path, config_path: Path) -> None:
    """Hand a signed amendment to the running peer; it reaches the other peers by itself."""
    from kmel_p2p.cli.run import ask

    answer = ask(config_path, "amend", {"document": _read(path).render()})
    tell(f"amendment {answer['number']} is in force ({answer['hash'][:16]})")


def _read(path: Path) -> AmendmentDocument:
    from kmel_p2p.agreement.amendment import AmendmentDocument
    from kmel_p2p.site.config import read_text

    return AmendmentDocument.parse(read_text(path, "kmel-peer amendment draft writes one"), str(path))


def in_force(config_path: Path) -> tuple[Constitution, dict[str, int], Identity]:
    """The constitution in force here, the number of the newest entry kept of each site, and the site's identity."""
    from kmel_p2p.agreement.errors import LocalError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.modes import mode_of
    from kmel_p2p.site.site import stored_constitution
    from kmel_p2p.site.state.store import STORE_NAME, Store

    config = load_config(config_path)
    site = load_site(config)
    if not mode_of(site.charter).keeps_entries:
        raise LocalError(
            f"this federation averages in mode {site.mode}, in which a charter is not amended: draft a new one with "
            "the sites of the next run and have it signed"
        )
    path = config.site.state_dir / STORE_NAME
    if not path.exists():
        return site.constitution, {}, site.identity
    store = Store(path, read_only=True)
    try:
        constitution = stored_constitution(site, store)
        vector = store.vector()
    finally:
        store.close()
    heads = {rule.name: vector.get(key, 0) for key, rule in constitution.roster.items()}
    return constitution, heads, site.identity


def _retirement(text: str, heads: dict[str, int]) -> dict[str, Any]:
    name, *numbers = text.split(":")
    rule: dict[str, Any] = {"name": name, "last": _number(numbers[0]) if numbers else heads.get(name, 0)}
    if len(numbers) > 1:
        rule["retract_from"] = _number(numbers[1])
    return rule


def _new_key(text: str, heads: dict[str, int]) -> dict[str, Any]:
    name, _, rest = text.partition("=")
    key, _, numbers = rest.partition(":")
    last, _, until = numbers.partition(":")
    rule = {"name": name, "key": key, "last": _number(last) if last else heads.get(name, 0)}
    return {**rule, "until": until} if until else rule


def _number(text: str) -> int:
    if not text.isdigit():
        raise click.UsageError(f"{text!r} is not an entry number")
    return int(text)
