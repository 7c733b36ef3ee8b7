"""Damaged and made-up input for every decoder and reader of files: `python benchmarks/fuzz.py --cases N [--json]`.

Each case is a whole sample with its bytes or its structure changed (tests/testbed/fuzzing). A reader gives a value or
raises an error of ours; anything else is a defect.

  cases        in all, over all readers
  untyped      errors that were none of ours (goal 0); each kind is printed with an input that leads to it
  slowest_ms   processor time of the slowest case
  by_target    cases, untyped errors and processor seconds of each reader

The file of `--json` is written after each reader; two runs of half the cases with two seeds use two processors.

`--atheris SECONDS` has libFuzzer look for more, led by the branches of the code that it reaches; it needs the extra
`fuzz` and takes the readers one after another, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.measure import ROOT, Goal, at_most, parse, publish, say, this_machine
from kmel_p2p.agreement.errors import ConfigError
from tests.testbed.fuzzing.targets import Target, targets

SMOKE: dict[str, Any] = {"cases": 200}
GOALS: dict[str, Goal] = {"untyped": at_most(0)}
SHOWN_BYTES = 300
"""Of an input that leads to a defect; the seed gives the whole again."""


@dataclass
class Outcome:
    """What the cases of one reader did."""

    cases: int = 0
    untyped: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    kinds: dict[str, str] = field(default_factory=dict)
    """Where and which error -> an input."""

    def try_case(self, target: Target, data: bytes) -> None:
        """One case."""
        began = time.process_time()
        error = target.untyped(data)
        took = time.process_time() - began
        self.cases += 1
        self.seconds += took
        self.slowest_s = max(self.slowest_s, took)
        if error is not None:
            self.untyped += 1
            self.kinds.setdefault(f"{place_of(error)}: {error!r:.150}", repr(data[:SHOWN_BYTES]))


def place_of(error: BaseException) -> str:
    """File and line of this program that an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "kmel_p2p" in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def run(
    every: Sequence[Target], cases: int, seed: int, so_far: Callable[[dict[str, Outcome]], None]
) -> dict[str, Outcome]:
    """`cases` over all readers, by their shares; `so_far` is given what there is after each reader."""
    shares = sum(target.share for target in every)
    found: dict[str, Outcome] = {}
    for target in every:
        rng = random.Random(f"{seed} {target.name}")
        outcome = found[target.name] = Outcome()
        for _ in range(max(1, round(cases * target.share / shares))):
            outcome.try_case(target, target.case(rng))
        say(f"{target.name}: {outcome.cases} cases, {outcome.untyped} untyped, {outcome.seconds:.1f} s")
        so_far(found)
    return found


def figures_of(found: dict[str, Outcome]) -> dict[str, Any]:
    """Of the readers that are done."""
    return {
        "cases": sum(outcome.cases for outcome in found.values()),
        "untyped": sum(outcome.untyped for outcome in found.values()),
        "slowest_ms": 1000 * max((outcome.slowest_s for outcome in found.values()), default=0.0),
        "by_target": {
            name: {"cases": o.cases, "untyped": o.untyped, "seconds": round(o.seconds, 2)} for name, o in found.items()
        },
    }


def keep(output: str | None, readers: int, found: dict[str, Outcome]) -> None:
    """Write what there is to the file of `--json`, so that a run that is ended early has shown something."""
    if output is not None and output != "-" and len(found) < readers:
        unfinished = {**figures_of(found), "readers_left": readers - len(found)}
        Path(output).write_text(json.dumps(unfinished, indent=2) + "\n", encoding="utf-8")


UNDER_ATHERIS = """
import atheris
with atheris.instrument_imports(include=["kmel_p2p"]):
    import tests.testbed.fuzzing.targets
from benchmarks.fuzz import led_by_branches
led_by_branches({name!r}, {seconds})
"""
"""A program of its own: only modules that are imported under its watch show their branches."""


def led_by_branches(name: str, seconds: int) -> None:
    """Have atheris look for a defect of one reader; ends the process with its finding."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="kmel-atheris-"))
    (target,) = [made for made in targets(folder) if made.name == name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(target.samples):
        (corpus / str(number)).write_bytes(sample)

    def look(data: bytes) -> None:
        if (error := target.untyped(data)) is not None:
            raise error

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=65536", str(corpus)], look)
    atheris.Fuzz()


def run_atheris(names: Sequence[str], seconds: int) -> int:
    """Readers in which atheris found a defect."""
    if importlib.util.find_spec("atheris") is None:
        raise ConfigError("--atheris needs the package atheris: pip install 'kmel-p2p[fuzz]'")
    broken = 0
    for name in names:
        program = UNDER_ATHERIS.format(name=name, seconds=seconds)
        with tempfile.TemporaryDirectory(prefix="kmel-atheris-") as temporary:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": temporary}
            done = subprocess.run([sys.executable, "-c", program], cwd=temporary, env=environment, check=False)
        broken += done.returncode != 0
        say(f"{name}: {'a defect, see above' if done.returncode else 'nothing found'}")
    return broken


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--only", default="", metavar="WORD", help="readers whose name has this word")
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS", help="for each reader, after the cases")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="kmel-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = [target for target in targets(Path(folder)) if options.only in target.name]
        found = run(every, options.cases, options.seed, partial(keep, options.json, len(every)))
    for name, outcome in found.items():
        for kind, example in outcome.kinds.items():
            say(f"{name}: {kind}\n    {example}")
    figures = figures_of(found)
    if options.atheris:
        figures["broken_by_atheris"] = run_atheris([target.name for target in every], options.atheris)
    publish(f"readers under {figures['cases']:,} damaged inputs", machine, figures, GOALS, options.json)
    return int(figures["untyped"] > 0 or figures.get("broken_by_atheris", 0) > 0)


if __name__ == "__main__":
    sys.exit(main())
