"""evaluate and export: what is written, what stays, and that existing files are not overwritten."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kmel_p2p.agreement.notice import PayoffStatement, encode_content
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.board.messages import NoticeRecord
from kmel_p2p.core.board.notice import sign
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.notice_board import today
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.cli_harness import Run


def test_evaluate_separates_what_may_be_shared_from_what_stays(trained: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("evaluate", "--config", trained, "--out", out, "--json")
    assert done.code == ExitCode.OK, done.err
    (report,) = json.loads(done.out)["endpoints"]
    assert set(report["models"]) == {
        "local", "federated", "personalised", "hybrid", "chosen", "baseline_median", "baseline_forest",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "evaluation.html", "predictions_STAYS.csv"}
    with (out / "predictions_STAYS.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == report["test"]
    assert all(float(row["measured"]) == pytest.approx(len(row["smiles"]) / 10) for row in rows)
    for shared in ("evaluation.json", "evaluation.html"):
        assert not any(f">{row['smiles']}<" in (out / shared).read_text() for row in rows)
    shown = run("evaluate", "--config", trained).out
    assert max(map(len, shown.split("logd has no intervals")[0].splitlines())) <= 80
    for text in ("predicts", "against local", "logd has no intervals: the model's validation fold had fewer than 19"):
        assert text in shown


def test_evaluate_says_what_all_sites_state_of_their_payoff_without_names(
    trained: Path, run: Run, tmp_path: Path
) -> None:
    site = load_site(load_config(trained))
    body = encode_content(PayoffStatement(campaign=1, classes="3"))
    store = Store(trained.parent / "state" / STORE_NAME)
    notice = sign(site.identity, site.charter.id, 0, 1, today() + 9, body)
    work_of(NoticeRecord(notice.author, 0, notice.encode()), site)(store)
    store.close()
    out = tmp_path / "out"
    assert run("evaluate", "--config", trained, "--out", out, "--json").code == ExitCode.OK
    told = json.loads((out / "evaluation.json").read_text())["all_sites"]
    assert told["sites"] == {"better": 1}
    assert "it pays for 1 of 1 sites" in (out / "evaluation.html").read_text()
    assert "north" not in json.dumps(told)


def test_evaluate_refuses_the_model_of_another_charter(trained: Path, run: Run) -> None:
    card = trained.parent / "state" / "model" / "card.json"
    raw = json.loads(card.read_text())
    card.write_text(json.dumps({**raw, "labels": {"charter_id": "ab" * 32}}))
    done = run("evaluate", "--config", trained)
    assert done.code == ExitCode.CONFIG
    assert "made under charter abababababababab" in done.err


def test_evaluate_names_a_folder_it_cannot_write(trained: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("evaluate", "--config", trained, "--out", tmp_path / "file" / "deep")
    assert done.code == ExitCode.CONFIG
    assert "cannot be written: Not a directory" in done.err


def test_export_writes_a_model_that_loads(trained: Path, run: Run, tmp_path: Path) -> None:
    done = run("export", tmp_path / "model", "--onnx", "--config", trained)
    assert done.code == ExitCode.OK, done.err
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "card.json", "model.safetensors", "local.onnx", "federated.onnx", "personalised.onnx",
    }  # fmt: skip
    again = run("export", tmp_path / "model", "--config", trained)
    assert again.code == ExitCode.CONFIG
    assert "not empty" in again.err


def test_nothing_is_exported_if_the_graphs_cannot_be(trained: Path, run: Run, tmp_path: Path) -> None:
    card = trained.parent / "state" / "model" / "card.json"
    raw = json.loads(card.read_text())
    shape = {**raw["architecture"], "trunk": "dmpnn", "descriptors": 10}
    card.write_text(json.dumps({**raw, "architecture": shape}))
    done = run("export", tmp_path / "model", "--onnx", "--config", trained)
    assert done.code == ExitCode.CONFIG
    assert "Export it without --onnx" in done.err
    assert not (tmp_path / "model").exists()


def test_what_a_site_has_not_measured_is_not_scored(trained: Path, run: Run, tmp_path: Path) -> None:
    card = trained.parent / "state" / "model" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "untrained": ["logd"]}))
    out = tmp_path / "out"
    done = run("evaluate", "--config", trained, "--out", out)
    assert done.code == ExitCode.OK, done.err
    assert "no data" in done.out
    (report,) = json.loads((out / "evaluation.json").read_text())["endpoints"]
    assert report["untrained"] is True
    assert "models" not in report
    assert "no measurements of its own" in (out / "evaluation.html").read_text()
    assert len((out / "predictions_STAYS.csv").read_text().splitlines()) == 1
