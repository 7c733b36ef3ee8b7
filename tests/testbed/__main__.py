"""Play a scenario file in virtual time: `python -m tests.testbed FILE [--seed N] [--json]`.

Exit codes are those of `kmel-peer`: 0 when every bound holds, 8 when one does not, 3 for a wrong file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from kmel_p2p.cli.exits import ExitCode, report
from kmel_p2p.cli.options import FILE, echo_json, json_option
from tests.testbed.membership.run import run_scenario


@click.command()
@click.argument("scenario", type=FILE)
@click.option("--seed", type=click.IntRange(min=0), help="Play this seed alone; default: all seeds of the file.")
@json_option
def play(scenario: Path, seed: int | None, as_json: bool) -> int:
    """Play the scenario file SCENARIO over its seeds and hold its figures against their bounds."""
    result = run_scenario(scenario, seed)
    if as_json:
        echo_json(result.as_dict())
    else:
        Console().print(result.table())
    return ExitCode.OK if result.ok else ExitCode.DOES_NOT_HOLD


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        code = play.main(args=list(arguments), prog_name="python -m tests.testbed", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt) as error:
        return report(KeyboardInterrupt(*error.args))
    except Exception as error:
        return report(error)
    return int(code) if isinstance(code, int) else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
