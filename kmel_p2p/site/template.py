"""The commented settings that `kmel-peer init` writes; `configs/site.example.toml` shows them."""

from __future__ import annotations

_TEMPLATE = """\
# Settings of one site. Paths are relative to this file. `kmel-peer config` prints all of them with defaults.

[site]
name = "{name}"                   # as in the charter
key_file = "site.key"             # secret, mode 0600
charter = "charter.toml"          # signed by every founding site
state_dir = "state"               # store, logs, trainer files, models

[network]
bind = "tcp://0.0.0.0:7700"       # the one port of this site
advertise = []                    # how others reach it, e.g. ["tcp://peer.example.org:7700"]; empty: as in the charter
preset = "wan"                    # lan | wan | sim: how soon an unreachable site counts as such
# neighbours = ["south"]          # averaging mode pushsum, links that reach few sites: send shares to these alone
outbound_only = false             # true: no port is opened; this peer dials, others answer on its connections

[data]
format = "wide"                   # wide (CSV, Parquet) | sdf | kmelloddy | tuner; docs/data.md shows each
path = "measurements.csv"
smiles_column = "smiles"
# separator = ";"                 # of CSV files; and decimal = ",", encoding = "cp949" where a spreadsheet made them
# test = "held_out.csv"           # optional, same layout: used for scoring only
# embargo = {{ compounds = "never_use.txt", project_column = "project", projects = ["X7"] }}  # stays out of training

[data.columns]                    # assay endpoint of the charter = column of the file, and its unit
"solubility" = {{ column = "logS", unit = "log10(mol/L)" }}
# "ic50" = {{ column = "Value", relation_column = "Relation", unit_column = "Units" }}   # docs/data.md has more

[resources]
threads = 0                       # of the trainer; 0: all cores
featurise_processes = 0           # for preparing structures; 0: all cores
nice = 5                          # priority the trainer gives up

[ledger]
on_complete = "stay"              # stay: keep relaying after the run; exit: end with code 0
hold = false                      # true: every entry waits for `kmel-peer approve`

[log]
level = "info"                    # debug | info | warning | error
format = "json"                   # json | console
"""


def site_template(name: str) -> str:
    """Settings of a site called `name`, as TOML with comments."""
    return _TEMPLATE.format(name=name)
