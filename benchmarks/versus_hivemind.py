"""The same model, the same four shards: trained with hivemind's averager, and with ours.

    python benchmarks/versus_hivemind.py [--rounds 40] [--steps 10] [--json FILE]     needs root (a network namespace)

Every system trains the same network on the same shards of the solubility data, with the same optimiser, batches,
schedule and rounds; one thread per peer, all four peers on this machine, in a network namespace of their own whose
loopback interface counts the bytes. hivemind averages the whole trunk with all four peers after every round (fp16, then
8-bit).
Ours are four real daemons. The target is the best RMSE on the common test compounds that every system reached at every
peer, plus 1 %. The script makes a virtual environment with hivemind 1.1.12 in `build/hivemind` on first use, unless
`--ours-only` (or `--smoke`) leaves hivemind out.

  <system>_bytes_per_peer     received by a peer until every peer is at the target, start-up left out
  <system>_seconds            from the first round's start until then
  <system>_bytes_per_round    received by a peer per round over the whole run
  bytes_ratio, time_ratio     hivemind's 8-bit over ours
  kill_ours_*                 SIGKILL of one of four daemons in the middle of a run: the longest time between two rounds
                              of a survivor after it, against the median before it; different digests at the end
  kill_hivemind_*             SIGKILL of one of four peers while they average 20 M values at 8 bits, with its default
                              timeouts and with short ones, at two moments: survivors that returned within 60 s, those
                              that averaged, and different models among them (1 is agreement)
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import all_published, found_federation, rounds_of, until
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, this_machine
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status import StatusDocument
from tests.testbed.hosts import Hosts

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "hivemind"
REQUIREMENTS = ("hivemind==1.1.12", "numpy<2.4")
PEERS = 4
HIDDEN = (512, 256)
DEADLINE_S = 1200.0
KILL_ROUNDS = 20
KILL_AFTER_S = (0.2, 0.45)
GIVE_UP_S = 60.0
GOALS: dict[str, Goal] = {
    "bytes_ratio": at_least(25.0),
    "time_ratio": at_least(1.0),
    "kill_ours_gap_over_interval": at_most(2.0),
    "kill_ours_digests": at_most(1.0),
}
SMOKE: dict[str, Any] = {"rounds": 2, "steps": 2, "ours_only": True}


@dataclass(frozen=True, slots=True)
class Course:
    """What one system did. Times are those of the wall clock.

    Attributes:
        started: when the first round began.
        curves: per peer, (time, RMSE on the test compounds).
        traffic: (time, bytes received by all peers so far).
        rounds: of each peer.
    """

    started: float
    curves: Sequence[Sequence[tuple[float, float]]]
    traffic: Sequence[tuple[float, int]]
    rounds: int

    @property
    def best(self) -> float:
        """RMSE that every peer reached."""
        return max(min(score for _, score in curve) for curve in self.curves)

    def reached(self, target: float) -> float:
        """When the last peer reached the target."""
        return max(next(at for at, score in curve if score <= target) for curve in self.curves)

    def bytes_until(self, moment: float) -> float:
        """Received by a peer, on average, from the start until a moment."""
        return (_at(self.traffic, moment) - _at(self.traffic, self.started)) / len(self.curves)


def _at(traffic: Sequence[tuple[float, int]], moment: float) -> float:
    """The counter at a moment, between two samples."""
    before = max((sample for sample in traffic if sample[0] <= moment), default=traffic[0])
    after = min((sample for sample in traffic if sample[0] >= moment), default=traffic[-1])
    if after[0] == before[0]:
        return float(before[1])
    return before[1] + (after[1] - before[1]) * (moment - before[0]) / (after[0] - before[0])


class Meter:
    """Samples the loopback interface of a namespace in the background."""

    def __init__(self, hosts: Hosts) -> None:
        self.samples: list[tuple[float, int]] = []
        self._hosts = hosts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.samples.append((time.time(), self._hosts.received(0, "lo")))


# ---- ours -------------------------------------------------------------------------------------------------------


def run_ours(folder: Path, peers: int, rounds: int, steps: int, tiny: bool) -> Course:
    """Daemons until they have exchanged all entries."""
    federation = found_federation(folder, peers, hidden=HIDDEN, steps=steps, entries=rounds, tiny=tiny)
    with Hosts(1) as hosts, Meter(hosts) as meter, federation:
        for site in federation:
            site.prefix = hosts.prefix(0)
        federation.start()
        sites = list(federation)
        until("all entries are everywhere", lambda: all_published(sites, rounds, peers), DEADLINE_S, federation)
        history = [rounds_of(site) for site in sites]
    curves = [[(row["at"] - row["seconds"], _test_score(row["scores"])) for row in rows] for rows in history]
    started = min(curve[0][0] for curve in curves)
    return Course(started, curves, meter.samples, rounds)


def _test_score(scores: dict[str, dict[str, float]]) -> float:
    return scores["solubility"]["test"]


def kill_ours(folder: Path, rounds: int, steps: int) -> dict[str, float]:
    """SIGKILL one daemon in the middle of the run; the others finish."""
    federation = found_federation(folder, PEERS, hidden=HIDDEN, steps=steps, entries=rounds)
    with federation:
        federation.start()
        sites = list(federation)
        until("the run is on its way", lambda: all_published(sites, rounds // 3, PEERS), DEADLINE_S, federation)
        victim, survivors = sites[-1], sites[:-1]
        killed_at = time.time()
        _kill_daemon(victim)
        documents = until("survivors are done", lambda: _agreed(survivors, rounds), DEADLINE_S, federation)
        moments = [[row["at"] for row in rounds_of(site)] for site in survivors]
    gaps = [max(b - a for a, b in itertools.pairwise(m) if b > killed_at) for m in moments]
    intervals = [statistics.median(b - a for a, b in itertools.pairwise(m) if b <= killed_at) for m in moments]
    return {
        "kill_ours_interval_s": statistics.mean(intervals),
        "kill_ours_longest_gap_s": max(gaps),
        "kill_ours_gap_over_interval": max(gaps) / statistics.mean(intervals),
        "kill_ours_digests": len({document.averaging.digest for document in documents}),
        "kill_ours_survivors_done": len(documents),
    }


def _kill_daemon(site: SiteProcess) -> None:
    site.signal(signal.SIGKILL)
    site.wait(5.0)


def _agreed(sites: Sequence[SiteProcess], entries: int) -> list[StatusDocument] | None:
    """Status of these sites once they hold each other's entries and the same vector."""
    documents = [d for site in sites if (d := site.status()) is not None]
    if len(documents) < len(sites):
        return None
    vectors = [d.averaging.vector for d in documents]
    done = all(vectors[0].get(site.name, 0) >= entries for site in sites)
    return documents if done and all(vector == vectors[0] for vector in vectors) else None


