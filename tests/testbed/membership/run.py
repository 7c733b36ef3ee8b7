"""Run a scenario file over its seeds and hold its figures against their bounds."""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.parallel import usable_cores
from tests.testbed.membership.action import micros
from tests.testbed.membership.checks import Checks
from tests.testbed.membership.federation import Federation
from tests.testbed.membership.figures import Bound, measure, percentile
from tests.testbed.membership.observe import Observer
from tests.testbed.membership.scenario import Scenario, load_scenario, naming
from tests.testbed.membership.stage import Stage

if TYPE_CHECKING:
    from rich.table import Table

WORKERS = 2
SEEDS_PER_TASK = 5


@dataclass(frozen=True, slots=True)
class SeedRun:
    """What one seed gave: a value per bound (and per bound in the baseline run), and the hash of every step."""

    seed: int
    values: tuple[float, ...]
    baseline: tuple[float, ...]
    trace_hash: str


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One figure beside its bound."""

    figure: str
    over: str
    value: float
    bound: str
    ok: bool
    worst_seed: int


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """All figures of a scenario."""

    title: str
    path: str
    seeds: tuple[int, ...]
    lines: tuple[FigureLine, ...]
    trace_hash: str
    runs: tuple[SeedRun, ...] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether every bound holds."""
        return all(line.ok for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "title": self.title,
            "scenario": self.path,
            "seeds": list(self.seeds),
            "ok": self.ok,
            "trace_hash": self.trace_hash,
            "figures": [
                {
                    "figure": line.figure,
                    "over": line.over,
                    "value": line.value if abs(line.value) != float("inf") else None,
                    "bound": line.bound,
                    "ok": line.ok,
                    "worst_seed": line.worst_seed,
                }
                for line in self.lines
            ],
        }

    def table(self) -> Table:
        """For people."""
        from rich.table import Table

        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else f"seed {self.seeds[0]}"
        table = Table(title=f"{self.title} ({seeds}, trace {self.trace_hash[:16]})")
        for column in ("figure", "over seeds", "value", "bound", "", "worst seed"):
            table.add_column(column)
        for line in self.lines:
            mark = "holds" if line.ok else "BROKEN"
            table.add_row(line.figure, line.over, f"{line.value:.4g}", line.bound, mark, str(line.worst_seed))
        return table


def run_scenario(path: Path, seed: int | None = None, executor: Executor | None = None) -> ScenarioResult:
    """Run a scenario file.

    Args:
        path: the file.
        seed: only this seed; None runs seeds 1 to the file's number.
        executor: where seeds run; None makes one of `WORKERS` processes when there are many.

    Raises:
        ConfigError: the file is wrong.
        Bug: a check failed; the message has the seed and the newest steps.
    """
    scenario = load_scenario(path)
    seeds = (seed,) if seed is not None else tuple(range(1, scenario.seeds + 1))
    if len(seeds) == 1:
        runs = run_seeds(path, seeds)
    elif executor is not None:
        runs = _run_many(path, seeds, executor)
    else:
        # Spawned, not forked: the caller may have threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(WORKERS, usable_cores()), mp_context=context) as pool:
            runs = _run_many(path, seeds, pool)
    return judge(scenario, path, runs)


def _run_many(path: Path, seeds: tuple[int, ...], executor: Executor) -> list[SeedRun]:
    tasks = [seeds[i : i + SEEDS_PER_TASK] for i in range(0, len(seeds), SEEDS_PER_TASK)]
    futures = [executor.submit(run_seeds, path, task) for task in tasks]
    return [run for future in futures for run in future.result()]


def run_seeds(path: Path, seeds: Iterable[int]) -> list[SeedRun]:
    """Some seeds of a file, one after the other (the unit of work of a process)."""
    scenario = load_scenario(path)
    with naming(path):
        return [run_seed(scenario, seed) for seed in seeds]


def run_seed(scenario: Scenario, seed: int) -> SeedRun:
    """One seed, and its baseline if the scenario has one."""
    stage = play(scenario, seed)
    values = tuple(measure(stage, bound) for bound in scenario.bound)
    baseline: tuple[float, ...] = ()
    if scenario.baseline is not None:
        other = play(scenario, seed, baseline=True)
        baseline = tuple(measure(other, bound) for bound in scenario.bound)
    return SeedRun(seed, values, baseline, stage.network.trace.hash)


def play(scenario: Scenario, seed: int, baseline: bool = False) -> Stage:
    """Run one seed to its end and return the stage as it is then."""
    federation = Federation(scenario.plan(), scenario.membership_settings(baseline), seed)
    observer = Observer(federation)
    checks = Checks(federation)
    federation.network.watch(observer, steps=False)
    federation.network.watch(checks, sends=False)
    stage = Stage(federation, observer, checks, federation.network.generator("scenario"))
    for host in stage.hosts("all"):
        moment = stage.rng.randrange(micros(scenario.start_over_s) + 1)
        federation.network.call_at(moment, lambda host=host: stage.start(host))  # type: ignore[misc]
    left_out = scenario.baseline.without if baseline and scenario.baseline is not None else ()
    for action in scenario.action:
        for moment in action.moments(stage):
            if action.do not in left_out:
                federation.network.call_at(moment, lambda action=action: action.run(stage))  # type: ignore[misc]
    federation.network.run_until(micros(scenario.duration_s))
    return stage


def judge(scenario: Scenario, path: Path, runs: list[SeedRun]) -> ScenarioResult:
    """Hold the figures of all seeds against the bounds."""
    lines = [_line(bound, index, runs) for index, bound in enumerate(scenario.bound)]
    total = hashlib.blake2b("".join(run.trace_hash for run in runs).encode(), digest_size=16).hexdigest()
    trace = runs[0].trace_hash if len(runs) == 1 else total
    return ScenarioResult(scenario.title, str(path), tuple(run.seed for run in runs), tuple(lines), trace, tuple(runs))


def _line(bound: Bound, index: int, runs: list[SeedRun]) -> FigureLine:
    values = [run.values[index] for run in runs]
    value = _aggregate(bound, values, [run.baseline[index] for run in runs if run.baseline])
    pick = min if bound.at_least is not None else max
    worst = pick(runs, key=lambda run: run.values[index]).seed
    low_ok = bound.at_least is None or value >= bound.at_least
    high_ok = bound.at_most is None or value <= bound.at_most
    said = " and ".join(
        f"{word} {limit:g}" for word, limit in ((">=", bound.at_least), ("<=", bound.at_most)) if limit is not None
    )
    return FigureLine(_label(bound), bound.over, value, said, low_ok and high_ok, worst)


def _aggregate(bound: Bound, values: list[float], baseline: list[float]) -> float:
    match bound.over:
        case "max":
            return max(values)
        case "min":
            return min(values)
        case "median":
            return statistics.median(values)
        case "p99":
            return percentile(values, 0.99)
        case "mean":
            return sum(values) / len(values)
        case "sum":
            return sum(values)
        case "baseline ratio":
            # One is added to nothing, so that "fifty times fewer" needs at least fifty in the baseline.
            return sum(baseline) / max(1.0, sum(values))
    raise ConfigError(f"bound on {bound.figure}: {bound.over!r} is no way to combine seeds")


def _label(bound: Bound) -> str:
    parts = [bound.figure.replace("_", " ")]
    parts += [x for x in (bound.event, bound.name) if x]
    if bound.healthy:
        parts.append("among the healthy")
    if bound.subject != "all":
        parts.append(f"about {bound.subject}")
    if bound.after:
        parts.append(f"after {bound.after}")
    return " ".join(parts)
