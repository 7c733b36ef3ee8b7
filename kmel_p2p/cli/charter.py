"""`kmel-peer charter`: draft, sign, merge, verify and show the charter of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kmel_p2p.cli.options import FILE, echo_json, json_option
from kmel_p2p.cli.screen import Screen
from kmel_p2p.learn.models.registry import KINDS, TrunkKind, trunk_kind

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter, CharterDocument

BESIDE_CATALOGUE = ("head", "weight", "beyond_bound", "positive_weight")
"""Keys of `--endpoint` that leave what is measured, and so the catalogue's rules, as they are."""

START_ADVICE = (
    "The run begins when all founders are ready (pace.start_sites); kmel-peer begin starts without those who are late."
)

NUMBERS = ("center", "scale", "weight", "low", "high", "beyond_bound", "positive_weight")
"""Keys of `--endpoint` whose value is a number."""


def _trunk_help(kind: TrunkKind) -> str:
    return f"{kind.name}: {kind.summary}" + (f" (extra {kind.extra} at every site)" if kind.extra else "")


@click.group()
def charter() -> None:
    """Draft, sign and check the charter of a federation."""


@charter.command()
@click.option("--federation", required=True, help="Name of the federation: lower case, digits, - and _.")
@click.option(
    "--site",
    "sites",
    multiple=True,
    required=True,
    metavar="NAME=KEY[@ADDRESS,...]",
    help="A founding site; repeat. `kmel-peer init` prints NAME=KEY.",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    required=True,
    metavar="NAME[,KEY=VALUE,...]",
    help="An assay endpoint; repeat. A name of the catalogue alone (with head, weight, beyond_bound, positive_weight) "
    "takes its rules from there. Keys: kind, unit, transform, center, scale, head, weight, low, high, beyond_bound, "
    "positive_weight.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the initial trunk.")
@click.option(
    "--trunk",
    type=click.Choice(list(KINDS)),
    default="mlp",
    show_default=True,
    help="; ".join(map(_trunk_help, KINDS.values())) + ".",
)
@click.option(
    "--compounds",
    type=click.IntRange(min=1),
    help="Compounds that a usual site announces to train on, roughly; size of the networks, learning rate, steps and "
    "patience are drafted for them. Default: a small site's.",
)
@click.option("--output", "-o", type=FILE, default=Path("charter.toml"), show_default=True)
def new(
    federation: str,
    sites: tuple[str, ...],
    endpoints: tuple[str, ...],
    seed: int,
    trunk: str,
    compounds: int | None,
    output: Path,
) -> None:
    """Draft a charter with default rules, and with the reference hash of this machine's featuriser.

    Edit the file as the consortium wishes, then let every site sign it. Any later change invalidates all signatures.
    """
    from kmel_p2p.agreement.charter import Charter, CharterDocument
    from kmel_p2p.agreement.drafted import USUAL, suggested
    from kmel_p2p.agreement.strict import build
    from kmel_p2p.files import write_new

    kind, rules = trunk_kind(trunk), [_endpoint(text) for text in endpoints]
    suggestion = suggested(compounds or USUAL, any(rule.get("kind") == "classification" for rule in rules))
    raw: dict[str, Any] = {
        **suggestion.sections(perceptron=kind.perceptron),
        "federation": federation,
        "sites": [site_of(text) for text in sites],
        "assay_endpoints": rules,
    }
    raw["model"] |= {**kind.drafted, "seed": seed, "trunk": trunk}
    raw["pace"] |= {"start_sites": len(sites)}
    draft = with_reference_hash(build(Charter, raw, "command line"))
    document = CharterDocument(charter=draft)
    CharterDocument.parse(document.render(), "command line")
    reason = [*suggestion.reason(compounds or USUAL, announced=compounds is not None), START_ADVICE]
    write_new(output, (remarks(reason) + document.render()).encode(), 0o644)
    click.echo(f"Wrote {output}, charter {draft.id.hex()[:16]}, unsigned.")
    click.echo("\n".join(reason))
    click.echo(f"Every site now runs: kmel-peer charter sign {output} --key site.key")


@charter.command()
@click.argument("path", type=FILE)
@click.option("--key", type=FILE, default=Path("site.key"), show_default=True, help="Secret key of the site.")
@click.option("--output", "-o", type=FILE, help="Where to write; default: the same file.")
def sign(path: Path, key: Path, output: Path | None) -> None:
    """Add this site's signature. Read the charter first (charter show): it binds the site."""
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.config import read_text
    from kmel_p2p.site.keys import load_key

    document = load_charter(path)
    identity = load_key(key)
    signed = document.signed_by(identity)
    heading = _heading(read_text(path, ""))
    write_whole(output or path, (heading + signed.render()).encode(), mode=0o644)
    name = signed.charter.roster[identity.key].name
    click.echo(f"{name} signed charter {signed.charter.id.hex()[:16]} of {signed.charter.federation}.")
    for problem in signed.problems():
        click.echo(f"still missing: {problem}")


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
    click.echo(f"Wrote {output} with {len(merged.signatures)} of {len(merged.charter.sites)} signatures.")


@charter.command()
@click.argument("path", type=FILE)
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check that every founding site signed exactly this charter, and that this machine's features agree with it."""
    from kmel_p2p.cli.exits import DoesNotHoldError

    document = load_charter(path)
    problems = document.problems() + _feature_problems(document)
    if as_json:
        echo_json({"charter_id": document.charter.id.hex(), "in_force": not problems, "problems": problems})
    if problems:
        raise DoesNotHoldError(f"{path}: not in force here: " + "; ".join(problems))
    if not as_json:
        click.echo(f"In force: {document.charter.federation}, charter {document.charter.id.hex()}")


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


