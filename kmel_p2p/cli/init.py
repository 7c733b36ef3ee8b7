"""`kmel-peer init`: a key and settings to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import DIRECTORY

_TEMPLATE = """\
# Settings of one site. Paths are relative to this file. `kmel-peer config` prints all of them with defaults.

[site]
name = "{name}"                   # as in the charter
key_file = "site.key"             # secret, mode 0600
charter = "charter.toml"          # signed by every founding site
state_dir = "state"               # store, logs, trainer files, models
{amendments}
[network]
bind = {bind}       # the one port of this site
advertise = {advertise}                    # how others reach it, e.g. ["tcp://peer.example.org:7700"]; \
empty: as in the charter
preset = "wan"                    # lan | wan | sim: how soon a silent site counts as unreachable
# neighbours = ["south"]          # where sites exchange shares over few links: send shares to these alone
outbound_only = {outbound_only}             # true: no port is opened; this peer dials, others answer on its connections
proxy = {proxy}                        # "socks5://proxy.example:1080": dial the others through it

[data]
format = "wide"                   # wide (CSV, Parquet) | sdf | kmelloddy | tuner; docs/data.md shows each
path = {path}
smiles_column = {smiles_column}
# require_approval = true         # train only on the dataset that `kmel-peer data approve` was given for
# separator = ";"                 # of CSV files; and decimal = ",", encoding = "cp949" where a spreadsheet made them
# structure_cache = "../structures"   # where prepared structures are kept; projects of one machine may share it
# test = "held_out.csv"           # optional, same layout: used for scoring only
# embargo = {{ compounds = "never_use.txt", project_column = "project", projects = ["X7"] }}  # stays out of training

[data.columns]                    # assay endpoint of the charter = column of the file, and its unit
{columns}
# "ic50" = {{ column = "Value", relation_column = "Relation", unit_column = "Units" }}   # docs/data.md has more

[resources]
threads = 0                       # of the trainer; 0: all cores
featurise_processes = 0           # for preparing structures; 0: all cores
nice = 5                          # priority the trainer gives up

[ledger]
on_complete = "stay"              # stay: keep relaying after the run; exit: end with code 0
hold = false                      # true: every entry waits for `kmel-peer held approve`

[log]
level = "info"                    # debug | info | warning | error
format = "json"                   # json | console

[metrics]
listen = ""                       # "127.0.0.1:9477": a live page at /, Prometheus at /metrics, /healthz and /readyz
# token_file = "page-token"       # on a machine that others log in to: a token that page and metrics ask for
"""
"""`configs/site.example.toml` shows it filled in."""


@click.command()
@click.argument("directory", type=DIRECTORY, default=Path(), required=False)
@click.option("--name", required=True, help="Name of this site in the charter: lower case, digits, - and _.")
def init(directory: Path, name: str) -> None:
    """Write site.key (mode 0600) and site.toml into DIRECTORY. Nothing is ever overwritten."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.files import write_new
    from kmel_p2p.site.config import parse_config
    from kmel_p2p.site.keys import create_key

    settings = directory / "site.toml"
    text = site_template(name)
    parse_config(text, settings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot create this directory: {error.strerror}") from error
    for path in (settings, directory / "site.key"):
        if path.exists():
            raise ConfigError(f"{path}: exists already and is not overwritten; choose another directory")
    identity = create_key(directory / "site.key")
    write_new(settings, text.encode(), 0o644)
    tell(f"Wrote {directory / 'site.key'} (keep it secret, and keep a copy) and {settings}.")
    tell("Give this line to whoever drafts the charter:")
    click.echo(f"  --site {name}={identity.key.hex()}")


def site_template(
    name: str,
    *,
    bind: str = "tcp://0.0.0.0:7700",
    advertise: Sequence[str] = (),
    outbound_only: bool = False,
    proxy: str = "",
    amendments: Sequence[str] = (),
    path: str = "measurements.csv",
    smiles_column: str = "smiles",
    columns: Mapping[str, tuple[str, str]] = MappingProxyType({"solubility": ("logS", "log10(mol/L)")}),
) -> str:
    """Settings of a site called `name`, as TOML with comments.

    Args:
        bind, advertise, outbound_only, proxy: as in `[network]`.
        amendments: files, in order.
        path, smiles_column: as in `[data]`.
        columns: assay endpoint -> column and unit.
    """
    listed = f"amendments = [{', '.join(map(_quoted, amendments))}]\n" if amendments else ""
    return _TEMPLATE.format(
        name=name,
        bind=_quoted(bind),
        advertise=f"[{', '.join(map(_quoted, advertise))}]",
        outbound_only=str(outbound_only).lower(),
        proxy=_quoted(proxy),
        amendments=listed,
        path=_quoted(path),
        smiles_column=_quoted(smiles_column),
        columns="\n".join(
            f"{_quoted(endpoint)} = {{ column = {_quoted(column)}, unit = {_quoted(unit)} }}"
            for endpoint, (column, unit) in columns.items()
        ),
    )


def _quoted(text: str) -> str:
    """A TOML string: JSON writes the same escapes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
