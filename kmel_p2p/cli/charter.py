"""`kmel-peer charter`: draft, sign, merge, verify and show the charter of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.charter_draft import draft_charter, draft_options, reference_hash, remarks, site_of
from kmel_p2p.cli.charter_view import charter_view
from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option
from kmel_p2p.cli.screen import Screen
from kmel_p2p.learn.models.registry import kind_of

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import CharterDocument


@click.group()
def charter() -> None:
    """Draft, sign and check the charter of a federation."""


@charter.command()
@click.option("--federation", required=True, help="Name of the federation: lower case, digits, - and _.")
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="NAME=KEY[@ADDRESS,...]",
    help="A founding site; repeat. `kmel-peer init` prints NAME=KEY.",
)
@click.option(
    "--from-board",
    "notices",
    multiple=True,
    metavar="ID",
    help="A notice of the board (kmel-peer board list); repeat. Its author becomes a founding site beside this one, "
    "and its assay endpoint the charter's. Addresses are those of the present charter: each site needs a port of its "
    "own for each federation.",
)
@draft_options
@click.option("--start-file", type=FILE, help="Start the trunk from the values of this safetensors file (model.start).")
@click.option("--output", "-o", type=FILE, default=Path("charter.toml"), show_default=True)
@config_option
def new(
    federation: str,
    sites: tuple[str, ...],
    notices: tuple[str, ...],
    endpoints: tuple[str, ...],
    seed: int,
    trunk: str | None,
    epsilon: float | None,
    compounds: int | None,
    start_file: Path | None,
    output: Path,
    config_path: Path,
) -> None:
    """Draft a charter with default rules, each below a comment, and this machine's reference hash.

    Edit the file as the consortium wishes, then let every site sign it. Any later change invalidates all signatures.
    """
    from kmel_p2p.cli.charter_comments import commented
    from kmel_p2p.files import write_new

    founders = [site_of(text) for text in sites]
    if notices:
        from kmel_p2p.chem.dataset.catalogue import charter_rules
        from kmel_p2p.cli.board import stored_board
        from kmel_p2p.site.notice_board import drafted, notice_rows

        site, book = stored_board(config_path)
        more, named = drafted(site, notice_rows(site, book, set()), notices)
        founders += [each for each in more if each["name"] not in {founder["name"] for founder in founders}]
        given = {text.partition(",")[0].casefold() for text in endpoints}
        for name, unit in named.items():
            if name.casefold() not in given:
                # What the catalogue does not know is drafted as it was posted; people see to its scale.
                known = name.casefold()
                endpoints = (*endpoints, known if charter_rules(known) else f"{name},unit={unit}")
    if not founders:
        raise click.UsageError("--site is missing: name the founding sites, or notices of the board (--from-board)")
    if not endpoints:
        raise click.UsageError("--endpoint is missing: name at least one assay endpoint (kmel-peer data catalogue)")
    document, reason = draft_charter(
        federation,
        founders,
        endpoints,
        trunk=trunk,
        seed=seed,
        compounds=compounds,
        epsilon=epsilon,
        start_file=start_file,
    )
    write_new(output, (remarks(reason) + commented(document)).encode(), 0o644)
    tell(f"Wrote {output}, charter {document.charter.id.hex()[:16]}, unsigned.")
    tell("\n".join(reason))
    tell(f"Every site now runs: kmel-peer charter sign {output} --key site.key")


@charter.command()
@click.argument("path", type=FILE)
@click.option("--key", type=FILE, default=Path("site.key"), show_default=True, help="Secret key of the site.")
@click.option("--output", "-o", type=FILE, help="Where to write; default: the same file.")
@click.option("--yes", is_flag=True, help="The charter was read; do not show it and ask.")
def sign(path: Path, key: Path, output: Path | None, yes: bool) -> None:
    """Show the charter, ask, and add this site's signature: it binds the site."""
    from kmel_p2p.agreement.charter_text import signed_text
    from kmel_p2p.cli.new_site import agreed
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.config import read_text
    from kmel_p2p.site.keys import load_key

    document = load_charter(path)
    identity = load_key(key)
    signed = document.signed_by(identity)
    name = signed.charter.roster[identity.key].name
    if not yes:
        Screen().print(charter_view(document))
        if not agreed(say("Does {site} sign this charter?").format(site=name)):
            click.echo(say("Not signed."))
            return
    write_whole(output or path, signed_text(read_text(path, ""), signed).encode(), mode=0o644)
    tell(f"{name} signed charter {signed.charter.id.hex()[:16]} of {signed.charter.federation}.")
    for problem in signed.problems():
        tell(f"still missing: {problem}")


