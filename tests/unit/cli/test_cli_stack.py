"""predict and export of a site with a stack: names, the warning, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.learn.predict import explanation_page
from kmel_p2p.learn.predict.stack_file import STACK_FILE
from kmel_p2p.learn.stack.sides import SIDES
from tests.support.cli_harness import Run
from tests.support.stacked_site import ELSEWHERE, make_site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site().write(tmp_path_factory.mktemp("site") / "model")


def test_predict_names_the_model_behind_each_value_and_warns(folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "in.csv").write_text("smiles\n" + "\n".join(ELSEWHERE) + "\n")
    done = run("predict", tmp_path / "in.csv", "--model-dir", folder, "--json")
    assert done.code == ExitCode.OK, done.err
    document = json.loads(done.out)
    assert "less like the site's training compounds" in document["warning"]
    assert f"Warning: {document['warning']}" in done.err
    assert {value["model"] for row in document["rows"] for value in row["predictions"].values()} <= set(SIDES)
    asked = run("predict", tmp_path / "in.csv", "--model-dir", folder, "--model", "best_local")
    assert asked.code == ExitCode.OK, asked.err
    assert ",best_local@" in asked.out
    assert "Warning" not in asked.err


def test_export_says_what_it_leaves_out(folder: Path, tmp_path: Path, run: Run) -> None:
    done = run("export", tmp_path / "out", "--model-dir", folder)
    assert done.code == ExitCode.OK, done.err
    assert f"{STACK_FILE}, neighbours_STAYS.safetensors" in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "model.safetensors"}


def test_explain_writes_why_for_the_first_rows_and_says_how_many(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_page, "MOST", 3)
    (tmp_path / "in.csv").write_text("smiles,Name\nCCCO,alpha\nnonsense,beta\nC,gamma\nCCCCCN,delta\n")
    done = run("predict", tmp_path / "in.csv", "--model-dir", folder, "--explain", tmp_path / "why.html")
    assert done.code == ExitCode.OK, done.err
    assert len(done.out.splitlines()) == 5, "the table has all rows"
    assert "3 of 4 rows explained in " in done.err
    assert "stays at the site" in done.err
    assert "why.html: no atom contributions" in done.err
    page = (tmp_path / "why.html").read_text()
    assert (tmp_path / "why.html").stat().st_mode & 0o777 == 0o600
    assert [name in page for name in ("alpha", "beta", "gamma", "delta")] == [True, True, True, False]
    run("export", tmp_path / "copy", "--model-dir", folder)
    copied = run("predict", tmp_path / "in.csv", "--model-dir", tmp_path / "copy", "--explain", tmp_path / "copy.html")
    assert "no neighbours" in copied.err
    assert "stays at the site" not in copied.err + (tmp_path / "copy.html").read_text()
