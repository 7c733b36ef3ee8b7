"""What a hostile site or a stranger does to honest ones: `python benchmarks/hostile.py [--only A2,A4] [--json FILE]`.

Each attack of `tests.testbed.hostile` against a federation of its own: three real daemons with their trainers, one more
honest site in a process of its own that publishes an entry a second (so that the daemons' pace is the clock's, and not
that of a busy machine), and the hostile one. First the federation runs quietly for a while with the hostile site as a
member that only listens, then the attack begins.

Per attack (`attacks`):

  progress_share   entries that the daemons publish per second during the attack, over before; where the end of a run is
                   attacked, entries that they published over those of the whole run
  alarm_s          from the beginning of the attack until a daemon's alarm names the right one; null: never
  named            whether one did, and none named an honest site
  extra_mb         largest resident memory of a daemon during the attack, less before
  loop_ms          longest that a daemon's event loop was late during the attack; `loop_quiet_ms` before (a busy
                   machine makes both late: up to twice the quiet one passes)
  cpu_share        processor time of the daemons during the attack, over before
  ok               whether all of it is as it should be

`failed` counts those that are not.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import FederationFailedError, found_federation, until
from benchmarks.parts.measure import ROOT, Goal, at_most, parse, publish, say, this_machine
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status import SitePhase, StatusDocument
from tests.testbed.hostile.attacks import ATTACKS, Attack

HONEST = 3
PACE_S = 1.0
LOOK_S = 0.5
START_S = 180.0
FEW = 10_000
PROGRESS, ALARM_S, EXTRA_MB, LOOP_MS = 0.9, 30.0, 64.0, 100.0
GOALS: dict[str, Goal] = {"failed": at_most(0)}
SMOKE: dict[str, Any] = {"only": "A2", "settle": 0.0, "quiet": 2.0, "attack": 4.0}
ACCUSING = ("unproved head", "misbehaved", "bad messages", "divergence", "refused from", "log ended", "size of")
"""Kinds of alarms that speak of somebody's fault."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table; see the module docstring."""

    id: str
    what: str
    progress_share: float
    alarm_s: float | None
    named: bool
    extra_mb: float
    loop_ms: float
    loop_quiet_ms: float
    cpu_share: float
    ok: bool
    alarms: list[str]


@dataclass(frozen=True, slots=True)
class Window:
    """What the daemons did in a stretch of time."""

    seconds: float
    entries: int
    peak_mb: float
    loop_ms: float
    cpu_s: float
    alarm_s: float | None = None
    alarms: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Entries per second."""
        return self.entries / self.seconds


@contextlib.contextmanager
def puppet(site: SiteProcess, what: str) -> Iterator[subprocess.Popen[str]]:
    """A site in a process of its own: `what` is an attack, or the seconds of an honest round."""
    command = [sys.executable, "-m", "tests.testbed.hostile", str(site.folder / "site.toml"), what]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise FederationFailedError(f"{site.name} did not start as {what}")
        yield process
    finally:
        process.kill()
        process.wait()
        # After its end, what was not flushed has no reader.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def tell(process: subprocess.Popen[str], order: str) -> None:
    """One line on a puppet's standard input."""
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()


def documents(daemons: Sequence[SiteProcess]) -> list[StatusDocument]:
    """Status of every daemon that answers.

    Raises:
        FederationFailedError: one has ended.
    """
    for site in daemons:
        if not site.running:
            raise FederationFailedError(f"{site.name} ended with {site.exit_code}\n{site.last_lines()}")
    return [document for document in (site.status(timeout_s=5.0) for site in daemons) if document is not None]


def watch(
    daemons: Sequence[SiteProcess],
    seconds: float,
    alarm: str = "",
    *,
    whole: bool = True,
    begin: Callable[[], None] = lambda: None,
) -> Window:
    """Look at the daemons for a while.

    Args:
        alarm: beginning of the alarm that is looked for.
        whole: whether to look on once it came.
        begin: called after the first look.
    """
    first = documents(daemons)
    began = time.monotonic()
    begin()
    standing = {entry.what for document in first for entry in document.alarms}
    peak_mb = loop_ms = 0.0
    alarm_s, last, raised = None, first, dict[str, None]()
    while (elapsed := time.monotonic() - began) < seconds and (whole or alarm_s is None):
        time.sleep(LOOK_S)
        last = documents(daemons)
        peak_mb = max([peak_mb, *(document.process.rss_bytes / 2**20 for document in last)])
        loop_ms = max([loop_ms, *(document.process.loop_lag_recent_ms for document in last)])
        raised |= dict.fromkeys(e.what for d in last for e in d.alarms if e.what not in standing)
        if alarm and alarm_s is None and any(what.startswith(alarm) for what in raised):
            alarm_s = elapsed
    seconds = time.monotonic() - began
    entries = published(last) - published(first)
    cpu_s = sum(d.process.cpu_s for d in last) - sum(d.process.cpu_s for d in first)
    return Window(seconds, entries, peak_mb, loop_ms, cpu_s, alarm_s, tuple(raised))


