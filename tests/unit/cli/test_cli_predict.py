"""predict: every row and column stays, in order, and a row without a value says why."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from kmel_p2p.cli.exits import ExitCode
from tests.support.cli_harness import Run
from tests.support.small_model import write_small_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"))


TABLE = '\ufeffname,smiles,note\na,CCO,1\nb,bad((,"x, y"\nc\n\nd,c1ccccc1O,\ne,CCO,last\n'


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_rows_and_columns_stay_in_order(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(TABLE)
    done = run("predict", source, "-o", output, "--model-dir", model_dir)
    assert done.code == 0, done.err
    assert done.err.startswith("3 of 6 rows predicted")
    rows = table(output.read_text())
    assert rows[0] == [
        "name", "smiles", "note", "kmel_logS [log10(mol/L)]", "kmel_logS_lower", "kmel_logS_upper", "kmel_logD",
        "kmel_logD_lower", "kmel_logD_upper", "kmel_standardised",
        "kmel_similarity", "kmel_applicability", "kmel_model", "kmel_reason",
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == ["a", "b", "c", "", "d", "e"]
    assert rows[2][2:] == ["x, y", *[""] * 10, "SMILES does not parse"]
    assert rows[3][3:] == [*[""] * 10, "no SMILES"]
    assert rows[4] == [*[""] * 13, "no SMILES"]  # a blank line keeps its place
    assert rows[1][3:9] == rows[6][3:9] != rows[5][3:9]
    low, value, high = float(rows[1][4]), float(rows[1][3]), float(rows[1][5])
    assert low < value < high
    assert np.isfinite(float(rows[1][6]))
    assert rows[1][7:9] == ["", ""]  # not calibrated
    assert rows[1][12].startswith("federated/local@")
    wider = table(run("predict", source, "--model-dir", model_dir, "--level", "0.95").out)
    assert float(wider[1][4]) < low
    assert float(wider[1][5]) > high


def test_smiles_come_from_standard_input(run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, "CCO first\u00e9 one\n\nbad((\nc1ccccc1O\r\n\n".encode())
    done = run("predict", "-", "--model-dir", model_dir)
    assert done.code == 0, done.err
    assert "2 of 4 rows predicted" in done.err
    rows = table(done.out)
    # The blank line in between keeps its place, so that line n of the answer belongs to line n of the question.
    assert [row[:2] for row in rows] == [
        ["smiles", "name"], ["CCO", "first\u00e9 one"], ["", ""], ["bad((", ""], ["c1ccccc1O", ""],
    ]  # fmt: skip
    assert [row[-1] for row in rows[1:]] == ["", "no SMILES", "SMILES does not parse", ""]


@pytest.mark.parametrize(
    ("content", "first"),
    [
        (b"\xef\xbb\xbfsmiles,name\nCCO,x\n", ["CCO", "x"]),  # as spreadsheets save it
        (b"Smiles ,name\nCCO,x\n", ["CCO", "x"]),
        (b"smiles\n\nCCO\n", [""]),
        (b"id;smiles;dose\r\n7;CCO;0,5\r\n", ["7", "CCO", "0,5"]),
        (b"id\tsmiles\n7\tCCO\n", ["7", "CCO"]),
        ("smiles\tname\r\nCCO\t\u00e9thanol\r\n".encode("utf-16"), ["CCO", "\u00e9thanol"]),
    ],
)
def test_a_table_on_standard_input_is_told_by_its_header(
    run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, first: list[str]
) -> None:
    standard_input(monkeypatch, content)
    done = run("predict", "-", "--model-dir", model_dir)
    assert done.code == 0, done.err
    assert table(done.out)[1][: len(first)] == first


def test_a_table_is_read_as_the_options_say(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes("A title;\r\nid;smiles\r\n가;CCO\r\n".encode("cp949"))
    told = run("predict", source, "--model-dir", model_dir, "--encoding", "cp949", "--header-line", "2")
    assert table(told.out)[1][:2] == ["가", "CCO"]
    for given, said in (
        ((), "--encoding"),
        (("--encoding", "cp949"), "Line 2 has it: if the lines above are titles, --header-line 2"),
        (("--encoding", "latin-17"), "not a text encoding"),
        (("--encoding", "cp949", "--sheet", "a"), "no Excel workbook"),
    ):
        refused = run("predict", source, "--model-dir", model_dir, *given)
        assert refused.code in (ExitCode.DATA, ExitCode.CONFIG)
        assert said in refused.err
    bars = tmp_path / "bars.csv"
    bars.write_text("sep=|\nid|smiles\n7|CCO\n")
    assert table(run("predict", bars, "--model-dir", model_dir).out)[1][:2] == ["7", "CCO"]
    bars.write_text("id|smiles\n7|CCO\n")
    assert table(run("predict", bars, "--model-dir", model_dir, "--separator", "bar").out)[1][:2] == ["7", "CCO"]


def test_a_parquet_table_is_predicted_for(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source = tmp_path / "in.parquet"
    pd.DataFrame({"id": [7, 8], "smiles": ["CCO", None]}).to_parquet(source)
    rows = table(run("predict", source, "--model-dir", model_dir).out)
    assert [row[:2] for row in rows] == [["id", "smiles"], ["7", "CCO"], ["8", ""]]
    assert rows[2][-1] == "no SMILES"


BROKEN = "lost one\n\n\nnothing\nM  END\n> 25 <batch> (2)\nB7\nand more\n\n>  <yield>\n12\n\n$$$$\n"


@pytest.mark.parametrize("stdin", [False, True])
def test_sdf_records_keep_title_properties_and_reason(
    tmp_path: Path, run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch, stdin: bool
) -> None:
    source = tmp_path / "in.sdf"
    with Chem.SDWriter(str(source)) as writer:
        for smiles in ("CCO", "c1ccccc1O"):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("_Name", f"compound {len(smiles)}")
            molecule.SetProp("batch", smiles[:2])
            writer.write(molecule)
    source.write_text(source.read_text() + BROKEN)
    if stdin:
        standard_input(monkeypatch, source.read_bytes())
    rows = table(run("predict", "-" if stdin else source, "--model-dir", model_dir).out)
    assert [row[:4] for row in rows] == [
        ["smiles", "name", "batch", "yield"],
        ["CCO", "compound 3", "CC", ""],
        ["Oc1ccccc1", "compound 9", "c1", ""],
        ["", "lost one", "B7\nand more", "12"],
    ]
    assert [row[-1] for row in rows[1:]] == ["", "", "the structure of this record cannot be read"]


def test_json_says_everything_about_every_row(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.json"
    source.write_text(TABLE)
    done = run("predict", source, "--json", "-o", output, "--model-dir", model_dir)
    assert done.code == 0, done.err
    found = json.loads(output.read_text())
    assert [(e["name"], e["model"], bool(e["no_intervals"])) for e in found["assay_endpoints"]] == [
        ("logS", "federated", False), ("logD", "local", True),
    ]  # fmt: skip
    assert [row["input"]["name"] for row in found["rows"]] == ["a", "b", "c", "", "d", "e"]
    reasons = ["", "SMILES does not parse", "no SMILES", "no SMILES", "", ""]
    assert [row["reason"] for row in found["rows"]] == reasons
    first = found["rows"][0]["predictions"]
    assert first["logS"]["lower"] < first["logS"]["value"] < first["logS"]["upper"]
    assert first["logD"].keys() == {"value", "model"}
    assert found["rows"][1]["predictions"] == {}
    rows = table(run("predict", source, "--model-dir", model_dir).out)
    assert float(rows[1][3]) == pytest.approx(first["logS"]["value"], rel=1e-4)
    source.write_text("smiles,note,note\nCCO,a,b\n")
    refused = run("predict", source, "--json", "--model-dir", model_dir)
    assert refused.code == ExitCode.DATA
    assert "'note' more than once" in refused.err


def test_what_has_no_interval_is_said(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    done = run("predict", source, "--model-dir", model_dir)
    assert "logD has no intervals: the model's validation fold had fewer than 19 values" in done.err
    assert "logS has no" not in done.err
    high = run("predict", source, "--model-dir", model_dir, "--level", "0.99")
    assert "logS has no intervals: a level of 0.99 needs 99 values" in high.err
    assert table(high.out)[1][2:4] == ["", ""]
    assert "intervals" not in run("predict", source, "--model-dir", model_dir, "--model", "local").err


def test_what_is_not_predicted_is_said(tmp_path: Path, run: Run, model_dir: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "untrained": ["logD"]}))
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    done = run("predict", source, "--model-dir", folder)
    assert "logD is not predicted: this site had no measurements to train its private head on" in done.err
    row = table(done.out)[1]
    assert row[1]
    assert row[4:7] == ["", "", ""]
    found = json.loads(run("predict", source, "--json", "--model-dir", folder).out)
    assert [bool(e["no_values"]) for e in found["assay_endpoints"]] == [False, True]


@pytest.mark.parametrize("content", ["structure,id\nCCO,1\n", "bad((\n"])
def test_nothing_predicted_is_no_success(
    run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    standard_input(monkeypatch, content.encode())
    done = run("predict", "-", "--model-dir", model_dir)
    assert done.code == ExitCode.DATA
    assert len(table(done.out)) == content.count("\n") + 1  # the table is written all the same
    assert "not one row could be predicted" in done.err
    assert "--smiles-column" in done.err


def test_one_model_can_be_asked_for(tmp_path: Path, run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, b"SMILES\nCCO\n")
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
        (b"smi;id\nCCO;1\n", "has no column 'smiles'; it has: smi;id"),
        (b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook or ZIP archive; name a workbook .xlsx"),
        (b"smiles,smiles\nCCO,C\n", "'smiles' 2 times"),
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


def test_predicting_a_prediction_again_needs_other_column_names(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source, once = tmp_path / "in.csv", tmp_path / "once.csv"
    source.write_text("smiles\nCCO\n")
    assert run("predict", source, "-o", once, "--model-dir", model_dir).code == 0
    again = run("predict", once, "--model-dir", model_dir)
    assert again.code == ExitCode.DATA
    assert "'kmel_logS [log10(mol/L)]' already" in again.err


def test_an_empty_sdf_is_named(tmp_path: Path, run: Run, model_dir: Path) -> None:
    source = tmp_path / "in.sdf"
    source.write_text("\n")
    done = run("predict", source, "--model-dir", model_dir)
    assert done.code == ExitCode.DATA
    assert f"{source}: is empty" in done.err


def test_a_site_without_a_model_yet_says_so(site: Path, tmp_path: Path, run: Run) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    done = run("predict", source, "-c", site)
    assert done.code == ExitCode.CONFIG
    assert "no model here yet" in done.err
