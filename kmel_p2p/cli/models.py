"""`kmel-peer models`: versions of this site's models, and which one predicts."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import config_option, echo_json, json_option, progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmel_p2p.learn.predict.versions import Version


@click.group()
def models() -> None:
    """List, compare and choose versions of this site's models.

    Each time the run ends or ends anew, the models are kept as a version. The newest one predicts unless another one
    is chosen.
    """


@models.command("list")
@config_option
@json_option
def list_command(config_path: Path, as_json: bool) -> None:
    """Show all versions, the newest last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from kmel_p2p.cli.screen import Screen
    from kmel_p2p.learn.predict.versions import in_use, versions

    state_dir = _state_dir(config_path)
    used = in_use(state_dir)
    found = versions(state_dir)
    marks = [_facts(one, used, newest=at == len(found) - 1) for at, one in enumerate(found)]
    if as_json:
        echo_json(marks)
        return
    if not found:
        tell("No models yet: a site writes them when its run ends.")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("version", "kept", "entries", "compounds", "size", ""):
        left = name in ("version", "kept", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for facts in marks:
        told = [say(word) for word in ("in use", "newest") if facts[word.replace(" ", "_")]]
        entries, compounds = (str(facts[key]) if facts[key] is not None else "" for key in ("entries", "compounds"))
        size = f"{facts['bytes'] / 1e6:.1f} MB"
        table.add_row(facts["version"], facts["kept"], entries, compounds, size, ", ".join(told))
    Screen().print(table)


@models.command("show")
@click.argument("version")
@config_option
@json_option
def show_command(version: str, config_path: Path, as_json: bool) -> None:
    """Say what a version is: scores on held-out compounds, what it was made from, what it was trained on.

    VERSION is a name, its beginning, or newest.
    """
    from kmel_p2p.learn.predict.versions import find, in_use, newest_version

    state_dir = _state_dir(config_path)
    one = find(state_dir, version)
    newest = newest_version(state_dir)
    facts = {
        **_facts(one, in_use(state_dir), newest=newest is not None and newest.name == one.name),
        "digest": one.card.digest,
        "stack_digest": one.card.stack_digest,
        "labels": dict(one.card.labels),
        "result": dict(one.card.result),
        "dataset": one.manifest,
    }
    if as_json:
        echo_json(facts)
        return
    used = f", {say('in use')}" if facts["in_use"] else ""
    click.echo(f"{say('version'):<9} {facts['version']}{used}")
    click.echo(f"{say('kept'):<9} {facts['kept'] or say('by an earlier program')}")
    for name, text in one.card.labels.items():
        click.echo(f"{name.replace('_', ' '):<9} {text[:60]}")
    dataset = one.manifest
    if dataset:
        tell(f"dataset   {dataset['dataset_hash'][:16]}: {dataset['compounds']} compounds, {dataset['used']} values")
    for endpoint in one.card.result.get("endpoints", ()):
        tell(f"{endpoint['name']}: predicts with {endpoint.get('chosen', one.card.chosen[endpoint['name']])}")


@models.command("compare")
@click.argument("former")
@click.argument("later", default="newest")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@config_option
@json_option
def compare_command(former: str, later: str, seed: int, config_path: Path, as_json: bool) -> None:
    """Score two versions on the same compounds, those of the test fold as it is now, with 95 % intervals."""
    from kmel_p2p.learn.evaluate.two_versions import compare_versions
    from kmel_p2p.learn.predict.predict import load_model
    from kmel_p2p.learn.predict.versions import find
    from kmel_p2p.learn.worker.prepare import prepare
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_amended_site, trainer_plan

    config = load_config(config_path)
    loaded = [load_model(find(config.site.state_dir, name).folder) for name in (former, later)]
    with progress_bar("structures", as_json) as progress:
        dataset, _ = prepare(trainer_plan(load_amended_site(config), seed), lambda p: progress(p.done, p.total))
    report = compare_versions(loaded[0], loaded[1], dataset, seed)
    if as_json:
        echo_json(report)
    else:
        _show(report)


@models.command("use")
@click.argument("version")
@config_option
def use_command(version: str, config_path: Path) -> None:
    """Predict with VERSION from now on, until another one is chosen; newest: with the newest, whichever that is.

    predict, serve (when it starts), evaluate and export read the version in use; the daemon is not touched.
    """
    from kmel_p2p.learn.predict.versions import find, use

    state_dir = _state_dir(config_path)
    one = find(state_dir, version)
    use(state_dir, one, time.time())
    tell(f"Version {one.name} predicts from now on.")


@models.command("prune")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Versions to leave.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def prune_command(keep: int, yes: bool, config_path: Path, as_json: bool) -> None:
    """Delete the oldest versions; the newest and the one in use always stay."""
    from kmel_p2p.learn.predict.versions import prune, versions

    state_dir = _state_dir(config_path)
    surplus = len(versions(state_dir)) - keep
    if surplus > 0 and not yes:
        question = say("Delete up to {count} of the oldest versions for good?").format(count=surplus)
        click.confirm(question, abort=True, err=True)
    gone = [one.name for one in prune(state_dir, keep)]
    if as_json:
        echo_json({"deleted": gone})
    else:
        tell(f"Deleted: {', '.join(gone) or 'nothing'}.")


def _state_dir(config_path: Path) -> Path:
    from kmel_p2p.site.config import load_config

    return load_config(config_path).site.state_dir


def _facts(one: Version, used: Path, *, newest: bool) -> dict[str, Any]:
    result, dataset = one.card.result, one.manifest
    return {
        "version": one.name,
        "kept": "" if one.at_s is None else _minute(one.at_s),
        "campaign": int(one.card.labels.get("campaign", "1")),
        "entries": result.get("entries"),
        "compounds": dataset.get("compounds"),
        "dataset_hash": dataset.get("dataset_hash"),
        "bytes": one.bytes,
        "newest": newest,
        "in_use": used == one.folder or (newest and used.name == "model"),
    }


def _minute(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _show(report: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from kmel_p2p.cli.screen import Screen

    table = Table(title="test fold; lower is better", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = ("assay endpoint", "tested", "score", report["former"][:8], report["later"][:8], "change", "95 %")
    for name in names:
        left = name in ("assay endpoint", "score")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for e in report["endpoints"]:
        metric = f"{e['metric']} {e['unit']}".strip()
        if "change_pct" not in e:
            why = "not in both" if "silent" in e else "too few"
            table.add_row(e["name"], str(e["test"]), metric, "", "", why, "")
            continue
        low, high = e["interval_pct"]
        change, ends = f"{e['change_pct']:+.1f} %", f"[{low:+.1f}, {high:+.1f}]"
        table.add_row(e["name"], str(e["test"]), metric, f"{e['former']:.3f}", f"{e['later']:.3f}", change, ends)
    Screen().print(table)