# ---- hivemind ---------------------------------------------------------------------------------------------------


def prepare_environment() -> Path:
    """The interpreter of the benchmark's own virtual environment, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "kmel-benchmark"
    if stamp.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("numpy")]
    constraints = ENVIRONMENT / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(constraints), *REQUIREMENTS, f"{ROOT}[demo]"], check=True)
    stamp.touch()
    return python


@contextlib.contextmanager
def hivemind_peers(
    what: str, folder: Path, prefix: Sequence[str], options: Sequence[Sequence[str]]
) -> Iterator[list[Any]]:
    """Processes of `hivemind_peer.py`; leaving the context ends them and what they started."""
    python = prepare_environment()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder.mkdir(parents=True)
    peers = []
    try:
        for number, extra in enumerate(options):
            program = [str(python), str(ROOT / "benchmarks" / "parts" / "hivemind_peer.py"), what]
            command = [*prefix, *program, "--number", str(number), "--folder", str(folder), *extra]
            with (folder / f"peer{number}.jsonl").open("wb") as out, (folder / f"peer{number}.log").open("wb") as err:
                peers.append(subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True))
        yield peers
    finally:
        for peer in peers:
            # A session each: averager, DHT and p2pd are processes of their own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(peer.pid, signal.SIGKILL)
            peer.wait()


def events_of(folder: Path, number: int) -> list[dict[str, Any]]:
    """What a peer has said so far."""
    lines = (folder / f"peer{number}.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_hivemind(folder: Path, codec: str, federation: LocalFederation, rounds: int) -> Course:
    """Four peers of hivemind on the files of a federation whose daemons do not run."""
    options = [["--codec", codec, "--config", str(site.folder / "site.toml")] for site in federation]
    with Hosts(1) as hosts, Meter(hosts) as meter:
        with hivemind_peers("train", folder, hosts.prefix(0), options) as peers:
            deadline = time.monotonic() + DEADLINE_S
            while any(peer.poll() is None for peer in peers):
                if time.monotonic() > deadline or any(peer.poll() for peer in peers):
                    tails = "\n".join((folder / f"peer{n}.log").read_text()[-800:] for n in range(PEERS))
                    raise SystemExit(f"hivemind {codec} did not finish:\n{tails}")
                time.sleep(0.1)
        histories = [events_of(folder, n) for n in range(PEERS)]
    curves = []
    for events in histories:
        partial = [e["peers"] for e in events if e["event"] == "averaged" and e["peers"] < PEERS]
        if partial:
            print(f"hivemind {codec}: {len(partial)} averagings without all peers", file=sys.stderr)
        curves.append([(e["at"], _test_score(e["scores"])) for e in events if e["event"] in ("round", "end")])
    return Course(min(curve[0][0] for curve in curves), curves, meter.samples, rounds)


def kill_hivemind(folder: Path, timeouts: str, after_s: float, values: int) -> dict[str, float]:
    """SIGKILL one of four peers while they average a vector."""
    options = [["--timeouts", timeouts, "--values", str(values)]] * PEERS
    with Hosts(1) as hosts, hivemind_peers("average", folder, hosts.prefix(0), options) as peers:
        deadline = time.monotonic() + 120.0
        while any(not any(e["event"] == "step" for e in events_of(folder, n)) for n in range(PEERS)):
            if time.monotonic() > deadline:
                raise SystemExit("hivemind's peers did not find each other")
            time.sleep(0.01)
        quiet = hosts.received(0, "lo")
        while hosts.received(0, "lo") - quiet < values // 4:
            time.sleep(0.005)
        time.sleep(after_s)
        os.killpg(peers[-1].pid, signal.SIGKILL)
        killed_at = time.time()
        while time.time() < killed_at + GIVE_UP_S and len(_survivors(folder)) < PEERS - 1:
            time.sleep(0.1)
        done = _survivors(folder)
    averaged = [e for e in done if e["moved"] > 0 and e["outcome"].endswith("peers")]
    waits = [e["at"] - killed_at for e in done] + [GIVE_UP_S] * (PEERS - 1 - len(done))
    return {
        "survivors_returned": len(done),
        "survivors_averaged": len(averaged),
        "longest_wait_s": max(waits),
        "different_models": len({e["digest"] for e in done}),
    }


def _survivors(folder: Path) -> list[dict[str, Any]]:
    return [e for n in range(PEERS - 1) for e in events_of(folder, n) if e["event"] == "done"]


# ---- all --------------------------------------------------------------------------------------------------------


def compare(courses: dict[str, Course]) -> dict[str, float]:
    """Bytes and time to the target that all systems reached."""
    target = 1.01 * max(course.best for course in courses.values())
    figures: dict[str, float] = {"target_rmse": target}
    for name, course in courses.items():
        moment = course.reached(target)
        figures[f"{name}_best_rmse"] = course.best
        figures[f"{name}_bytes_per_peer"] = course.bytes_until(moment)
        figures[f"{name}_seconds"] = moment - course.started
        figures[f"{name}_bytes_per_round"] = course.bytes_until(course.traffic[-1][0]) / course.rounds
    for other in ("fp16", "8bit"):
        name = f"hivemind_{other}"
        if name in courses:
            suffix = "" if other == "8bit" else f"_{other}"
            figures[f"bytes_ratio{suffix}"] = figures[f"{name}_bytes_per_peer"] / figures["ours_bytes_per_peer"]
            figures[f"time_ratio{suffix}"] = figures[f"{name}_seconds"] / figures["ours_seconds"]
            per_round = figures[f"{name}_bytes_per_round"] / figures["ours_bytes_per_round"]
            figures[f"bytes_per_round_ratio{suffix}"] = per_round
    return figures


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    rounds, steps = options.rounds, options.steps
    courses = {"ours": run_ours(folder / "ours", 2 if options.smoke else PEERS, rounds, steps, options.smoke)}
    for codec in () if options.ours_only else ("fp16", "8bit"):
        files = found_federation(folder / codec, PEERS, hidden=HIDDEN, steps=steps, entries=rounds)
        courses[f"hivemind_{codec}"] = run_hivemind(folder / codec / "peers", codec, files, rounds)
    figures: dict[str, Any] = compare(courses)
    if options.kill_steps and not (options.no_kill or options.ours_only):
        figures |= kill_ours(folder / "kill", KILL_ROUNDS, options.kill_steps)
        for timeouts in ("default", "short"):
            for number, after_s in enumerate(KILL_AFTER_S):
                name = f"kill_hivemind_{timeouts}_{number}"
                outcome = kill_hivemind(folder / name, timeouts, after_s, values=20_000_000)
                figures |= {f"{name}_{key}": value for key, value in outcome.items()}
    figures["curves"] = {
        name: [[(at - course.started, score) for at, score in curve] for curve in course.curves]
        for name, course in courses.items()
    }
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps per round")
    parser.add_argument(
        "--kill-steps", type=int, default=100, help="optimiser steps per round of ours in the kill test"
    )
    parser.add_argument("--no-kill", action="store_true", help="leave the kill test out")
    parser.add_argument("--ours-only", action="store_true", help="only our four daemons: hivemind is not needed")
    parser.add_argument("--keep", type=Path, help="directory for the runs' files, kept")
    options = parse(parser, SMOKE, given)
    if not options.ours_only:
        prepare_environment()
    machine = this_machine()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="kmel-versus-"))
    try:
        figures = measure(folder, options)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    publish("four peers, one model", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
