"""Kill -9 at random moments of a real federation of three peers: `python benchmarks/kills.py --kills 50 --seed 1`.

See `tests.testbed.kills` for what is drawn and what must hold. Small trunk and short rounds, so that a good
part of the kills falls into storing and sending rather than training. With `--damage 0.5`, half of the killed daemons
find their disk lost or replaced by an old copy, noticed or not.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.parts.daemons import found_federation
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, this_machine
from tests.testbed.damage import KINDS
from tests.testbed.kills import KillPlan, kill_at_random

SITES = 3
GOALS: dict[str, Goal] = {
    "digests": at_most(1),
    "vectors": at_most(1),
    "missing": at_most(0),
    "contradictions": at_most(0),
    "doubled": at_most(0),
    "problems": at_most(0),
    "books_checked": at_least(1),
    "worst_gap": at_most(1e-3),
}
SMOKE: dict[str, Any] = {"kills": 1, "pause": 0.5, "steps": 2, "sites": 2, "damage": 1.0}


def main(given: Sequence[str] | None = None) -> int:
    """Run it; exit code 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps per entry")
    parser.add_argument("--pause", type=float, default=4.0, help="longest pause before a kill, seconds")
    parser.add_argument("--retain", type=int, default=1024, help="entries kept of each site; few: they fold, unseen")
    parser.add_argument("--damage", type=float, default=0.0, help="share of killed daemons whose disk is lost or old")
    parser.add_argument("--out", type=Path, help="keep the sites' directories here")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    columns = (TextColumn("kills"), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as scratch,
        Progress(*columns, console=Console(stderr=True)) as progress,
        found_federation(
            (arguments.out or Path(scratch)) / "run",
            arguments.sites,
            hidden=(64, 32),
            steps=arguments.steps,
            entries=1_000_000,
            seed=arguments.seed,
            preset="sim",
            retain=arguments.retain,
            tiny=arguments.smoke,
        ) as federation,
    ):
        task = progress.add_task("kills", total=arguments.kills)
        plan = KillPlan(arguments.kills, longest_pause_s=arguments.pause, damage_share=arguments.damage)
        found = kill_at_random(federation, plan, arguments.seed, lambda done: progress.update(task, completed=done))
    figures = {
        "kills": len(found.kills),
        "seconds": round(found.seconds, 1),
        "entries": found.entries,
        "digests": found.digests,
        "vectors": found.vectors,
        "missing": found.missing,
        "contradictions": found.contradictions,
        "doubled": found.doubled,
        "problems": len(found.problems),
        "books_checked": found.looks,
        "books_unseen": found.unseen,
        "worst_gap": max(found.balances.values(), default=math.inf),
        "slowest_restart_s": max(found.restart_s, default=0.0),
        **{f"disk {kind}": sum(what == kind for _, what in found.damages) for kind in KINDS if arguments.damage},
        **{f"killed {kind}": count for kind, count in found.by_kind.items()},
    }
    publish(f"kill -9 at random moments of {arguments.sites} real peers", machine, figures, GOALS, arguments.json)
    for problem in found.problems:
        Console(stderr=True).print(problem)
    return 0 if all(goal.met(float(figures[name])) for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
