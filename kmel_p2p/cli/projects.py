"""`kmel-peer projects`: every federation that this host has a part in, on one screen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from kmel_p2p.cli.language import say, tell
from kmel_p2p.cli.options import FILE, echo_json, json_option
from kmel_p2p.cli.screen import Screen

if TYPE_CHECKING:
    from kmel_p2p.site.config import SiteConfig


@click.command()
@click.argument("configs", type=FILE, nargs=-1)
@json_option
def projects(configs: tuple[Path, ...], as_json: bool) -> None:
    """Show state, gain and cost of the federations whose settings are in CONFIGS.

    Without CONFIGS: `site.toml` here and in each folder here, as where each project has a folder of its own. The gain
    is the change of the error on held-out compounds over the best that this site can make alone.
    """
    from kmel_p2p.agreement.errors import LocalError

    found = configs or (*sorted(Path().glob("site.toml")), *sorted(Path().glob("*/site.toml")))
    if not found:
        raise LocalError("no site.toml is here or in a folder here; name the settings of each project")
    rows = [_row(path) for path in found]
    _note_ports(rows)
    if as_json:
        echo_json(rows)
        return
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("federation", "site"):
        table.add_column(column, overflow="fold")
    for column in ("state", "entries", "alive", "sent", "on disk", "port"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(row["federation"], row["site"], say(row["state"]), *_cells(row))
    Screen().print(table)
    for row in rows:
        for name, change in row["gain"].items():
            tell(f"{row['federation']}, {row['site']}: {name} {100 * change:+.1f} % against best local")
    for row in rows:
        for problem in row["problems"]:
            tell(f"{row['config']}: {problem}")


def _cells(row: dict[str, Any]) -> list[str]:
    from kmel_p2p.site.observe.status import bytes_text

    entries = "" if row["entries"] is None else f"{row['entries']}/{row['entry_limit']}"
    reachable = "" if row["reachable"] is None else f"{row['reachable']}/{row['others']}"
    return [entries, reachable, bytes_text(row["bytes_out"]), bytes_text(row["disk_bytes"]), row["port"]]


def _row(path: Path) -> dict[str, Any]:
    """Plain data of one project; what is wrong with it is told in `problems`."""
    from kmel_p2p.agreement.charter import CharterDocument
    from kmel_p2p.agreement.errors import KmelError
    from kmel_p2p.site.config import load_config, read_text
    from kmel_p2p.site.control.client import ControlClient, NotRunningError

    row: dict[str, Any] = {
        "config": str(path), "federation": "", "site": "", "state": "unknown", "entries": None, "entry_limit": None,
        "reachable": None, "others": None, "bytes_out": None, "disk_bytes": None, "gain": {}, "port": "",
        "problems": [],
    }  # fmt: skip
    try:
        config = load_config(path)
        row["site"], row["port"] = config.site.name, _port(config)
        row["disk_bytes"] = _size(config.site.state_dir)
        row["gain"] = _gain(config.site.state_dir)
        charter = CharterDocument.parse(read_text(config.site.charter, "no charter yet"), str(config.site.charter))
        row["federation"] = charter.charter.federation
        with ControlClient(config.site.state_dir) as client:
            status = client.status()
        row |= {
            "state": status.phase.value,
            "entries": status.averaging.published,
            "entry_limit": status.averaging.entry_limit,
            "reachable": status.reachable,
            "others": len(status.members),
            "bytes_out": status.egress.bytes_out,
        }
        row["problems"] += [alarm.text for alarm in status.alarms]
    except NotRunningError:
        row["state"] = "not running"
    except KmelError as error:
        row["problems"].append(str(error))
    return row


def ports_beside(directory: Path) -> dict[str, Path]:
    """Port -> settings of a project in another folder beside `directory` that listens there.

    Settings that cannot be read count for nothing here: their own commands say what is wrong.
    """
    from kmel_p2p.agreement.errors import KmelError
    from kmel_p2p.site.config import load_config

    own, taken = directory.absolute() / "site.toml", {}
    for path in sorted(own.parent.parent.glob("*/site.toml")):
        try:
            if path != own and (port := _port(load_config(path))):
                taken[port] = path
        except KmelError:
            continue
    return taken


def free_port(taken: Mapping[str, Path], first: int) -> int:
    """The lowest port from `first` on that is not among those of `ports_beside`."""
    return next(port for port in range(first, first + len(taken) + 1) if str(port) not in taken)


def _port(config: SiteConfig) -> str:
    return "" if config.network.outbound_only else config.network.bind.rpartition(":")[2]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _gain(state_dir: Path) -> dict[str, float]:
    """Assay endpoint -> change of the error on held-out compounds: the stack with the federation, over best local."""
    path = state_dir / "model" / "card.json"
    try:
        endpoints = json.loads(path.read_text("utf-8"))["result"]["endpoints"]
        found = {}
        for endpoint in endpoints:
            sides = endpoint["stacked"]
            alone, together = sides["best_local"]["held_out"], sides["stack"]["held_out"]
            if alone > 0:
                found[str(endpoint["name"])] = round(together / alone - 1, 4)
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # no model yet, or one of another version: `kmel-peer evaluate` says more
    return found


def _note_ports(rows: Sequence[dict[str, Any]]) -> None:
    """Tell which projects want the same port: the second to start would not get it."""
    by_port = defaultdict(list)
    for row in rows:
        if row["port"] not in ("", "0"):
            by_port[row["port"]].append(row)
    for port, sharing in by_port.items():
        for row in sharing if len(sharing) > 1 else ():
            others = ", ".join(other["config"] for other in sharing if other is not row)
            row["problems"].append(f"network.bind has port {port}, as in {others}: give each project a port of its own")