def published(status: Sequence[StatusDocument]) -> int:
    """Own entries of all daemons."""
    return sum(document.averaging.published for document in status)


def measure(name: str, folder: Path, options: argparse.Namespace) -> Result:
    """One attack against a federation of its own."""
    attack = ATTACKS[name]
    federation = found_federation(
        folder,
        HONEST + 2,
        hidden=(32, 16),
        steps=2,
        entries=attack.entries or FEW,
        max_lead=2,
        tiny=True,
        mode=attack.mode,
        start=HONEST + 1,
    )
    *daemons, pace, hostile = federation
    with federation, puppet(pace, str(PACE_S)), puppet(hostile, name) as liar:
        for site in daemons:
            site.start()
        if attack.entries:
            return _at_the_end(name, attack, daemons, hostile, liar, federation, options)
        until("the daemons publish", lambda: _all_publish(daemons), START_S, federation)
        time.sleep(options.settle)
        quiet = watch(daemons, options.quiet)
        alarm = attack.alarm.format(name=hostile.name)
        under = watch(daemons, options.attack, alarm, begin=lambda: tell(liar, "attack"))
    progress = under.rate / max(quiet.rate, 1e-9)
    return _result(name, attack, hostile, [site.name for site in (*daemons, pace)], progress, quiet, under)


def _at_the_end(
    name: str,
    attack: Attack,
    daemons: list[SiteProcess],
    hostile: SiteProcess,
    liar: subprocess.Popen[str],
    federation: LocalFederation,
    options: argparse.Namespace,
) -> Result:
    """An attack on the end of a run."""
    tell(liar, "attack")
    until("the daemons publish", lambda: _all_publish(daemons), START_S, federation)
    quiet = watch(daemons, LOOK_S)
    until("the daemons are done", lambda: _all_listen(daemons), START_S, federation)
    under = watch(daemons, options.attack, attack.alarm.format(name=hostile.name), whole=False)
    progress = published(documents(daemons)) / (attack.entries * len(daemons))
    return _result(name, attack, hostile, [site.name for site in daemons], progress, quiet, under)


def _result(
    name: str,
    attack: Attack,
    hostile: SiteProcess,
    honest: Sequence[str],
    progress: float,
    quiet: Window,
    under: Window,
) -> Result:
    blamed = [what for what in under.alarms if what.startswith(ACCUSING) and what.split()[-1] in honest]
    named = not blamed and (not attack.alarm or under.alarm_s is not None)
    extra_mb = max(0.0, under.peak_mb - quiet.peak_mb)
    ok = (
        named
        and progress >= PROGRESS
        and (under.alarm_s or 0.0) <= ALARM_S
        and extra_mb <= EXTRA_MB
        and under.loop_ms <= max(LOOP_MS, 2 * quiet.loop_ms)
    )
    return Result(
        id=name,
        what=(attack.run.__doc__ or "").partition(": ")[2].splitlines()[0],
        progress_share=round(progress, 3),
        alarm_s=None if under.alarm_s is None else round(under.alarm_s, 1),
        named=named,
        extra_mb=round(extra_mb, 1),
        loop_ms=round(under.loop_ms, 1),
        loop_quiet_ms=round(quiet.loop_ms, 1),
        cpu_share=round((under.cpu_s / under.seconds) / max(1e-9, quiet.cpu_s / quiet.seconds), 2),
        ok=ok,
        alarms=list(under.alarms),
    )


def _all_publish(daemons: Sequence[SiteProcess]) -> bool:
    status = documents(daemons)
    return len(status) == len(daemons) and all(document.averaging.published >= 2 for document in status)


def _all_listen(daemons: Sequence[SiteProcess]) -> bool:
    done = (SitePhase.LISTENING, SitePhase.COMPLETE)
    return all(document.phase in done for document in documents(daemons))


def main(given: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ATTACKS), help="attacks, with commas between them")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds after the start that do not count")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds without the attack")
    parser.add_argument("--attack", type=float, default=40.0, help="seconds with it")
    options = parse(parser, SMOKE, given)
    chosen = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown:
        parser.error(f"no attack {', '.join(unknown)}; there are: {', '.join(ATTACKS)}")
    machine = this_machine()
    results = []
    for name in chosen:
        folder = Path(tempfile.mkdtemp(prefix=f"kmel-hostile-{name}-"))
        try:
            results.append(measure(name, folder, options))
        finally:
            shutil.rmtree(folder)
        say(f"{name}: {results[-1]}")
    figures: dict[str, Any] = {
        "attacks": [asdict(result) for result in results],
        "failed": sum(not result.ok for result in results),
        "progress_share_worst": min(result.progress_share for result in results),
        "alarm_s_worst": max(result.alarm_s or 0.0 for result in results),
        "extra_mb_worst": max(result.extra_mb for result in results),
        "loop_ms_worst": max(result.loop_ms for result in results),
    }
    publish(f"{len(results)} attacks on three daemons", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
