"""`kmel-peer data`: look at a site's measurements before they are trained on, and approve them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import DIRECTORY, config_option, echo_json, json_option, progress_bar

if TYPE_CHECKING:
    from kmel_p2p.agreement.charter import Charter
    from kmel_p2p.agreement.columns import Source
    from kmel_p2p.chem.dataset.measurements import Measurements
    from kmel_p2p.site.config import SiteConfig

RELOAD_LOOK_S = 0.3
"""Between two looks at whether the peer has read its data."""
RELOAD_TOLD_S = 5.0
"""A longer wait is told: an entry that is held, for instance, keeps its round open."""


@click.group()
def data() -> None:
    """Check this site's measurements, and approve them for training."""


@data.command("check")
@config_option
@click.option("--out", type=DIRECTORY, help="Where to write; default: data-check in the state directory.")
@json_option
def check_command(config_path: Path, out: Path | None, as_json: bool) -> None:
    """Say what would be used and what looks wrong; train nothing, send nothing.

    Writes data_STAYS.html, data_STAYS.json and rejects.csv. Exit code 8: an assay endpoint misses its quorum or its
    unit is likely wrong. The charter need not be signed yet.
    """
    from kmel_p2p.chem.dataset.manifest import write_json
    from kmel_p2p.chem.dataset.measurements import write_rejects
    from kmel_p2p.chem.report.check_page import check_page
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.files import write_whole
    from kmel_p2p.site.config import load_config

    config = load_config(config_path)
    charter, own, test = read_measurements(config, quiet=as_json)
    report = _checked(config, charter, own, test)
    folder = out or config.site.state_dir / "data-check"
    write_rejects(folder / "rejects.csv", [*own.rejects, *(test.rejects if test else ())])
    write_json(folder / "data_STAYS.json", report)
    write_whole(folder / "data_STAYS.html", check_page(report, own).encode(), mode=0o600)
    if as_json:
        echo_json(report)
    else:
        _show(report, folder)
    if not report["holds"]:
        raise DoesNotHoldError("\n".join(report["problems"]))


