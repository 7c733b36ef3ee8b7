"""data check and data approve: what is written, and the exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.dataset.catalogue import catalogue
from kmel_p2p.chem.dataset.manifest import APPROVAL, MANIFEST, require_approved
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.site.keys import load_key
from tests.support.cli_harness import Run

CHAIN = [f"{'C' * length}{end}" for length in range(1, 31) for end in ("O", "N")]


@pytest.fixture
def site(tmp_path: Path, run: Run) -> Path:
    """A site with 60 compounds and an unsigned charter that takes logD from the catalogue."""
    assert run("init", tmp_path / "founder", "--name", "north").code == ExitCode.OK
    key = load_key(tmp_path / "founder" / "site.key").key.hex()
    made = run("charter", "new", "--federation", "demo", "--site", f"north={key}", "--endpoint",
               "logd,head=shared", "-o", tmp_path / "charter.toml")  # fmt: skip
    assert made.code == ExitCode.OK, made.err
    write_data(tmp_path, [at / 10 for at in range(len(CHAIN))])
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\npath = "d.csv"\n[data.columns]\nlogd = { column = "D" }\n'
        "[resources]\nfeaturise_processes = 1\n"
    )
    return tmp_path


def write_data(folder: Path, values: list[float]) -> None:
    with (folder / "d.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("smiles", "D"), *zip(CHAIN, values, strict=False)])


def test_a_good_table_passes_and_leaves_a_report(site: Path, run: Run) -> None:
    done = run("data", "check", "--config", site / "site.toml", "--json", "--out", site / "out")
    assert done.code == ExitCode.OK, done.err
    report = json.loads(done.out)
    assert (report["found"], report["used"], report["holds"]) == (60, 60, True)
    assert json.loads((site / "out" / "data_STAYS.json").read_text()) == report
    assert "logd" in (site / "out" / "data_STAYS.html").read_text()
    assert (site / "out" / "rejects.csv").read_text().startswith("file,row")
    assert {path.stat().st_mode & 0o777 for path in (site / "out").iterdir()} == {0o600}
    assert (site / "state").stat().st_mode & 0o077 == 0, "the cache in it holds structures"


def test_a_report_that_cannot_be_written_is_a_matter_of_settings(site: Path, run: Run) -> None:
    (site / "taken").write_text("a file, where a folder is needed")
    refused = run("data", "check", "--config", site / "site.toml", "--out", site / "taken" / "out")
    assert refused.code == ExitCode.CONFIG
    assert f"{site / 'taken' / 'out' / 'rejects.csv'}: cannot be written: Not a directory" in refused.err.replace(
        "\n", " "
    )


def test_the_screen_says_what_the_page_says(site: Path, run: Run) -> None:
    write_data(site, [0.5] * 20 + [1 + at / 10 for at in range(38)] + [77.0])
    with (site / "d.csv").open("a") as handle:
        handle.write("CO,0.9\n")
    shown = run("data", "check", "--config", site / "site.toml")
    assert shown.code == ExitCode.OK, shown.err
    for said in (
        "60 measurements found = 58 used + 1 rejected + 1 aggregated",
        "logd: 0.5 to 4.7, median",
        "logd: 1 compound(s) measured several times (up to 2); standard deviation: median 0.28",
        "in train and test: 0 compounds",
        "refused: 1 for: ... is outside the charter's valid range -5 to 10 (first: line 60 D: 77.0)",
        "advice: logd: 20 of 60 values are exactly 0.5; if that is the assay's limit, declare it: low_limit = 0.5",
    ):
        assert said in shown.out


def test_a_quorum_that_is_missed_is_exit_code_8(site: Path, run: Run) -> None:
    write_data(site, [1.0] * 10)
    done = run("data", "check", "--config", site / "site.toml")
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert "10 values" in done.err


def test_approval_is_of_this_dataset_only(site: Path, run: Run) -> None:
    state = site / "state"
    assert run("data", "approve", "--config", site / "site.toml").code == ExitCode.OK
    first = json.loads((state / APPROVAL).read_text())["dataset_hash"]
    require_approved(state, first)
    write_data(site, [at / 9 for at in range(len(CHAIN))])
    run("data", "approve", "--config", site / "site.toml")
    with pytest.raises(DataError, match="changed since its approval"):
        require_approved(state, first)
    (state / APPROVAL).unlink()
    with pytest.raises(DataError, match="no dataset was approved"):
        require_approved(state, first)


def test_an_approval_says_what_looks_wrong_and_how_it_was_read(site: Path, run: Run) -> None:
    write_data(site, [0.5] * 30 + [1 + at / 10 for at in range(10)])
    done = run("data", "approve", "--config", site / "site.toml")
    assert done.code == ExitCode.OK
    assert "looks wrong: logd: 40 values" in done.err
    assert "low_limit = 0.5" in done.err
    content = json.loads((site / "state" / MANIFEST).read_text())
    assert content["settings"]["columns"] == {"logd": {"column": "D"}}
    assert content["settings"]["text"]["separator"] == ","


def test_the_catalogue_can_be_looked_at(run: Run) -> None:
    listed = run("data", "catalogue")
    assert listed.code == ExitCode.OK
    assert len(listed.out.splitlines()) == len(catalogue())
    shown = json.loads(run("data", "catalogue", "hERG", "--json").out)
    assert [(entry["name"], entry["border"], entry["positive"], entry["synonyms"]) for entry in shown] == [
        ("herg_block", "10 umol/L", "below", ["hERG"])
    ]
    assert "valid_range: 0.1, 10000.0" in run("data", "catalogue", "HLM").out
    unknown = run("data", "catalogue", "hlm_clnt")
    assert unknown.code == ExitCode.CONFIG
    assert "did you mean 'hlm_clint'?" in unknown.err