def remarks(lines: list[str]) -> str:
    """TOML comments and an empty line."""
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _heading(text: str) -> str:
    """The comments that a charter file begins with: why its settings are what they are."""
    lines = text.splitlines()
    end = next((at for at, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "".join(f"{line}\n" for line in lines[:end])


def load_charter(path: Path) -> CharterDocument:
    """Read a charter file, signed or not."""
    from kmel_p2p.agreement.charter import CharterDocument
    from kmel_p2p.site.config import read_text

    return CharterDocument.parse(read_text(path, "draft one with: kmel-peer charter new"), str(path))


def with_reference_hash(draft: Charter) -> Charter:
    """The charter with the hash of this machine's features of the reference molecules."""
    return draft.model_copy(
        update={"features": draft.features.model_copy(update={"reference_hash": _reference_hash(draft)})}
    )


def _reference_hash(draft: Charter) -> str:
    from kmel_p2p.learn.models.reference import trunk_reference_hash

    return trunk_reference_hash(draft.features, draft.model)


def _feature_problems(document: CharterDocument) -> list[str]:
    agreed = document.charter
    expected = agreed.features.reference_hash
    if not expected:
        return ["features.reference_hash is empty: draft with kmel-peer charter new, or fill it in"]
    found = _reference_hash(agreed)
    if found == expected:
        return []
    import rdkit

    packages = ["RDKit", *trunk_kind(agreed.model.trunk).packages]
    advice = f"install the consortium's version of {' and '.join(packages)}"
    if not document.signatures:
        advice += f"; or, if [features] or [model] was edited since the draft, set reference_hash to {found}"
    return [
        f"the featuriser of this machine (RDKit {rdkit.__version__}) gives {found[:16]} where the charter says "
        f"{expected[:16]}; {advice}"
    ]


def site_of(text: str) -> dict[str, Any]:
    """A site as written on the command line: NAME=KEY or NAME=KEY@ADDRESS,..."""
    name, equals, rest = text.partition("=")
    key, _, addresses = rest.partition("@")
    if not equals or not key:
        raise click.UsageError(f"{text}: expected NAME=KEY or NAME=KEY@ADDRESS,...")
    return {"name": name, "key": key, "addresses": tuple(part for part in addresses.split(",") if part)}


def _endpoint(text: str) -> dict[str, Any]:
    name, *settings = text.split(",")
    raw: dict[str, Any] = {"name": name}
    if all(setting.partition("=")[0] in BESIDE_CATALOGUE for setting in settings):
        from kmel_p2p.chem.dataset.catalogue import charter_rules

        raw = charter_rules(name) or _unknown_endpoint(name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--endpoint {text}: expected KEY=VALUE, found {setting!r}")
        raw[key] = _number(key, value) if key in NUMBERS else value
    if "low" in raw or "high" in raw:
        raw["valid_range"] = (raw.pop("low", -1e9), raw.pop("high", 1e9))
    return raw


def _unknown_endpoint(name: str) -> dict[str, Any]:
    """Raises UsageError: a misspelt name without rules would otherwise accept any value in no unit."""
    from kmel_p2p.chem.dataset.catalogue import nearest

    near = nearest(name)
    hint = f"did you mean {near!r}? " if near else ""
    raise click.UsageError(
        f"--endpoint {name}: the catalogue has no such assay endpoint; {hint}`kmel-peer data catalogue` lists all. "
        "To define your own, give its rules: "
        f"--endpoint '{name},kind=regression,unit=...,transform=...,low=...,high=...'"
    )


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise click.UsageError(f"--endpoint: {key} is {value!r}, not a number") from None


def charter_view(document: CharterDocument) -> RenderableType:
    """Everything a site agrees to by signing."""
    charter = document.charter
    problems = {line.split("'")[1]: line for line in document.problems()}
    sites = Table(title="sites", title_justify="left", box=None, header_style="bold")
    for column in ("name", "key", "addresses", "signature"):
        sites.add_column(column)
    for site in charter.sites:
        signature = Text("missing or wrong", "red") if site.name in problems else Text("good", "green")
        sites.add_row(site.name, site.key[:16] + "…", "\n".join(site.addresses) or "-", signature)
    endpoints = Table(title="assay endpoints", title_justify="left", box=None, header_style="bold")
    for column in ("name", "kind", "unit", "transform", "valid range", "head", "weight"):
        endpoints.add_column(column)
    for rule in charter.assay_endpoints:
        low, high = rule.valid_range
        endpoints.add_row(
            rule.name, rule.kind, rule.unit, rule.transform, f"{low:g} to {high:g}", rule.head, f"{rule.weight:g}"
        )
    title = f"{charter.federation} · charter {charter.id.hex()[:16]}"
    return Panel(Group(sites, "", endpoints, "", _rules(charter)), title=title)


def _rules(charter: Charter) -> Table:
    table = Table(title="rules", title_justify="left", box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for section in ("model", "features", "training", "averaging", "pace", "split"):
        values = getattr(charter, section).model_dump(mode="json")
        if section == "model":
            # Some keys are not written at their default.
            values |= {key: getattr(charter.model, key) for key in sorted(trunk_kind(charter.model.trunk).keys)}
        table.add_row(section, ", ".join(f"{key} {value}" for key, value in values.items() if value != ""))
    table.add_row("trunk", _trunk(charter))
    return table


def _trunk(charter: Charter) -> str:
    from kmel_p2p.learn.models.layout import trunk_layout
    from kmel_p2p.site.loaded_site import architecture_of

    shape = architecture_of(charter)
    kind, size = trunk_kind(shape.trunk), trunk_layout(shape).size
    return f"reads {kind.summary}; {size:,} values, about {kind.cost(shape):,} multiplications per compound and pass"
