"""What every benchmark needs: its command line and output, its goals, the machine it ran on, what a process uses."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import rich.console
import rich.table

from kmel_p2p.files import BY_UMASK, write_whole

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: where benchmarks and testbed can be imported."""

BUSY_LOAD = 0.5
"""Load per processor, before a run, above which its times are marked as taken under load."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach."""

    relation: str
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"


def at_least(bound: float) -> Goal:
    return Goal(">=", bound)


def at_most(bound: float) -> Goal:
    return Goal("<=", bound)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when a run began, and how busy the machine was with other things."""

    date: str
    processor: str
    processors: int
    memory_gb: float
    python: str
    load_before: float

    @property
    def busy(self) -> bool:
        """Whether times of this run are to be read with care."""
        return self.load_before / self.processors > BUSY_LOAD


def this_machine() -> Machine:
    """Call it before the work: afterwards the load is one's own."""
    return Machine(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processor=_processor_name(),
        processors=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        python=platform.python_version(),
        load_before=round(os.getloadavg()[0], 2),
    )


def parse(
    parser: argparse.ArgumentParser, smoke: Mapping[str, Any], given: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read a benchmark's command line, with the two options that all have.

    `--json [FILE]` writes the figures as JSON to FILE beside the table, or alone to standard output. `--smoke` makes
    `smoke` the defaults: the smallest size that runs every part.

    Args:
        given: arguments; None takes those of the process.
    """
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--smoke", action="store_true", help="smallest size, to see that it runs; figures mean nothing")
    given = sys.argv[1:] if given is None else given
    if "--smoke" in given:
        parser.set_defaults(**smoke)
    return parser.parse_args(given)


ELSEWHERE = ("data", "cache", "out", "json", "plot", "workers")
"""Options that say where things are and how many processes work, not what is measured."""


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What figures were measured with, for the published document."""
    return {name: value for name, value in vars(arguments).items() if name not in ELSEWHERE}


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def publish(
    title: str,
    machine: Machine,
    figures: Mapping[str, Any],
    goals: Mapping[str, Goal],
    output: str | None,
    details: Sequence[rich.console.RenderableType] = (),
) -> None:
    """Print the table, or the JSON, of one run.

    Args:
        figures: name -> number, or any JSON value; only numbers are shown and compared, those of a group as
            `group.name`. They are the document's keys,
            beside `missed` (names of figures that miss their goal), `under_load` and `machine`.
        output: of `--json`.
        details: shown before the table of figures.
    """
    if output is not None:
        text = json.dumps(_document(machine, figures, goals), indent=2)
        if output == "-":
            print(text)
            return
        _write(output, text)
    rich.console.Console().print(*details, _table(title, machine, figures, goals))


def publish_so_far(
    machine: Machine, figures: Mapping[str, Any], goals: Mapping[str, Goal], output: str | None, left: str
) -> None:
    """Write the figures of what is done to the file of `--json`, so that an interruption costs only the rest.

    Nothing is written where JSON goes to standard output. `publish` replaces the file.

    Args:
        left: what is not done yet; the document's `unfinished`.
    """
    if output is not None and output != "-":
        _write(output, json.dumps({"unfinished": left, **_document(machine, figures, goals)}, indent=2))


def _document(machine: Machine, figures: Mapping[str, Any], goals: Mapping[str, Goal]) -> dict[str, Any]:
    single = singled(figures)
    missed = [name for name, goal in goals.items() if single.get(name) is not None and not goal.met(single[name])]
    return {**figures, "missed": missed, "under_load": machine.busy, "machine": asdict(machine)}


def _write(output: str, text: str) -> None:
    write_whole(Path(output), f"{text}\n".encode(), mode=BY_UMASK)


def singled(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with those of a group as figures of their own, `group.name`."""
    single: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            single.update({f"{name}.{part}": each for part, each in value.items()})
        else:
            single[name] = value
    return single


def _table(title: str, machine: Machine, figures: Mapping[str, Any], goals: Mapping[str, Goal]) -> rich.table.Table:
    load = f", under load ({machine.load_before})" if machine.busy else ""
    caption = f"{machine.date}, {machine.processor}, {machine.processors} processors{load}"
    table = rich.table.Table("figure", "measured", "goal", title=title, caption=caption)
    for name, value in singled(figures).items():
        if not isinstance(value, (int, float)):
            continue
        goal = goals.get(name)
        style = "" if goal is None or goal.met(value) else "[red]"
        table.add_row(name, f"{style}{value:.4g}", "" if goal is None else str(goal))
    return table


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """What a process uses at one moment."""

    at_s: float
    rss_bytes: int
    threads: int
    files: int
    cpu_s: float


def sample_process(pid: int, at_s: float) -> ProcessSample:
    """Resident memory, threads, open files and processor time of a process.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    process = psutil.Process(pid)
    times = process.cpu_times()
    return ProcessSample(
        at_s, process.memory_info().rss, process.num_threads(), process.num_fds(), times.user + times.system
    )


def median_seconds(work: Callable[[], object], prepare: Callable[[], object] = lambda: None, runs: int = 9) -> float:
    """Median wall time of `work` over `runs` runs after one that warms up; `prepare` runs untimed before each."""
    times = []
    for _ in range(runs + 1):
        prepare()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def slope(moments: Sequence[float], values: Sequence[float]) -> float:
    """Theil-Sen slope (median of all pairwise slopes), units of value per unit of time.

    A least-squares line would follow a single jump, such as the allocator's first growth.
    """
    pairs = [
        (values[j] - values[i]) / (moments[j] - moments[i])
        for i in range(len(moments))
        for j in range(i + 1, len(moments))
        if moments[j] > moments[i]
    ]
    if not pairs:
        raise ValueError("a slope needs two moments")
    pairs.sort()
    middle = len(pairs) // 2
    return pairs[middle] if len(pairs) % 2 else (pairs[middle - 1] + pairs[middle]) / 2


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of `values` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-part * len(ordered) // 1) - 1))]


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