@data.command()
@config_option
def approve(config_path: Path) -> None:
    """Approve the dataset as it is now (see [data] require_approval), and say again what looks wrong with it."""
    from kmel_p2p.chem.dataset.manifest import APPROVAL, MANIFEST, manifest, write_json
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import assay_endpoints_of, trained_data

    config = load_config(config_path)
    charter, own, test = read_measurements(config, quiet=False)
    report = _checked(config, charter, own, test)
    for text in [*report["problems"], *report["advice"]]:
        tell(f"looks wrong: {text}", err=True)
    content = manifest(trained_data(config.data, assay_endpoints_of(config, charter)), own)
    write_json(config.site.state_dir / MANIFEST, content)
    approved = {"dataset_hash": content["dataset_hash"], "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_json(config.site.state_dir / APPROVAL, approved)
    tell(f"Approved dataset {content['dataset_hash'][:16]}: {len(own)} compounds, {own.total.used} measurements.")


@data.command("changes")
@click.option(
    "--since",
    "version",
    default="newest",
    show_default=True,
    metavar="VERSION",
    help="Of this site's models; see kmel-peer models list.",
)
@click.option("--out", type=DIRECTORY, help="Where to write; default: data-check in the state directory.")
@config_option
@json_option
def changes_command(version: str, out: Path | None, config_path: Path, as_json: bool) -> None:
    """Say what was added, changed and removed since a version of the models was trained.

    Also which versions were trained on what is gone. Writes changes_STAYS.csv with every measurement concerned.
    """
    from kmel_p2p.chem.dataset.refresh import KEPT, read_measured
    from kmel_p2p.learn.predict.versions import find
    from kmel_p2p.learn.worker.data_changes import changed_since
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import assay_endpoints_of

    config = load_config(config_path)
    one = find(config.site.state_dir, version)
    dataset, before = read_measured(one.folder / KEPT)
    charter, own, _ = read_measurements(config, quiet=as_json)
    folder = out or config.site.state_dir / "data-check"
    retired = assay_endpoints_of(config, charter).retired
    found = changed_since(before, own, retired, config.site.state_dir, folder)
    report: dict[str, Any] = {
        "since": one.name,
        "dataset_then": dataset,
        "dataset_now": own.dataset_hash(),
        "endpoints": found.endpoints,
        "trained_on_removed": found.trained_on_removed,
    }
    if as_json:
        echo_json(report)
        return
    show_changes(report, found.path)


@data.command("reload")
@click.option(
    "--accept-removed",
    is_flag=True,
    help="Take the data over also where more than a tenth of the measurements in use are gone.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return only when the data are read.")
@config_option
@json_option
def reload_command(accept_removed: bool, wait: bool, config_path: Path, as_json: bool) -> None:
    """Have the running peer read [data] and the data files again, and train on them from the next round on.

    Says what was added, changed and removed. What cannot be read, is not approved ([data] require_approval) or lacks
    much of what is in use changes nothing, and an alarm says why. An open round is finished first.
    """
    from kmel_p2p.agreement.errors import DataError, LocalError
    from kmel_p2p.cli.run import ask

    newest = ask(config_path, "read data", {"accept_removed": accept_removed})
    number, began, told = newest["number"], time.monotonic(), False
    while wait and newest["stage"] == "waiting":
        if not told and time.monotonic() - began > RELOAD_TOLD_S:
            told = True
            tell("waiting for the open round to end, or for the files to be read; Ctrl-C stops neither", err=True)
        time.sleep(RELOAD_LOOK_S)
        newest = ask(config_path, "data read")
        if newest["number"] < number:
            raise LocalError("the peer has started again meanwhile: it reads the data as it does at every start")
    if as_json:
        echo_json(newest)
    elif newest["changes"] is not None:
        show_changes(newest["changes"], newest["changes"]["path"])
    if newest["stage"] == "refused":
        raise DataError(newest["refused"])
    if not as_json:
        tell("in use" if wait else "read once the open round is over")


@data.command("catalogue")
@click.argument("name", required=False)
@json_option
def catalogue_command(name: str | None, as_json: bool) -> None:
    """List the assay endpoints that the program knows, or show one, by name or synonym."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.chem.dataset.catalogue import catalogue, look_up, nearest
    from kmel_p2p.cli.data_view import catalogue_entry, catalogue_view

    entries = list(catalogue().values())
    if name is not None:
        found = look_up(name)
        if found is None:
            near = nearest(name)
            raise ConfigError(f"the catalogue has no {name!r}" + (f"; did you mean {near!r}?" if near else ""))
        entries = [found]
    shown = [catalogue_entry(entry) for entry in entries]
    if as_json:
        echo_json(shown)
        return
    for line in catalogue_view(shown, whole=name is not None):
        click.echo(line)


def show_changes(report: Mapping[str, Any], path: object) -> None:
    """Print what was added, changed and removed, and which versions were trained on what is gone."""
    for name, count in report["endpoints"].items():
        tell(f"{name}: {count['added']} added, {count['changed']} changed, {count['removed']} removed")
    for name, number in report["trained_on_removed"].items():
        tell(f"version {name} was trained on {number} of the removed measurements")
    tell(f"Written: {path}")


def read_measurements(
    config: SiteConfig, quiet: bool, *, retired: bool = False
) -> tuple[Charter, Measurements, Measurements | None]:
    """Charter and measurements, those of the test file last.

    Args:
        retired: whether assay endpoints that are trained no more are read, too.
    """
    from kmel_p2p.chem.dataset.ingest import ingest
    from kmel_p2p.chem.structures.cache import FOLDER, StructureCache
    from kmel_p2p.chem.structures.parallel import usable_cores
    from kmel_p2p.cli.charter import load_charter
    from kmel_p2p.files import private_directory
    from kmel_p2p.site.loaded_site import assay_endpoints_of, check_columns, trained_data

    charter = load_charter(config.site.charter).charter
    endpoints = assay_endpoints_of(config, charter)
    for name in check_columns(config.data, endpoints):
        tell(f"[data.columns] names {name!r}, which is no assay endpoint yet: it is not read", err=True)
    data = trained_data(config.data, endpoints, retired=retired)
    state_dir = private_directory(config.site.state_dir)
    cache = StructureCache(config.data.structure_cache or state_dir / FOLDER)
    workers = config.resources.allowed_featurise_processes or usable_cores()

    def read(source: Source, excluded: frozenset[str]) -> Measurements:
        with progress_bar("structures", quiet) as progress:
            return ingest(
                source,
                endpoints.every,
                charter.features,
                cache=cache,
                workers=workers,
                progress=progress,
                excluded=excluded,
                added=endpoints.added,
            )

    test = read(data.test_source, frozenset()) if data.test_source else None
    return charter, read(data, frozenset(test.structures.identities) if test else frozenset()), test


def _checked(config: SiteConfig, charter: Charter, own: Measurements, test: Measurements | None) -> dict[str, Any]:
    from kmel_p2p.chem.report.check import check
    from kmel_p2p.site.loaded_site import assay_endpoints_of, trained_data

    endpoints = assay_endpoints_of(config, charter)
    return check(trained_data(config.data, endpoints), own, charter.split, test, retired=endpoints.retired)


def _show(report: dict[str, Any], folder: Path) -> None:
    from kmel_p2p.cli.data_view import data_view
    from kmel_p2p.cli.language import told
    from kmel_p2p.cli.screen import Screen

    console = Screen()
    for part in data_view(report):
        shown = told(part) if isinstance(part, str) else part
        console.print(shown, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    tell(f"Written: {folder}/data_STAYS.html, data_STAYS.json, rejects.csv")
