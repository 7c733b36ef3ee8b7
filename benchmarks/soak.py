"""A daemon under failing exchanges: memory, threads and open files over time.

    python benchmarks/soak.py [--minutes 30] [--peers 16] [--failing 0.3] [--json FILE]

One real daemon with its trainer and a trunk of ten million values; the other sites are the shipped protocol and
transport in one process that publishes an entry per site and `--period` seconds and lets exchanges fail: of all
messages to and from the daemon the part `--failing` is lost, and every few seconds a link is torn down, whatever it
carries. The daemon is sampled every 2 s; slopes are Theil-Sen over the second half of the run.

  rss_over_accumulator     the daemon's largest resident memory over 8 bytes per value
  rss_slope_mb_per_hour    also rss_per_entry_kb: what grows because the ledger grows is no leak, but is memory
  files_slope_per_hour, threads_slope_per_hour
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import TEN_MILLION, FederationFailedError, found_federation, until
from benchmarks.parts.measure import (
    ROOT,
    Goal,
    ProcessSample,
    at_least,
    at_most,
    parse,
    publish,
    sample_process,
    slope,
    this_machine,
)
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.types import Lane
from kmel_p2p.net.transport import Transport
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from tests.testbed.puppet import Puppet

SAMPLE_S = 2.0
TEAR_EVERY_S = 5.0
START_S = 300.0
FEW = 10_000
GOALS: dict[str, Goal] = {
    "rss_over_accumulator": at_most(6.0),
    "rss_slope_mb_per_hour": at_most(20.0),
    "files_slope_per_hour": at_most(1.0),
    "threads_slope_per_hour": at_most(1.0),
    "messages_lost_share": at_least(0.25),
}
SMOKE: dict[str, Any] = {"minutes": 0.05, "peers": 3, "period": 1.0, "hidden": (32, 16)}


# ---- the other sites --------------------------------------------------------------------------------------------


class LossyTransport(Transport):
    """Loses messages of one site in both directions. What is lost was accepted: nobody is told."""

    def __init__(self, *arguments: Any, lost_with: SiteKey, part: float, faults: random.Random, **more: Any) -> None:
        deliver = more.pop("on_message")
        super().__init__(*arguments, on_message=partial(self._receive, deliver), **more)
        self._lost_with = lost_with
        self._part = part
        self._faults = faults
        self.passed = 0
        self.lost = 0

    def send(self, to: SiteKey, *arguments: Any, **more: Any) -> bool:
        return self._loses(to) or super().send(to, *arguments, **more)

    def _receive(self, deliver: Any, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        if not self._loses(sender):
            deliver(sender, data, lane)

    def _loses(self, site: SiteKey) -> bool:
        if site != self._lost_with:
            return False
        if self._faults.random() < self._part:
            self.lost += 1
            return True
        self.passed += 1
        return False


def _lossy(config: Path, daemon: SiteKey, failing: float, period_s: float, seed: int) -> Puppet:
    faults = random.Random(seed + 2)
    transport = partial(LossyTransport, lost_with=daemon, part=failing, faults=faults)
    return Puppet(config, seed, period_s=period_s, transport=transport)


async def run_puppets(configs: Sequence[Path], daemon: SiteKey, failing: float, period_s: float) -> None:
    """Until the parent closes our input; then say what was lost."""
    puppets = [_lossy(config, daemon, failing, period_s, n) for n, config in enumerate(configs)]
    for puppet in puppets:
        await puppet.start()
    tearing = asyncio.create_task(_tear(puppets, daemon), name="tear")
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    tearing.cancel()
    await asyncio.wait({tearing})
    averagings = [puppet.peer.averaging for puppet in puppets]
    applied = [sum(a.ledger.vector.values()) for a in averagings if isinstance(a, LedgerAveraging)]
    transports = [p.transport for p in puppets if isinstance(p.transport, LossyTransport)]
    lost, passed = sum(t.lost for t in transports), sum(t.passed for t in transports)
    # The parent does not wait for fifteen transports to close in order.
    print(json.dumps({"lost": lost, "passed": passed, "applied_least": min(applied)}), flush=True)


async def _tear(puppets: Sequence[Puppet], daemon: SiteKey) -> None:
    """Tear a link down, again and again."""
    rng = random.Random(0)
    while True:
        await asyncio.sleep(TEAR_EVERY_S)
        rng.choice(puppets).transport.hangup(daemon, "torn down by the benchmark")


# ---- the daemon -------------------------------------------------------------------------------------------------


def watch(site: SiteProcess, seconds: float, every_s: float) -> list[ProcessSample]:
    """Samples of a daemon, at even times, until the time is over or it ends."""
    assert site.process is not None
    began = time.monotonic()
    samples = []
    while (elapsed := time.monotonic() - began) < seconds:
        if not site.running:
            raise FederationFailedError(f"the daemon ended with {site.exit_code}\n{site.last_lines()}")
        samples.append(sample_process(site.process.pid, elapsed))
        time.sleep(every_s)
    return samples


def trends(samples: Sequence[ProcessSample]) -> dict[str, float]:
    """Slopes per hour over the second half of the samples; the first is start-up."""
    late = samples[len(samples) // 2 :]
    hours = [sample.at_s / 3600 for sample in late]
    return {
        "rss_slope_mb_per_hour": slope(hours, [sample.rss_bytes / 1e6 for sample in late]),
        "files_slope_per_hour": slope(hours, [float(sample.files) for sample in late]),
        "threads_slope_per_hour": slope(hours, [float(sample.threads) for sample in late]),
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    federation = found_federation(
        folder, options.peers, hidden=tuple(options.hidden), steps=5, entries=FEW, max_lead=4, tiny=options.smoke
    )
    daemon, *others = federation
    command = [sys.executable, "-m", "benchmarks.soak", "--puppets"]
    command += [str(site.folder / "site.toml") for site in others]
    command += ["--daemon", load_site(load_config(daemon.folder / "site.toml")).rule.key]
    command += ["--failing", str(options.failing), "--period", str(options.period)]
    with federation:
        puppets = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert puppets.stdout is not None
        try:
            if puppets.stdout.readline().strip() != "ready":
                raise SystemExit("the other sites did not start")
            daemon.start()
            until("the daemon publishes", lambda: _applied(daemon) > options.peers, START_S, federation)
            before = _applied(daemon)
            samples = watch(daemon, 60 * options.minutes, 0.2 if options.smoke else SAMPLE_S)
            figures = _account(daemon, federation, samples, _applied(daemon) - before)
            assert puppets.stdin is not None
            puppets.stdin.close()
            outcome = json.loads(puppets.stdout.readline())
        finally:
            puppets.send_signal(signal.SIGKILL)
            puppets.wait()
            puppets.stdout.close()
    figures["messages_lost_share"] = outcome["lost"] / max(1, outcome["lost"] + outcome["passed"])
    figures["messages"] = outcome["lost"] + outcome["passed"]
    return figures


def _applied(site: SiteProcess) -> int:
    if not site.running:
        raise FederationFailedError(f"the daemon ended with {site.exit_code}\n{site.last_lines()}")
    status = site.status(timeout_s=5.0)
    return sum(status.averaging.vector.values()) if status else 0


def _account(
    daemon: SiteProcess, federation: LocalFederation, samples: Sequence[ProcessSample], entries: int
) -> dict[str, Any]:
    values = load_site(load_config(daemon.folder / "site.toml")).layout.size
    status = daemon.status(timeout_s=60.0)
    peak = max(sample.rss_bytes for sample in samples)
    hours = (samples[-1].at_s - samples[0].at_s) / 3600
    figures: dict[str, Any] = {
        "values": values,
        "peers": len(federation.sites),
        "minutes": samples[-1].at_s / 60,
        "entries_applied": entries,
        "rss_peak_mb": peak / 1e6,
        "rss_over_accumulator": peak / (8 * values),
        **trends(samples),
        "files_last": samples[-1].files,
        "threads_last": samples[-1].threads,
        "cpu_share": (samples[-1].cpu_s - samples[0].cpu_s) / (3600 * hours),
    }
    figures["rss_per_entry_kb"] = 1e3 * figures["rss_slope_mb_per_hour"] * hours / max(1, entries)
    if status is not None:
        figures["loop_lag_ms"] = status.process.loop_lag_ms
        figures["alarms"] = len(status.alarms)
        figures["payload_bytes"] = status.averaging.payload_bytes_mean
    figures["samples"] = [[s.at_s, s.rss_bytes, s.files, s.threads] for s in samples]
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--failing", type=float, default=0.3, help="part of the messages that are lost")
    parser.add_argument("--period", type=float, default=60.0, help="seconds between two entries of each other site")
    parser.add_argument("--hidden", type=int, nargs="+", default=TEN_MILLION, help="widths of the trunk's layers")
    parser.add_argument("--puppets", type=Path, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--daemon", help=argparse.SUPPRESS)
    options = parse(parser, SMOKE, given)
    if options.puppets:
        key = SiteKey(bytes.fromhex(options.daemon))
        asyncio.run(run_puppets(options.puppets, key, options.failing, options.period))
        return
    machine = this_machine()
    folder = Path(tempfile.mkdtemp(prefix="kmel-soak-"))
    try:
        figures = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    publish(f"a daemon among {options.peers} peers", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
