"""`kmel-peer trunk`: trunks that come as packages, and the file that a trunk starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import FILE, F, config_option, echo_json, json_option

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from kmel_p2p.agreement.training import ModelRule
    from kmel_p2p.learn.conformance.checks import Conformance

MOST_STRUCTURES = 1000


@click.group()
def trunk() -> None:
    """Trunks that come as packages: which there are, whether a federation can use one, and the charter's lines.

    `check` and `draft` import the package, and so run what its supplier wrote, with your rights on this machine.
    `fetch` gets the file that the charter's trunk starts from.
    """


def _shape_options(command: F) -> F:
    for option in (
        click.option("--trunk", "name", default="", help="Which trunk of the package, where it has several."),
        click.option(
            "--hidden", metavar="N,...", default="512,256", show_default=True,
            help="Widths (model.hidden); the last one is what the heads read.",
        ),
        click.option(
            "--option", "options", multiple=True, metavar="KEY=VALUE", help="A setting of the package's own; repeat."
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@trunk.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the trunks of this program and those of installed packages."""
    from kmel_p2p.learn.models.package_files import offered
    from kmel_p2p.learn.models.registry import KINDS

    packages = offered()
    if as_json:
        echo_json({"own": {kind.name: kind.summary for kind in KINDS.values()}, "packages": packages})
        return
    for kind in KINDS.values():
        click.echo(f"{kind.name:<20} reads {kind.summary}")
    for name, brought_by in sorted(packages.items()):
        click.echo(f"{name:<20} package {', '.join(brought_by)}")


@trunk.command()
@click.argument("package")
@_shape_options
@click.option(
    "--structures",
    type=FILE,
    help="SMILES to try it on, one a line; from 40 on the audit ranks them. Default: 12 drugs.",
)
@json_option
def check(
    package: str, name: str, hidden: str, options: tuple[str, ...], structures: Path | None, as_json: bool
) -> None:
    """Say whether a federation can use the trunk of PACKAGE, an installed package.

    In two processes: the same layout, initial values, outputs and gradients, bit for bit; everything finite and
    trained; no row that depends on its neighbours. Then time and memory per row, and what its first layer shows of
    fingerprints. Exit code 8: something does not hold; 3: it is not installed, or cannot be run.
    """
    from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.learn.conformance.checks import conformance, plain

    distribution, name, model = _drafted(package, name, hidden, options)
    tried = _read(structures) if structures is not None else list(REFERENCE_MOLECULES)
    found = conformance(model, tried)
    assert model.package is not None
    facts = {
        "package": distribution.name,
        "version": distribution.version,
        "sha256": model.package.sha256,
        "trunk": name,
        "tensors": len(model.package.tensors),
    }
    if as_json:
        echo_json({**facts, "structures": len(tried), **plain(found)})
    else:
        _show(facts, found)
    broken = [one.name for one in found.checks if not one.holds]
    if broken:
        raise DoesNotHoldError(f"trunk {name}: {len(broken)} of {len(found.checks)} rules do not hold")


@trunk.command()
@click.argument("package")
@_shape_options
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the initial trunk.")
def draft(package: str, name: str, hidden: str, options: tuple[str, ...], dropout: float, seed: int) -> None:
    """Print the charter's [model] for the trunk of PACKAGE, an installed package."""
    import tomli_w

    from kmel_p2p.agreement.canonical import plain

    _, _, model = _drafted(package, name, hidden, options, dropout)
    click.echo(tomli_w.dumps({"model": plain(model.changed(seed=seed).model_dump())}), nl=False)


@trunk.command()
@config_option
def fetch(config_path: Path) -> None:
    """Fetch the file that the charter's trunk starts from (model.start) from another site whose peer runs.

    `kmel-peer run` does it, too, where there is no copy here. What another site gives is taken only if it has the
    charter's SHA-256.
    """
    from kmel_p2p.files import private_directory
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.desk.start_file_fetch import fetch_start_file
    from kmel_p2p.site.loaded_site import load_site, require_trunk
    from kmel_p2p.site.state.lockfile import SiteLock

    config = load_config(config_path)
    site = load_site(config)

    def told(name: str, size: int) -> None:
        tell(f"fetching the start file, {size / 1e6:.1f} MB, from {name}", err=True)

    if not site.charter.model.start:
        tell("the charter names no start file: its trunk is drawn from the seed")
        return
    with SiteLock(private_directory(config.site.state_dir)):
        path = fetch_start_file(site, told)
    require_trunk(site)
    tell(f"this site's copy is whole, and the one that the charter names: {path}")


def _drafted(
    package: str, name: str, hidden: str, options: tuple[str, ...], dropout: float = 0.1
) -> tuple[Distribution, str, ModelRule]:
    from kmel_p2p.learn.models.trunk_draft import drafted_model, trunk_of

    try:
        widths = tuple(int(width) for width in hidden.split(","))
    except ValueError:
        raise click.UsageError(f"--hidden {hidden}: expected widths such as 128,64") from None
    distribution, found = trunk_of(package, name)
    return distribution, found, drafted_model(distribution, found, widths, dropout, options)


def _read(path: Path) -> list[str]:
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.site.config import read_text

    lines = [
        line.split()[0] for line in read_text(path, "give a file of SMILES, one a line").splitlines() if line.split()
    ]
    if not 2 <= len(lines) <= MOST_STRUCTURES:
        raise ConfigError(f"{path}: has {len(lines)} structures; 2 to {MOST_STRUCTURES} can be tried")
    return lines


def _show(facts: dict[str, Any], found: Conformance) -> None:
    tell(f"trunk {facts['trunk']} of {facts['package']} {facts['version']}, sha256 {facts['sha256']}")
    for one in found.checks:
        click.echo(f"  {'holds' if one.holds else 'FAILS'}  {one.name}: {one.found}")
    tell(
        f"{found.values:,} values in {facts['tensors']} tensors; a row takes {found.train_us / 1e3:.2f} ms of training "
        f"and {found.predict_us / 1e3:.2f} ms of predicting on one core, and {found.bytes_per_row / 1024:,.1f} KiB"
    )
    tell(_positions_in_words(found.positions))


def _positions_in_words(shown: dict[str, Any] | None) -> str:
    if shown is None:
        return "No tensor counts positions of the fingerprint; what a description shows is not measured."
    ranked = ""
    if shown["picked_auroc"] is not None:
        ranked = f"; its compounds rank above others with AUROC {shown['picked_auroc']:.2f}"
    return (
        f"{shown['tensor']} shows most of the fingerprint: {shown['shown']} positions move, {shown['right']:.0%} of "
        f"them occur in the compounds trained on, and {shown['found']:.0%} of theirs are among them{ranked}"
    )
