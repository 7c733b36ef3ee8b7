"""Scenario files are read strictly, replay exactly, and a few of them run here; all of them in tests/virtual."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from tests.testbed.membership.federation import membership_of
from tests.testbed.membership.figures import FIGURES
from tests.testbed.membership.run import judge, play, run_scenario, run_seed
from tests.testbed.membership.scenario import load_scenario

ROOT = Path(__file__).parents[3]
DIRECTORY = ROOT / "tests" / "testbed" / "scenarios"
FILES = sorted(DIRECTORY.glob("*.toml"))

SMALL = """
title = "small"
source = "test"
members = 4
duration_s = 30
seeds = 2

[[action]]
do = "crash"
hosts = "3"
at_s = 10
mark = "crash"

[[bound]]
figure = "known_to_all_s"
event = "MemberUnreachable"
subject = "3"
after = "crash"
at_most = {limit}
"""


def write(tmp_path: Path, document: str) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(document)
    return path


def test_every_file_is_valid_and_bounds_known_figures():
    assert len(FILES) >= 50
    for path in FILES:
        scenario = load_scenario(path)
        assert {bound.figure for bound in scenario.bound} <= set(FIGURES), path.name
        scenario.membership_settings(baseline=scenario.baseline is not None)


def test_every_scenario_of_the_reference_has_a_file():
    given = "01 02 03 04 05 07 08 09 11 12 13 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 32 33 34 35 36 38 40"
    names = [path.name for path in FILES]
    assert [n for n in given.split() if not any(name.startswith(f"m{n}-") for name in names)] == []


@pytest.mark.parametrize("name", ["crash-lan", "m13-one-way-link-dialled", "m16-accusations-by-nobody", "m29-garbage"])
def test_a_scenario_holds_on_one_seed(name):
    path = DIRECTORY / f"{name}.toml"
    scenario = load_scenario(path)
    result = judge(scenario, path, [run_seed(scenario, 3)])
    assert result.ok, result.as_dict()


def test_a_seed_replays_exactly_whatever_the_hash_seed():
    script = (
        "import sys; from pathlib import Path; from tests.testbed.membership.run import run_scenario;"
        "print(run_scenario(Path(sys.argv[1]), 5).trace_hash)"
    )
    path = DIRECTORY / "m04-rolling-restart.toml"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout.strip()
        for hash_seed in ("0", "4711")
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == 32


def test_a_broken_bound_is_reported_with_the_seed_that_broke_it(tmp_path):
    path = write(tmp_path, SMALL.format(limit=0.5))
    result = run_scenario(path, seed=7)
    assert not result.ok
    line = result.lines[0]
    assert (line.ok, line.worst_seed, line.bound) == (False, 7, "<= 0.5")
    assert line.value > 1.0
    document = json.loads(json.dumps(result.as_dict()))
    assert document["ok"] is False
    assert document["figures"][0]["value"] == line.value


def test_many_seeds_run_in_processes_and_give_what_single_ones_give(tmp_path):
    path = write(tmp_path, SMALL.format(limit=20))
    together = run_scenario(path)
    assert together.ok
    assert together.seeds == (1, 2)
    assert [run.trace_hash for run in together.runs] == [run_scenario(path, seed).trace_hash for seed in (1, 2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('do = "crash"', 'do = "crush"'), "key 'action.0.do' .* did you mean 'crash'"),
        (("members = 4", "membres = 4"), "did you mean 'members'"),
        (('after = "crash"', 'after = "crsh"'), "names the mark 'crsh'"),
        (("at_most = 20", ""), "at_most or at_least"),
        (('figure = "known_to_all_s"', 'figure = "known_al_s"'), "'bound.0.figure' .* did you mean 'known_to_all_s'"),
        (('figure = "known_to_all_s"', 'figure = "zzz"'), "there is no figure 'zzz'; known: accused, "),
        (('"MemberUnreachable"', '"MemberUnreacheable"'), "'bound.0.event' .* did you mean 'MemberUnreachable'"),
        (('event = "MemberUnreachable"\n', ""), "'bound.0' .* figure 'known_to_all_s' needs an event"),
        (('"known_to_all_s"', '"counter"\nname = "refutation"'), "'bound.0.name' .* did you mean 'refutations'"),
        (('"known_to_all_s"', '"refused"\nname = "WireEror"'), "'bound.0.name' .* did you mean 'WireError'"),
        (('"known_to_all_s"', '"settled_s"\nname = "refutations"'), "figure 'settled_s' takes no name"),
        (("members = 4", 'members = 4\nbaseline = { without = ["crsh"] }'), "did you mean 'crash'"),
        (('hosts = "3"', 'hosts = "4"'), "below 4"),
        (("members = 4", "members = 4\nsettings = { probe_timeout_us = 2_000_000 }"), "too large beside"),
        (("members = 4", 'members = 4\npreset = "LAN"'), "preset"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, change, said):
    path = write(tmp_path, SMALL.format(limit=20).replace(*change))
    with pytest.raises(ConfigError, match=said) as caught:
        run_scenario(path, seed=1)
    assert str(path) in str(caught.value)


def test_idle_traffic_per_member_does_not_grow_with_the_federation(tmp_path):
    def idle(members: int) -> float:
        document = SMALL.format(limit=1e9).replace("members = 4", f"members = {members}")
        document = document.replace("duration_s = 30", "duration_s = 120").replace("at_s = 10", "at_s = 119")
        document += '\n[network]\nconnections = "assumed"\n'
        stage = play(load_scenario(write(tmp_path, document)), 1)
        total = sum(stage.observer.bytes_in_second[second] for second in range(95, 118))
        return total / 23 / members

    small, large = idle(16), idle(128)
    assert 0.8 <= large / small <= 1.2, (small, large)


def test_a_hundred_members_know_each_other_within_seconds_of_a_common_start(tmp_path):
    document = (
        SMALL.format(limit=1e9).replace("members = 4", "members = 100").replace("duration_s = 30", "duration_s = 8")
    )
    document = document.replace("at_s = 10", "at_s = 7.9") + '\n[network]\nconnections = "assumed"\n'
    stage = play(load_scenario(write(tmp_path, document)), 1)
    views = [membership_of(host) for host in stage.hosts("all") if host.running]
    assert all(view is not None and len(view.alive()) == 99 for view in views)