@charter.command()
@click.argument("paths", type=FILE, nargs=-1, required=True)
@click.option("--output", "-o", type=FILE, required=True)
def merge(paths: tuple[Path, ...], output: Path) -> None:
    """Merge the signatures of copies that were signed separately."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.files import write_whole

    merged = load_charter(paths[0])
    for path in paths[1:]:
        other = load_charter(path)
        if other.charter.id != merged.charter.id:
            raise ConfigError(
                f"{path}: charter {other.charter.id.hex()[:16]} is not the one of {paths[0]} "
                f"({merged.charter.id.hex()[:16]}); its text was changed"
            )
        merged = merged.model_copy(update={"signatures": {**other.signatures, **merged.signatures}})
    write_whole(output, merged.render().encode(), mode=0o644)
    tell(f"Wrote {output} with {len(merged.signatures)} of {len(merged.charter.sites)} signatures.")


@charter.command()
@click.argument("path", type=FILE)
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check that every founding site signed exactly this charter, and that this machine's features agree with it."""
    from kmel_p2p.cli.exits import DoesNotHoldError

    document = load_charter(path)
    problems = document.problems() + feature_problems(document)
    if as_json:
        echo_json({"charter_id": document.charter.id.hex(), "in_force": not problems, "problems": problems})
    if problems:
        raise DoesNotHoldError(f"{path}: not in force here: " + "; ".join(problems))
    if not as_json:
        tell(f"In force: {document.charter.federation}, charter {document.charter.id.hex()}")


@charter.command()
@click.argument("one", type=FILE)
@click.argument("other", type=FILE)
@json_option
def diff(one: Path, other: Path, as_json: bool) -> None:
    """Say in which settings two charters differ. Exits with 8 where they do."""
    from kmel_p2p.cli.charter_view import differences
    from kmel_p2p.cli.exits import DoesNotHoldError

    rows = list(differences(load_charter(one).charter, load_charter(other).charter))
    if as_json:
        echo_json([{"setting": setting, "one": here, "other": there} for setting, here, there in rows])
    else:
        for setting, here, there in rows:
            click.echo(f"{setting}: {here} -> {there}")
    if rows:
        raise DoesNotHoldError(f"{one} and {other} differ in {len(rows)} setting{'' if len(rows) == 1 else 's'}")
    if not as_json:
        tell("The same charter; signatures and comments may differ.")


@charter.command()
@click.argument("path", type=FILE)
@json_option
def show(path: Path, as_json: bool) -> None:
    """Print sites, model, assay endpoints and rules, to be read before signing."""
    document = load_charter(path)
    if as_json:
        echo_json({"id": document.charter.id.hex(), **document.model_dump(mode="json")})
        return
    Screen().print(charter_view(document))


def load_charter(path: Path) -> CharterDocument:
    """Read a charter file, signed or not."""
    from kmel_p2p.agreement.charter import CharterDocument
    from kmel_p2p.site.config import read_text

    return CharterDocument.parse(read_text(path, "draft one with: kmel-peer charter new"), str(path))


def feature_problems(document: CharterDocument) -> list[str]:
    """Why this machine's features are not those of the charter; empty when they are."""
    agreed = document.charter
    expected = agreed.features.reference_hash
    if not expected:
        return ["features.reference_hash is empty: draft with kmel-peer charter new, or fill it in"]
    found = reference_hash(agreed)
    if found == expected:
        return []
    import rdkit

    packages = ["RDKit", *kind_of(agreed.model).packages]
    advice = f"install the consortium's version of {' and '.join(packages)}"
    if not document.signatures:
        advice += f"; or, if [features] or [model] was edited since the draft, set reference_hash to {found}"
    return [
        f"the featuriser of this machine (RDKit {rdkit.__version__}) gives {found[:16]} where the charter says "
        f"{expected[:16]}; {advice}"
    ]
