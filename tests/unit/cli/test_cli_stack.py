"""predict and export of a site with a stack: names, the warning, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
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
