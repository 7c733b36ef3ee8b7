"""The template package, built as its supplier builds it: checked, federated by four peers, refused when altered."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file, save_file

from kmel_p2p.agreement.strict import parse_toml
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from tests.support.local_run import PATIENCE_S, write_solubility
from tests.support.trunk_packages import install_template

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]

SITES = ["north", "south", "east", "west"]


def command(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kmel_p2p.cli.main", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(path)])},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        cwd=Path(__file__).parents[2],
        check=False,
    )


def pretrained(folder: Path, model: ModelRule) -> Path:
    """A start file as a supplier makes one of a trained module: here all values are one number."""
    assert model.package is not None
    path = folder / "pretrained.safetensors"
    save_file({f"trunk.{t.name}": np.full(t.shape, 0.01, np.float32) for t in model.package.parsed}, path)
    return path


def settings(folder: Path, model: dict[str, Any], start_file: Path) -> Path:
    train, test = write_solubility(folder, [80], 20)
    run = {
        "task": "aqueous solubility with a trunk that comes as a package",
        "data": {"kind": "csv", "train": str(train), "test": str(test)},
        "sites": {"names": SITES, "preset": "sim", "deadline_s": PATIENCE_S, "start_file": str(start_file)},
        "charter": {
            "federation": "packaged",
            "model": model,
            "averaging": {"steps_per_entry": 3, "entry_limit": 3},
            "pace": {"start_sites": len(SITES)},
            "split": {"valid_fraction": 0.1, "test_fraction": 0.0},
            "assay_endpoints": [
                {"name": "solubility", "column": "SOL", "unit": "log10(mol/L)", "center": -3.0, "scale": 2.0,
                 "head": "shared"}
            ],
        },
    }  # fmt: skip
    path = folder / "packaged.toml"
    path.write_text(tomli_w.dumps(run))
    return path


def test_the_template_is_checked_federated_and_refused_when_altered(tmp_path: Path) -> None:
    installed = install_template(tmp_path)

    checked = command(installed, "trunk", "check", "trunk-template", "--hidden", "16,8", "--json")
    assert checked.returncode == ExitCode.OK, checked.stdout + checked.stderr
    found = json.loads(checked.stdout)
    assert found["holds"]
    assert found["positions"]["tensor"] == "trunk.layers.0.weight"
    drafted = command(installed, "trunk", "draft", "trunk-template", "--hidden", "16,8", "--dropout", "0")
    model = parse_toml(ModelRule, drafted.stdout.replace("[model]\n", "").replace("[model.", "["), "draft")
    assert model.package is not None
    assert model.package.sha256 == found["sha256"]

    start_file = pretrained(tmp_path, model)
    model = model.changed(start=hashlib.sha256(start_file.read_bytes()).hexdigest())
    out = tmp_path / "run"
    run = command(installed, "simulate", settings(tmp_path, model.model_dump(mode="json"), start_file), "--out", out)
    assert run.returncode == ExitCode.OK, run.stdout + run.stderr
    report = json.loads((out / "report.json").read_text())
    assert len({site["digest"] for site in report["sites"]}) == 1
    assert all(site["vector"] == dict.fromkeys(SITES, 3) for site in report["sites"])
    layout = sum(int(a) * int(b) for a, b in ((32, 2259), (16, 16))) + 32 + 16 + 2 * 16 + 2 * 8
    assert report["params"] == layout + 8 + 1

    site = out / "sites" / "north"
    (trunk,) = (site / "state" / "trunk").glob("trunk-*.safetensors")
    gain = load_file(trunk)["trunk.norms.0.weight"]
    # The template itself starts them at 1; nine entries of three steps move them little.
    assert np.abs(gain - 0.01).max() < 0.1
    table = tmp_path / "in.csv"
    table.write_text("smiles\nCCO\nc1ccccc1\n")
    predicted = command(installed, "predict", table, "--model-dir", site / "state" / "model", "--json")
    assert predicted.returncode == ExitCode.OK, predicted.stderr
    assert all(row["predictions"]["solubility"]["value"] for row in json.loads(predicted.stdout)["rows"])

    with (installed / "trunk_template" / "trunk.py").open("a") as file:
        file.write("# another build\n")
    for arguments in (("run", "--config", site / "site.toml"), ("predict", table, "--model-dir", site / "state/model")):
        refused = command(installed, *arguments)
        assert refused.returncode == ExitCode.CONFIG, refused.stdout + refused.stderr
        assert "needs the package trunk-template 1.0.0 with files of sha256" in refused.stderr
    gone = command(tmp_path, "run", "--config", site / "site.toml")
    assert gone.returncode == ExitCode.CONFIG
    assert "is not installed: pip install trunk-template==1.0.0" in gone.stderr
