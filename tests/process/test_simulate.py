"""`kmel-peer simulate` as a user runs it: whole, interrupted, and with a site that dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kmel_p2p.cli.exits import ExitCode
from tests.support.local_run import PATIENCE_S, write_solubility

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

SETTINGS = """
task = "aqueous solubility, a few compounds"
[data]
kind = "csv"
train = "train.csv"
test = "test.csv"
[sites]
names = ["north", "south"]
preset = "sim"
deadline_s = 600.0
[charter]
federation = "trial"
model = {{ hidden = [32, 16], dropout = 0.0 }}
features = {{ bits = 256 }}
averaging = {{ steps_per_entry = 3, entry_limit = {entries} }}
pace = {{ start_sites = 2 }}
split = {{ valid_fraction = 0.1, test_fraction = 0.0 }}
[[charter.assay_endpoints]]
name = "solubility"
column = "SOL"
unit = "log10(mol/L)"
center = -3.0
scale = 2.0
head = "shared"
"""

SITE_KEYS = {
    "site", "train_rows", "local", "federated", "personalised", "hybrid", "entries", "payload_bytes_mean",
    "bytes_sent", "digest", "vector",
}  # fmt: skip
KEYS = {
    "task", "metric", "unit", "params", "seed", "wall_s", "pooled", "baseline_median", "fp32_bytes_per_exchange",
    "sites",
}  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the demo's compounds."""
    folder = tmp_path_factory.mktemp("tables")
    for path, name in zip(write_solubility(folder, [80], 20), ("train.csv", "test.csv"), strict=True):
        path.rename(folder / name)
    return folder


def settings(tables: Path, tmp_path: Path, entries: int) -> Path:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes((tables / name).read_bytes())
    path = tmp_path / "small.toml"
    path.write_text(SETTINGS.format(entries=entries))
    return path


def start(config: Path, out: Path) -> subprocess.Popen[str]:
    script = Path(__file__).parents[2] / "scripts" / "simulate.py"
    # A shell that runs the tests in the background ignores SIGINT, and the run would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, str(script), str(config), "--out", str(out), "--seed", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out.parent,
    )


def until(what: str, probe: Callable[[], bool], run: subprocess.Popen[str], deadline_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + deadline_s
    while not probe():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.1)


def training(out: Path) -> bool:
    """Whether every daemon has its trainer, and the process that keeps track of the memory they share."""
    locks = [lock.read_text().strip() for lock in out.glob("sites/*/state/lock")]
    pids = [int(lock) for lock in locks if lock.isdigit()]
    return len(pids) == 2 and all(len(psutil.Process(pid).children()) >= 2 for pid in pids)


def publishing(out: Path) -> bool:
    logs = list(out.glob("sites/*/state/peer.log"))
    return len(logs) == 2 and all("entry published" in log.read_text() for log in logs)


def processes(out: Path) -> list[psutil.Process]:
    """Processes of this run: those whose command line names its directory, and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(out) in " ".join(process.cmdline()) and process.pid != os.getpid():
                found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found


def smiles(path: Path) -> set[str]:
    with path.open(newline="") as file:
        return {row["smiles"] for row in csv.DictReader(file)}


def test_a_run_ends_with_one_model_and_a_whole_report(tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(settings(tables, tmp_path, entries=6), out)
    shown, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, shown + errors
    report = json.loads((out / "report.json").read_text())
    assert report.keys() == KEYS
    assert [site.keys() for site in report["sites"]] == [SITE_KEYS, SITE_KEYS]
    assert report["seed"] == 4
    assert report["fp32_bytes_per_exchange"] == 4 * report["params"]
    for site in report["sites"]:
        assert site["vector"] == {"north": 6, "south": 6}
        assert site["entries"] == 6
        assert site["bytes_sent"] > 6 * site["payload_bytes_mean"] > 0
    assert len({site["digest"] for site in report["sites"]}) == 1
    assert "<svg" in (out / "report.html").read_text()
    for text in ("who holds what", "elsewhere too", "all sites hold the same trunk", "report.html"):
        assert text in shown
    assert processes(out) == []

    held = [smiles(out / "sites" / name / "measurements.csv") for name in ("north", "south")]
    assert held[0] | held[1] == smiles(out / "data" / "train.csv")
    assert not held[0] & held[1]


@pytest.mark.parametrize(
    ("number", "far"), [(signal.SIGINT, training), (signal.SIGTERM, training), (signal.SIGKILL, publishing)]
)
def test_an_interrupted_run_leaves_no_process_behind(
    tables: Path, tmp_path: Path, number: signal.Signals, far: Callable[[Path], bool]
) -> None:
    out = tmp_path / "run"
    run = start(settings(tables, tmp_path, entries=100_000), out)
    until("both sites are far enough", lambda: far(out), run)
    family = processes(out)
    assert len(family) >= 5
    run.send_signal(number)
    _, errors = run.communicate(timeout=PATIENCE_S)
    if number is not signal.SIGKILL:
        assert run.returncode == ExitCode.INTERRUPTED
        assert "interrupted" in errors
    _, alive = psutil.wait_procs([p for p in family if p.pid != run.pid], timeout=PATIENCE_S)
    assert alive == []


def test_a_site_that_dies_ends_the_run_with_its_name(tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(settings(tables, tmp_path, entries=100_000), out)
    until("both sites train", lambda: training(out), run)
    pid = int((out / "sites" / "south" / "state" / "lock").read_text())
    os.kill(pid, signal.SIGKILL)
    _, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == ExitCode.SITE_FAILED
    assert "site 'south' ended with code -9" in errors
    assert processes(out) == []
