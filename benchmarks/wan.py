"""Eight sites behind 50 Mbit/s links: how much of their time goes to communication.

    python benchmarks/wan.py [--sites 8] [--megabits 50] [--train-seconds 20] [--rounds 4] [--json FILE]

Real daemons, each in a network namespace of its own; its link is shaped both ways with tbf (with `--delay`, a slow
switch is between them). The trunk has ten million values. A first run finds how many steps take
`--train-seconds` here, with every site training at once; needs root.

  communication_share   1 - (seconds in training) / (seconds from a site's first round to the end of its last), mean
  worst_share           of the site with the largest
  link_share            bits that crossed the busiest link, over what it could carry in that time
  entry_bytes           mean payload
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import TEN_MILLION, all_published, found_federation, rounds_of, until
from benchmarks.parts.measure import Goal, at_most, parse, publish, this_machine
from kmel_p2p.site.observe.status import StatusDocument
from tests.testbed.hosts import Hosts

PORT = 7700
PILOT_STEPS = 3
PILOT_ROUNDS = 2
START_S = 300.0
GOALS: dict[str, Goal] = {"communication_share": at_most(0.05), "worst_share": at_most(0.08)}
SMOKE: dict[str, Any] = {"sites": 2, "steps": 3, "rounds": 2, "hidden": (32, 16)}


@dataclass(frozen=True, slots=True)
class Run:
    """Rounds of every site, as their daemons noted them, and bytes received by each in the meantime."""

    rounds: Sequence[Sequence[dict[str, Any]]]
    received: Sequence[int]
    status: Sequence[StatusDocument]

    def shares(self) -> list[float]:
        """Per site, the part of its time that was not training."""
        return [idle_share(rows) for rows in self.rounds]


def idle_share(rows: Sequence[dict[str, Any]]) -> float:
    """Part of the time from the first round's start to the last one's end in which no round was in training."""
    began = rows[0]["at"] - rows[0]["seconds"]
    wall = rows[-1]["at"] - began
    return 1.0 - sum(row["seconds"] for row in rows) / wall


def run(folder: Path, options: argparse.Namespace, steps: int, rounds: int, deadline_s: float) -> Run:
    """A federation from its start until all entries are everywhere."""
    sites = options.sites
    with Hosts(sites, options.megabits, options.delay) as hosts:
        addresses = [f"tcp://{hosts.address(n)}:{PORT}" for n in range(sites)]
        federation = found_federation(
            folder,
            sites,
            hidden=tuple(options.hidden),
            steps=steps,
            entries=rounds,
            addresses=addresses,
            preset="wan",
            tiny=options.smoke,
        )
        for number, site in enumerate(federation):
            site.prefix = hosts.prefix(number)
        with federation:
            federation.start()
            processes = list(federation)
            status = until(
                "all entries are everywhere", lambda: all_published(processes, rounds, sites), deadline_s, federation
            )
            received = [hosts.received(n) for n in range(sites)]
            return Run([rounds_of(site) for site in processes], received, status)


def steps_in(folder: Path, options: argparse.Namespace) -> int:
    """How many steps take `--train-seconds` here."""
    pilot = run(folder, options, PILOT_STEPS, PILOT_ROUNDS, START_S)
    # The last round: by then nobody is still preparing data or warming up.
    step_s = statistics.median(rows[-1]["seconds"] for rows in pilot.rounds) / PILOT_STEPS
    return max(1, round(options.train_seconds / step_s))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures."""
    steps = options.steps or steps_in(folder / "pilot", options)
    began = time.monotonic()
    deadline_s = START_S + 3 * options.rounds * options.train_seconds
    main = run(folder / "main", options, steps, options.rounds, deadline_s)
    elapsed = time.monotonic() - began
    seconds = [row["seconds"] for rows in main.rounds for row in rows]
    first = min(rows[0]["at"] - rows[0]["seconds"] for rows in main.rounds)
    wall = max(rows[-1]["at"] for rows in main.rounds) - first
    return {
        "sites": options.sites,
        "steps_per_round": steps,
        "train_s_mean": statistics.mean(seconds),
        "wall_s": wall,
        "run_s": elapsed,
        "communication_share": statistics.mean(main.shares()),
        "worst_share": max(main.shares()),
        "link_share": 8 * max(main.received) / (wall * options.megabits * 1e6),
        "received_per_site_mb": statistics.mean(main.received) / 1e6,
        "entry_bytes": statistics.mean(row["payload_bytes"] for rows in main.rounds for row in rows),
        "digests": len({document.averaging.digest for document in main.status}),
        "loop_lag_ms": max(document.process.loop_lag_ms for document in main.status),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--megabits", type=int, default=50)
    parser.add_argument("--delay", type=int, default=0, help="from one site to another, ms one way")
    parser.add_argument("--train-seconds", type=float, default=20.0)
    parser.add_argument("--steps", type=int, help="optimiser steps per round; default: found by a first run")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--hidden", type=int, nargs="+", default=TEN_MILLION, help="widths of the trunk's layers")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    folder = Path(tempfile.mkdtemp(prefix="kmel-wan-"))
    try:
        figures = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    publish(f"{options.sites} sites at {options.megabits} Mbit/s", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
