"""What several commands share: options, JSON output, a progress bar."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from kmel_p2p.cli.language import tell

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)


def config_option(command: F) -> F:
    """`--config site.toml`: which site."""
    return click.option(
        "--config",
        "-c",
        "config_path",
        type=FILE,
        default=Path("site.toml"),
        envvar="KMEL_CONFIG",
        show_default=True,
        show_envvar=True,
        help="Settings of the site.",
    )(command)


def model_folder(model_dir: Path | None, config_path: Path, version: str | None = None) -> Path:
    """The model directory that was named, or else that of the site: the version asked for, or the one in use."""
    from kmel_p2p.learn.predict.versions import chosen, find, in_use, newest_version
    from kmel_p2p.site.config import load_config

    if model_dir is not None and version is not None:
        raise click.UsageError("--model-version is one of this site's; leave out --model-dir")
    if model_dir is not None:
        return model_dir
    state_dir = load_config(config_path).site.state_dir
    if version is not None:
        return find(state_dir, version).folder
    newest = newest_version(state_dir) if chosen(state_dir) else None
    if newest is not None:
        tell(
            f"Models: version {chosen(state_dir)}, chosen with kmel-peer models use; the newest is {newest.name}",
            err=True,
        )
    return in_use(state_dir)


def json_option(command: F) -> F:
    """`--json`: for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def echo_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


@contextlib.contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be called with (done, total); it shows nothing when quiet or without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Without a terminal rich would still end with an empty line.
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
