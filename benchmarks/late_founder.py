"""How soon a founder that starts late takes part: `python benchmarks/late_founder.py --late 75 --json FILE`.

Real peers of the solubility data on one machine. All founders but one are there, and their operators do not wait for
the last one (`kmel-peer begin`). It starts its peer when the run has gone on for `--late` seconds, or is over. Seconds
from that start:

  answers_s   until its peer answers `status`
  ready_s     until its trainer has prepared its data
  entry_s     until its first entry is stored
  counted_s   until that entry is in the ledger of every other founder, and so in its trunk

Then all go on: `entries_left` is how many entries fewer than the charter allows the late founder had published when
everybody was done, and `others_extended` whether the others went on beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import all_published, found_federation, until
from benchmarks.parts.measure import Goal, at_most, parse, publish, say, this_machine
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status import StatusDocument

GOALS: dict[str, Goal] = {"counted_s": at_most(60), "entries_left": at_most(0)}
SMOKE: dict[str, Any] = {"sites": 3, "entries": 4, "steps": 2, "late": 1.0}
DEADLINE_S = 240.0


def main(given: Sequence[str] | None = None) -> int:
    """Run it; exit code 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--entries", type=int, default=40, help="entries that each site may publish")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps per entry")
    parser.add_argument("--late", type=float, default=75.0, help="seconds by which the last founder starts later")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    with (
        tempfile.TemporaryDirectory() as scratch,
        found_federation(
            Path(scratch) / "run",
            options.sites,
            hidden=(64, 32),
            steps=options.steps,
            entries=options.entries,
            seed=options.seed,
            preset="sim",
            tiny=options.smoke,
        ) as federation,
    ):
        figures = measure(federation, options.late, options.entries)
    publish(f"a founder that starts {options.late:g} s late", machine, figures, GOALS, options.json)
    return 0 if all(goal.met(float(figures[name])) for name, goal in GOALS.items()) else 1


def measure(federation: LocalFederation, late_s: float, entries: int) -> dict[str, Any]:
    """All figures."""
    *punctual, late = federation
    for site in punctual:
        site.start()
    others = len(punctual)
    until("the others are ready", lambda: all(trains(site.status()) for site in punctual), DEADLINE_S, federation)
    say("the others begin")
    for site in punctual:
        site.request("begin", timeout_s=60.0)
    until("the others have begun", lambda: all_published(punctual, 1, others), DEADLINE_S, federation)
    time.sleep(late_s)
    before = [published(site, site.name) for site in punctual]
    say(f"{late.name} starts; the others have published {before}")
    began = time.monotonic()
    late.start()

    def seconds(what: str, probe: Callable[[], bool]) -> float:
        until(what, probe, DEADLINE_S, federation)
        return round(time.monotonic() - began, 1)

    figures: dict[str, Any] = {
        "late_s": late_s,
        "entries_of_others": min(before),
        "answers_s": seconds("the late founder answers", lambda: late.status() is not None),
        "ready_s": seconds("its trainer is ready", lambda: trains(late.status())),
        "entry_s": seconds("it has published", lambda: published(late, late.name) >= 1),
        "counted_s": seconds(
            "the others hold its first entry", lambda: all(published(site, late.name) >= 1 for site in punctual)
        ),
    }
    say(f"its first entry counts after {figures['counted_s']} s")
    seconds("all have published what they may", lambda: all(done(site.status()) for site in federation))
    at_end = published(late, late.name)
    return {
        **figures,
        "entries_left": max(0, entries - at_end),
        "others_extended": min(published(site, site.name) for site in punctual) > entries,
        "seconds": round(time.monotonic() - began, 1),
    }


def published(site: SiteProcess, author: str) -> int:
    """Entries of an author that a site holds."""
    status = site.status()
    return status.averaging.vector.get(author, 0) if status is not None else 0


def trains(status: StatusDocument | None) -> bool:
    """Whether the trainer has its data."""
    return status is not None and status.trainer.state in ("idle", "training", "finishing")


def done(status: StatusDocument | None) -> bool:
    """Whether a site trains no more."""
    return status is not None and status.phase.value in ("listening", "complete")


if __name__ == "__main__":
    sys.exit(main())
