"""Membership at rest and in numbers: `python benchmarks/membership.py [--largest 1024] [--seconds 120]`.

Federations of 16 to 1,024 members, preset lan, in virtual time, after everybody knows everybody.

  idle_bytes_<n>      bytes a member sends per second when nothing happens, framing included
  idle_spread         largest of these over the smallest: whether idle traffic depends on the federation's size
  speed_<n>           virtual seconds per second of processor time
  crash_lan_*, crash_wan_*   seconds until a crash among 16 is known to all, over 50 seeds
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.parts.measure import Goal, at_least, at_most, parse, percentile, publish, this_machine
from kmel_p2p.core.types import SECOND
from tests.testbed.membership.federation import Federation, membership_of
from tests.testbed.membership.figures import measure
from tests.testbed.membership.observe import Observer
from tests.testbed.membership.run import play
from tests.testbed.membership.scenario import Scenario, load_scenario

SIZES = (16, 64, 256, 1024)
SETTLE_S = 300
"""Virtual seconds from the start until traffic counts as idle: the news of a start are told, or too old to be told."""
GOALS: dict[str, Goal] = {
    "idle_spread": at_most(1.2),
    "speed_1024": at_least(10.0),
    "crash_lan_median_s": at_most(8.0),
    "crash_lan_p99_s": at_most(32.0),
    "crash_wan_median_s": at_most(50.0),
}
SMOKE: dict[str, Any] = {"largest": 16, "seconds": 10, "seeds": 1}

IDLE = """
title = "Idle"
source = "benchmark"
members = {members}
duration_s = 1
[network]
connections = "assumed"
[[bound]]
figure = "bytes_per_member_s"
at_most = 1e9
"""


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="members of the largest federation")
    parser.add_argument("--seconds", type=int, default=120, help="virtual seconds of idle traffic")
    parser.add_argument("--seeds", type=int, default=50, help="runs of each crash")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    figures: dict[str, Any] = {}
    idle = []
    for members in (size for size in SIZES if size <= options.largest):
        traffic, speed = idle_federation(members, options.seconds)
        idle.append(traffic)
        figures[f"idle_bytes_{members}"] = traffic
        figures[f"speed_{members}"] = speed
    figures["idle_spread"] = max(idle) / min(idle)
    for preset in ("lan", "wan"):
        times = crashes(preset, options.seeds)
        figures[f"crash_{preset}_median_s"] = percentile(times, 0.5)
        figures[f"crash_{preset}_p99_s"] = percentile(times, 0.99)
    publish("membership", machine, figures, GOALS, options.json)


def idle_federation(members: int, seconds: int) -> tuple[float, float]:
    """(bytes per member and second, virtual seconds per second of processor time) once everybody knows everybody."""
    plan = idle_scenario(members)
    federation = Federation(plan.plan(), plan.membership_settings(), seed=1)
    observer = Observer(federation)
    network = federation.network
    network.watch(observer, steps=False)
    for number, host in enumerate(federation.hosts):
        network.call_at(number * SECOND // members, partial(network.start, host))
    network.run_until(SETTLE_S * SECOND)
    assert everybody_knows_everybody(federation), f"{members} members did not all meet within {SETTLE_S} s"
    first = network.now // SECOND
    began = time.process_time()
    network.run_until(network.now + seconds * SECOND)
    speed = seconds / (time.process_time() - began)
    return sent(observer, first, seconds) / members, speed


def everybody_knows_everybody(federation: Federation) -> bool:
    """Whether every member holds every other alive."""
    others = len(federation.hosts) - 1
    known = (membership_of(host) for host in federation.hosts)
    return all(member is not None and len(member.alive()) == others for member in known)


def sent(observer: Observer, first: int, seconds: int) -> float:
    """Bytes per second that all members sent from second `first` on."""
    return sum(observer.bytes_in_second[second] for second in range(first, first + seconds)) / seconds


def idle_scenario(members: int) -> Scenario:
    """A federation to which nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "idle.toml"
        path.write_text(IDLE.format(members=members), encoding="utf-8")
        return load_scenario(path)


def crashes(preset: str, seeds: int) -> list[float]:
    """Seconds from a crash among 16 until every survivor holds the site dead."""
    path = Path(__file__).parents[1] / "tests" / "testbed" / "scenarios" / f"crash-{preset}.toml"
    plan = load_scenario(path)
    bound = next(b for b in plan.bound if b.figure == "known_to_all_s")
    return [measure(play(plan, seed), bound) for seed in range(1, seeds + 1)]


if __name__ == "__main__":
    main()
