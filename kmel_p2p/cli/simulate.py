"""`kmel-peer simulate`: a whole federation of real peers on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.options import DIRECTORY, FILE, echo_json, json_option


@click.command()
@click.argument("config", type=FILE, required=False)
@click.option("--out", type=DIRECTORY, help="Where runs, logs and the report go; default: runs/<name of the file>.")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the seed of the file.")
@json_option
def simulate(config: Path | None, out: Path | None, seed: int | None, as_json: bool) -> int:
    """Start the sites of CONFIG as separate processes, wait until they are done, and write report.html.

    Without CONFIG, run the demo: four sites train one model of aqueous solubility (extra demo).
    """
    from kmel_p2p.cli.screen import Screen
    from kmel_p2p.simulate.config import demo_config
    from kmel_p2p.simulate.launcher import simulate as run

    console = Screen(stderr=as_json)
    if not console.is_terminal:
        # A log file has no width; tables must not be cut at 80 columns there.
        console = Screen(stderr=as_json, width=120)
    config = config or demo_config()
    report = run(config, out or Path("runs") / config.stem, seed, console)
    if as_json:
        echo_json(report)
    return ExitCode.OK
