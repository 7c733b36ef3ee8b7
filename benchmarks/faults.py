"""What faults and hostile authors cost a learning federation, over seeds: `python benchmarks/faults.py --seeds 20`.

Twelve sites learn a non-IID task in virtual time (`tests.testbed.ledger.faults`), three of them three times slower.

  faults    the same run without and with 30 % loss, delays of up to two rounds, a power cut and a late site
  hostile   the last site breaks the rules in one way (`tests.testbed.ledger.hostile.Malice`), against a run in which
            it takes no part; figures are of the eleven others

Per kind: runs in which all (honest) sites completed with one digest and nobody honest was blamed, and the difference of
the final score (area under the ROC curve) from the calm run of the same seed: mean and worst.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.parts.measure import Goal, at_least, parse, publish, this_machine
from tests.testbed.ledger.faults import RunFigures, run_hostile, run_learning
from tests.testbed.ledger.hostile import Malice

SITES = 12
KINDS = ("faults", *(malice.name.lower() for malice in Malice))
SCORE_LOSS, HOSTILE_SHARE = 0.02, 0.01
RESIDUAL_GAP = 1e-6
SMOKE: dict[str, Any] = {"seeds": 1, "kinds": ["faults"], "sites": 4}


@dataclass(frozen=True, slots=True)
class Pair:
    """One run and the calm one of the same seed."""

    kind: str
    seed: int
    calm: RunFigures
    run: RunFigures

    @property
    def difference(self) -> float:
        """Of the score; below zero where it was lost."""
        return self.run.score - self.calm.score

    @property
    def sound(self) -> bool:
        """Complete, one digest, nobody honest blamed, no residual lost."""
        return all(
            r.complete and r.digests == 1 and not r.faults and r.worst_gap < RESIDUAL_GAP for r in (self.calm, self.run)
        )

    @property
    def kept_score(self) -> bool:
        """Whether the score is as the goals want it."""
        lost = SCORE_LOSS if self.kind == "faults" else HOSTILE_SHARE * self.calm.score
        return self.difference >= -lost


def pairs(sites: int, kinds: list[str], seeds: range) -> Iterator[Pair]:
    """Every kind for every seed."""
    for seed in seeds:
        if "faults" in kinds:
            calm = run_learning(sites, seed, faults=False)
            yield Pair("faults", seed, calm, run_learning(sites, seed, faults=True))
        hostile = [malice for malice in Malice if malice.name.lower() in kinds]
        calm = run_hostile(sites, seed, None) if hostile else calm
        for malice in hostile:
            yield Pair(malice.name.lower(), seed, calm, run_hostile(sites, seed, malice))


def figures(found: list[Pair]) -> dict[str, Any]:
    """Sums by kind, and every run under `runs`."""
    values: dict[str, Any] = {}
    for kind in KINDS:
        rows = [pair for pair in found if pair.kind == kind]
        if rows:
            values[f"{kind}_seeds"] = len(rows)
            values[f"{kind}_sound"] = sum(pair.sound for pair in rows) / len(rows)
            values[f"{kind}_score_kept"] = sum(pair.kept_score for pair in rows) / len(rows)
            values[f"{kind}_mean_difference"] = sum(pair.difference for pair in rows) / len(rows)
            values[f"{kind}_worst_difference"] = min(pair.difference for pair in rows)
    values["runs"] = [
        {"kind": p.kind, "seed": p.seed, "difference": p.difference, "calm": asdict(p.calm), "run": asdict(p.run)}
        for p in found
    ]
    return values


def main(given: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--sites", type=int, default=SITES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    found: list[Pair] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("runs", total=arguments.seeds * len(arguments.kinds))
        for pair in pairs(arguments.sites, arguments.kinds, range(arguments.first, arguments.first + arguments.seeds)):
            found.append(pair)
            progress.update(task, advance=1, description=f"{pair.kind}, seed {pair.seed}")
    goals: dict[str, Goal] = {f"{kind}_{what}": at_least(1.0) for kind in KINDS for what in ("sound", "score_kept")}
    publish(
        f"faults and hostile authors, {arguments.sites} learning sites", machine, figures(found), goals, arguments.json
    )


if __name__ == "__main__":
    main()
