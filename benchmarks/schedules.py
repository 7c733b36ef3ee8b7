"""Random schedules over whole peers in virtual time: `python benchmarks/schedules.py --seeds 20000 --workers 2`.

Each seed is a federation of three to six peers with the shipped protocol, store, gate and reporting; what happens to
it is drawn (`tests.testbed.peers.schedule`): cut networks, power cuts, lost, old and copied disks, clocks, amendments,
hostile members. An oracle (`tests.testbed.peers.oracle`) says what does not hold.

  violations          schedules in which something did not hold; each is named, and with `--keep` shrunk to a file
  marks_missed        rare branches that no seed reached; counts as missed from 1,000 seeds on
  longest_liveness_s  virtual seconds from healing until the run was over everywhere, the longest
  seeds_per_minute    of processor time
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.parts.measure import Goal, at_most, parse, publish, say, this_machine
from tests.testbed.peers.marks import missed
from tests.testbed.peers.run import Played, play
from tests.testbed.peers.schedule import Schedule, made_up, shrunk

ENOUGH_FOR_MARKS = 1000
GOALS: dict[str, Goal] = {"violations": at_most(0), "longest_liveness_s": at_most(900)}
SMOKE: dict[str, Any] = {"seeds": 2}


def main(given: Sequence[str] | None = None) -> int:
    """Run it; exit code 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--often", nargs="*", default=[], metavar="KIND", help="happenings to draw more often")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="shrink what fails, and write it into this directory")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    reached: Counter[str] = Counter()
    wrong: dict[int, list[str]] = {}
    longest_s = processor_s = 0.0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for played, took_s in played_seeds(seeds, arguments.often, arguments.workers):
        processor_s += took_s
        reached.update(played.reached.keys())
        longest_s = max(longest_s, played.liveness_s or 0.0)
        if played.violations:
            wrong[played.schedule.seed] = list(played.violations)
            say(f"seed {played.schedule.seed}: {'; '.join(played.violations)[:1000]}")
            if arguments.keep is not None:
                say(f"shrunk to {keep(played, arguments.keep)}")
    marks = missed(reached)
    goals = {**GOALS, **({"marks_missed": at_most(0)} if arguments.seeds >= ENOUGH_FOR_MARKS else {})}
    figures = {
        "seeds": arguments.seeds,
        "violations": len(wrong),
        "marks_missed": len(marks),
        "longest_liveness_s": longest_s,
        "seeds_per_minute": 60 * arguments.seeds / processor_s,
        "missed_marks": marks,
        "violated": {str(seed): texts for seed, texts in wrong.items()},
    }
    publish("schedules", machine, figures, goals, arguments.json)
    return 1 if wrong or ("marks_missed" in goals and marks) else 0


def played_seeds(seeds: range, often: Sequence[str], workers: int) -> Iterator[tuple[Played, float]]:
    """Each seed's outcome, and the processor time that it took."""
    if workers == 1:
        yield from map(partial(timed, often=often), seeds)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(timed, often=often), seeds)


def timed(seed: int, often: Sequence[str] = ()) -> tuple[Played, float]:
    """Play the schedule of a seed."""
    began = time.process_time()
    return play(made_up(seed, often)), time.process_time() - began


def keep(played: Played, folder: Path) -> Path:
    """Shrink a failing schedule as long as its first violation stays, and write it as a file."""
    kind = kind_of(played.violations[0])

    def fails(schedule: Schedule) -> bool:
        return kind in map(kind_of, play(schedule).violations)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{played.schedule.seed}.toml"
    path.write_text(shrunk(played.schedule, fails).render(), encoding="utf-8")
    return path


def kind_of(violation: str) -> str:
    """The first word of a violation."""
    return violation.partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
