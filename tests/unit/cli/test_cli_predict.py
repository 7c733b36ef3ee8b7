"""predict: every row and column stays, in order, and a row without a value says why."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from cli_harness import Run
from rdkit import Chem

from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.features import reference_hash
from kmel_p2p.chem.policy import FeaturePolicy
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.learn.architecture import Architecture, exchanged_layout, private_layout
from kmel_p2p.learn.model import Card, write_model
from kmel_p2p.learn.uncertainty import Calibration


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    policy = FeaturePolicy(bits=64)
    endpoints = (AssayEndpoint(name="logS", unit="log10(mol/L)", head="shared"), AssayEndpoint(name="logD"))
    architecture = Architecture(policy.width, (4,), endpoints)
    rng = np.random.default_rng(0)
    parameters = {
        name: (
            rng.normal(size=exchanged_layout(architecture).size).astype(np.float32),
            rng.normal(size=private_layout(architecture).size).astype(np.float32),
        )
        for name in ("local", "federated", "personalised")
    }
    card = Card(architecture, policy, reference_hash(policy), {"logS": "federated", "logD": "local"}, {}, {},
                uncertainty={"logS": Calibration(tuple(np.arange(1, 41) / 20), 0.5).plain()})  # fmt: skip
    write_model(folder, card, parameters)
    return folder


TABLE = '\ufeffname,smiles,note\na,CCO,1\nb,bad((,"x, y"\nc\n\nd,c1ccccc1O,\ne,CCO,last\n'


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_rows_and_columns_stay_in_order(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(TABLE)
    done = run("predict", source, "-o", output, "--model-dir", model_dir)
    assert done.code == 0, done.err
    assert "3 of 5 rows predicted" in done.err
    rows = table(output.read_text())
    assert rows[0] == [
        "name", "smiles", "note", "kmel_logS [log10(mol/L)]", "kmel_logS_lower", "kmel_logS_upper", "kmel_logD",
        "kmel_logD_lower", "kmel_logD_upper", "kmel_similarity", "kmel_applicability", "kmel_model", "kmel_reason",
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == ["a", "b", "c", "d", "e"]
    assert rows[2][2:] == ["x, y", *[""] * 9, "SMILES does not parse"]
    assert rows[3][3:] == [*[""] * 9, "no SMILES"]
    assert rows[1][3:9] == rows[5][3:9] != rows[4][3:9]
    low, value, high = float(rows[1][4]), float(rows[1][3]), float(rows[1][5])
    assert low < value < high
    assert np.isfinite(float(rows[1][6]))
    assert rows[1][7:9] == ["", ""]  # not calibrated
    assert rows[1][11].startswith("federated/local@")
    wider = table(run("predict", source, "--model-dir", model_dir, "--level", "0.95").out)
    assert float(wider[1][4]) < low
    assert float(wider[1][5]) > high


def test_smiles_come_from_standard_input(run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("CCO first one\n\nbad((\nc1ccccc1O\n"))
    done = run("predict", "-", "--model-dir", model_dir)
    assert done.code == 0, done.err
    rows = table(done.out)
    assert [row[:2] for row in rows] == [["smiles", "name"], ["CCO", "first one"], ["bad((", ""], ["c1ccccc1O", ""]]
    assert [bool(row[-1]) for row in rows[1:]] == [False, True, False]


def test_sdf_records_keep_their_properties(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source = tmp_path / "in.sdf"
    with Chem.SDWriter(str(source)) as writer:
        for smiles in ("CCO", "c1ccccc1O"):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("batch", smiles[:2])
            writer.write(molecule)
    source.write_text(source.read_text() + "broken\n\n\nnothing\nM  END\n$$$$\n")
    rows = table(run("predict", source, "--model-dir", model_dir).out)
    assert [row[1] for row in rows] == ["batch", "CC", "c1", ""]
    assert [bool(row[-1]) for row in rows[1:]] == [False, False, True]


def test_one_model_can_be_asked_for(tmp_path: Path, run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SMILES\nCCO\n"))
    done = run("predict", "-", "--smiles-column", "SMILES", "--model", "hybrid", "--model-dir", model_dir)
    assert done.code == 0, done.err
    row = table(done.out)[1]
    assert row[-2].startswith("hybrid@")
    assert row[2:4] == ["", ""]  # intervals belong to the chosen model


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"name,structure\na,CCO\n", "it has: name, structure. Use --smiles-column"),
        (b"smiles\n\xff\n", "not UTF-8"),
        (b"smiles\nCCO,extra\n", "row 2 has 2 fields"),
        (None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, run: Run, model_dir: Path, content: bytes | None, said: str
) -> None:
    source = tmp_path / "in.csv"
    if content is not None:
        source.write_bytes(content)
    done = run("predict", source, "--model-dir", model_dir)
    assert done.code == ExitCode.DATA
    assert said in done.err
    assert str(source) in done.err


def test_a_site_without_a_model_yet_says_so(site: Path, tmp_path: Path, run: Run) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    done = run("predict", source, "-c", site)
    assert done.code == ExitCode.CONFIG
    assert "no model here yet" in done.err
