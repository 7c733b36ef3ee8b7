"""standardise: structures in, what a federation makes of them out, without charter or settings."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.chem.structures import parallel
from kmel_p2p.cli import standardise as cli_standardise
from kmel_p2p.cli.exits import ExitCode
from tests.support.cli_harness import Run

TABLE = "smiles,n\nCC(=O)O[Na],1\nc1ccccc1O.Cc1ccccc1N,2\nC[C@H](N)C(=O)O.Cl,3\n,4\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "table.csv"
    found.write_text(TABLE)
    return found


def test_every_row_and_column_stays_and_refusals_say_why(run: Run, path: Path) -> None:
    done = run("standardise", path)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["n"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["kmel_standardised"] for row in rows] == ["CC(=O)O", "", "CC(N)C(=O)O", ""]
    assert rows[0]["kmel_changes"] == "salt removed: sodium; charge neutralised"
    assert rows[0]["kmel_identity"] == "QTBSBXVTEAMEQO"
    assert rows[1]["kmel_reason"].startswith("a mixture of 2 organic parts")
    assert rows[3]["kmel_reason"] == "no SMILES"
    assert "2 of 4 structures standardised, 2 refused" in done.err
    assert "2 rows: salt removed" in done.err


def test_json_has_changes_and_counts_and_settings_are_the_charters(run: Run, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run("standardise", path, "--json", "--stereo", "keep", "--mixtures", "largest", "--output", out)
    document = json.loads(out.read_text())
    assert document["refused"] == 1
    assert document["counts"]["smaller part removed"] == 1
    second, third = document["rows"][1:3]
    assert second["input"] == {"smiles": "c1ccccc1O.Cc1ccccc1N", "n": "2"}
    assert second["changes"] == [{"kind": "smaller part removed", "detail": "Oc1ccccc1"}]
    assert third["standardised"] == "C[C@H](N)C(=O)O"
    assert third["identity"].startswith("QNAYBMKLOCPYGJ-")


def test_a_table_with_such_a_column_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "again.csv"
    path.write_text("smiles,kmel_reason\nCCO,\n")
    done = run("standardise", path)
    assert done.code == ExitCode.DATA
    assert "already" in done.err


def test_no_more_processes_than_cores_that_may_be_used(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = parallel.map_blocks

    def map_blocks(work: Any, blocks: Any, *, workers: int, **further: Any) -> Any:
        asked.append(workers)
        return plain(work, blocks, workers=1, **further)

    monkeypatch.setattr(parallel, "map_blocks", map_blocks)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 3)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    run("standardise", path)
    assert asked == [3]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_file_is_worked_on_block_by_block(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.setattr(cli_standardise, "BLOCK", 3)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 1)
    path, out = tmp_path / "table.csv", tmp_path / "out"
    path.write_text("smiles,n\n" + "".join(f"{'C' * at}CO,{at}\n" for at in range(8)) + "no,8\n")
    done = run("standardise", path, "-o", out, *option)
    assert "8 of 9 structures standardised, 1 refused" in done.err
    if option:
        document = json.loads(out.read_text())
        rows = [{**row["input"], "kmel_standardised": row["standardised"]} for row in document["rows"]]
        assert (document["refused"], document["counts"]) == (1, {})
    else:
        rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["n"] for row in rows] == [str(at) for at in range(9)]
    assert [row["kmel_standardised"] for row in rows] == [*(f"{'C' * at}CO" for at in range(8)), ""]


def test_a_failure_leaves_no_half_written_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_standardise, "BLOCK", 1)
    monkeypatch.setattr(parallel, "usable_cores", lambda: 1)
    path, out = tmp_path / "table.csv", tmp_path / "out.csv"
    path.write_text(TABLE)
    out.write_text("former\n")

    def changes(*given: Any, **further: Any) -> Any:
        path.write_text(TABLE + "CCO,5\n")
        return []

    monkeypatch.setattr(cli_standardise, "standardise_chunk", changes)
    assert run("standardise", path, "-o", out).code != 0
    assert out.read_text() == "former\n"
