"""init, config, status, stop, approve: what they print and how they end."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.init import site_template
from kmel_p2p.site.control.requests import ALL_ENTRIES
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.state.lockfile import SiteLock
from tests.support.cli_harness import STATUS, FakeDaemon, Run

ROOT = Path(__file__).parents[3]


def test_init_writes_a_private_key_and_settings_and_says_what_to_do(tmp_path: Path, run: Run) -> None:
    done = run("init", tmp_path / "new" / "site", "--name", "north")
    key = tmp_path / "new" / "site" / "site.key"
    assert done.code == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert f"--site north={load_key(key).key.hex()}" in done.out
    assert run("config", "-c", tmp_path / "new" / "site" / "site.toml").code == 0


@pytest.mark.parametrize("present", ["site.key", "site.toml"])
def test_init_overwrites_nothing(tmp_path: Path, run: Run, present: str) -> None:
    (tmp_path / present).write_text("mine")
    done = run("init", tmp_path, "--name", "north")
    assert done.code == ExitCode.CONFIG
    assert "not overwritten" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "mine"


def test_init_refuses_a_name_that_no_charter_takes(tmp_path: Path, run: Run) -> None:
    done = run("init", tmp_path, "--name", "North Site")
    assert done.code == ExitCode.CONFIG
    assert "site.name" in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_example_settings_are_the_ones_init_writes() -> None:
    assert (ROOT / "configs" / "site.example.toml").read_text() == site_template("north")


def test_config_prints_every_default_and_names_a_misspelt_key(site: Path, run: Run) -> None:
    done = run("config", "-c", site)
    assert 'on_complete = "stay"' in done.out
    site.write_text(site.read_text().replace("state_dir", "statedir"))
    done = run("config", "-c", site)
    assert done.code == ExitCode.CONFIG
    assert f"{site}: unknown key 'site.statedir'; did you mean 'state_dir'?" in done.err


def test_status_shows_what_an_operator_needs(site: Path, run: Run, daemon: FakeDaemon) -> None:
    done = run("status", "-c", site)
    assert done.code == 0
    for text in (
        "training",
        "round 4 is open",
        "3 of 40",
        "1 held",
        "south",
        "alive",
        "little space left",
        "probes 3 times slower, dials 3",
        "for south since 3.0 s, without a limit",
    ):
        assert text in done.out
    assert json.loads(run("status", "-c", site, "--json").out) == STATUS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "schema 1"),
        ({"phase": "dreaming"}, "phase: expected one of 'preparing'"),
        ({"process": {"pid": 4, "rss_bytes": "much", "uptime_s": 1.0}}, "process.rss_bytes: "),
        ({"mode": "other"}, "averaging: "),
    ],
)
def test_a_status_document_of_another_kind_is_refused_with_the_key_named(
    site: Path, run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], problem: str
) -> None:
    for key, value in change.items():
        monkeypatch.setitem(STATUS, key, value)
    done = run("status", "-c", site)
    assert done.code == ExitCode.REFUSED
    assert problem in done.err


def test_status_tells_not_running_from_not_answering(site: Path, run: Run) -> None:
    done = run("status", "-c", site)
    assert done.code == ExitCode.NOT_RUNNING
    assert "kmel-peer run" in done.err
    with SiteLock(site.parent / "state"):
        began = time.monotonic()
        done = run("status", "-c", site)
        assert time.monotonic() - began < 30.0
    assert done.code == ExitCode.NOT_ANSWERING
    assert "is starting and takes no requests yet" in done.err


def test_status_fits_eighty_columns_and_twenty_four_lines(
    site: Path, run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three partners that could not be reached took 46 lines, and what needs attention stood below the screen."""
    problem = "tcp://192.0.2.7:7700: nobody listens on that port (connection refused); tried again in 12 s"
    away = [
        {**STATUS["members"][0], "name": name, "state": "unknown", "heard_age_s": None, "rtt_ms": None,
         "problem": problem}
        for name in ("east", "west", "a-partner-with-a-long-name")
    ]  # fmt: skip
    monkeypatch.setitem(STATUS, "members", [*STATUS["members"], *away])
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("status", "-c", site).out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].strip() == "needs attention"
    shown = " ".join(" ".join(lines).split())
    assert f"east west a-partner-with-a-long-name {problem}" in shown
    assert "192.0.2.1" not in shown
    monkeypatch.setenv("COLUMNS", "120")
    assert "tcp://192.0.2.1:7700" in run("status", "-c", site).out


def test_stop_waits_for_the_end(site: Path, run: Run, daemon: FakeDaemon) -> None:
    assert run("stop", "-c", site).out == "stopped\n"
    assert run("stop", "-c", site).code == ExitCode.NOT_RUNNING


def test_listen_is_passed_on(site: Path, run: Run, daemon: FakeDaemon) -> None:
    assert run("listen", "-c", site).code == 0
    assert daemon.asked == [("listen", {"reason": "asked by the operator"})]


def test_approve_and_reject_carry_their_arguments(site: Path, run: Run, daemon: FakeDaemon) -> None:
    assert run("held", "approve", "4", "-c", site).code == 0
    assert run("held", "reject", "4", "--reason", "not yet", "-c", site).code == 0
    assert "stays in the residual" in run("held", "reject", "4", "--defer", "-c", site).out
    refused = run("held", "approve", "5", "-c", site)
    assert refused.code == ExitCode.REFUSED
    assert "no entry is held back" in refused.err
    assert daemon.asked[:3] == [
        ("approve", {"number": 4}),
        ("reject", {"number": 4, "reason": "not yet", "deferred": False}),
        ("reject", {"number": 4, "reason": "rejected by the operator", "deferred": True}),
    ]


def test_many_entries_are_approved_at_once(site: Path, run: Run, daemon: FakeDaemon) -> None:
    assert "up to 9 leave" in run("held", "approve", "--until", "9", "-c", site).out
    assert run("held", "approve", "--all", "-c", site).code == 0
    assert run("held", "ask", "-c", site).code == 0
    assert daemon.asked == [("approve_until", {"number": number}) for number in (9, ALL_ENTRIES, 0)]
    assert run("held", "approve", "4", "--all", "-c", site).code == ExitCode.USAGE


@pytest.mark.parametrize(
    "arguments", [["statsu"], ["status", "--jsn"], ["held"], ["held", "approve"], ["held", "approve", "0"], ["init"]]
)
def test_wrong_usage_ends_with_its_own_code(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == ExitCode.USAGE


def test_every_command_has_help(run: Run) -> None:
    listing = run("--help").out
    for line in listing.partition("Commands:")[2].splitlines():
        if line.strip():
            done = run(line.split()[0], "--help")
            assert done.code == 0
            assert done.out.startswith("Usage: kmel-peer")


LIGHT = """
import sys
from kmel_p2p.cli.main import invoke
code = invoke(["status", "-c", sys.argv[1]])
heavy = {"torch", "rdkit", "numpy", "pandas", "numba", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def test_status_starts_without_the_heavy_libraries(site: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, str(site)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.NOT_RUNNING, ""), done.stderr


def test_a_defect_is_told_as_one(site: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmel_p2p.site.config.parse_config", lambda text, path: 1 / 0)
    done = run("config", "-c", site)
    assert done.code == ExitCode.BUG
    assert "ZeroDivisionError" in done.err
    assert "please report" in done.err
