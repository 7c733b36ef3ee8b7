"""What `load(...).predict` takes, and that its columns are those of the command."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

import kmel_p2p
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.cli.main import invoke
from kmel_p2p.learn.predict.predict import Model
from tests.support.small_model import HERG, LOGD, LOGS, write_small_model

SMILES = ["CCO", "bad((", "c1ccccc1O"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"), (LOGS, LOGD, HERG))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return kmel_p2p.load(folder)


def molecule(smiles: str) -> Chem.Mol:
    found: Chem.Mol = Chem.MolFromSmiles(smiles)
    return found


@pytest.mark.parametrize(
    ("given", "smiles"),
    [
        ("CCO", ["CCO"]),
        (molecule("CCO"), ["CCO"]),
        (["CCO", "CC"], ["CCO", "CC"]),
        ((smiles for smiles in ("CCO", "CC")), ["CCO", "CC"]),
        (np.array(["CCO", None, np.nan], object), ["CCO", "", ""]),
        ([molecule("OCC"), None, "CC"], ["CCO", "", "CC"]),
        ([], []),
    ],
)
def test_structures_without_a_table_become_one(model: Model, given: Any, smiles: list[str]) -> None:
    found = model.predict(given)
    assert list(found["smiles"]) == smiles
    assert list(found["kmel_reason"]) == ["" if text else "no SMILES" for text in smiles]
    assert found["kmel_logD"].notna().tolist() == [bool(text) for text in smiles]


def test_the_columns_are_those_that_the_command_writes(
    model: Model, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,smiles\n" + "".join(f"{at},{smiles}\n" for at, smiles in enumerate(SMILES)))
    assert invoke(["predict", str(path), "--model-dir", str(folder), "--level", "0.8"]) == 0
    written = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for found in (model.predict(path, level=0.8), model.predict(pd.read_csv(path, dtype=str), level=0.8)):
        assert list(found.columns) == list(written[0])
        for name in found.columns:
            for value, text in zip(found[name], (row[name] for row in written), strict=True):
                shown = value if isinstance(value, str) else "" if np.isnan(value) else f"{value:.6g}"
                assert shown == text, name
    numbers = found.select_dtypes(float).columns
    assert {"kmel_logS [log10(mol/L)]", "kmel_logS_lower", "kmel_herg", "kmel_similarity"} <= set(numbers)
    one = model.predictions(SMILES, level=0.8)[0]
    assert found["kmel_herg"][0] == one.assays["herg"].value, "in full"


def test_a_table_keeps_index_order_and_types(model: Model) -> None:
    table = pd.DataFrame({"Smiles ": SMILES, "dose": [1, 2, 3]}, index=["c", "b", "c"])
    found = model.predict(table)
    assert list(found.index) == ["c", "b", "c"]
    assert found["dose"].dtype == table["dose"].dtype
    assert list(table.columns) == ["Smiles ", "dose"], "what was given is not changed"
    assert list(model.predict(table["Smiles "]).index) == ["c", "b", "c"]
    drawn = pd.DataFrame({"ROMol": [molecule("CCO"), None]})
    assert list(model.predict(drawn, smiles_column="ROMol")["kmel_standardised"]) == ["CCO", ""]


def test_files_are_read_as_the_command_reads_them(model: Model, tmp_path: Path) -> None:
    pd.DataFrame({"id": [1, 2, 3], "structure": SMILES}).to_parquet(tmp_path / "in.parquet")
    found = model.predict(tmp_path / "in.parquet", smiles_column="structure")
    assert found["id"].dtype == np.int64
    (tmp_path / "in.smi").write_text("CCO ethanol\n\nCC\n")
    lines = model.predict(tmp_path / "in.smi")
    assert lines[["smiles", "name"]].to_numpy().tolist() == [["CCO", "ethanol"], ["", ""], ["CC", ""]]
    (tmp_path / "in.sdf").write_text("lost\n\n\nnothing\nM  END\n> <batch>\nB7\n\n$$$$\n")
    (row,) = model.predict(tmp_path / "in.sdf").to_dict("records")
    assert (row["name"], row["batch"]) == ("lost", "B7")
    assert row["kmel_reason"] == "the structure of this record cannot be read"


@pytest.mark.parametrize("given", [3, None, b"CCO", {"smiles": ["CCO"]}])
def test_anything_else_is_refused(model: Model, given: Any) -> None:
    with pytest.raises(TypeError, match="predict takes SMILES"):
        model.predict(given)


def test_what_cannot_be_meant_says_what_to_do(model: Model, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"predict\(Path\('in.csv'\)\)"):
        model.predict("in.csv")
    with pytest.raises(DataError, match=r"no column 'smiles'; it has: a, b\. Name it with smiles_column"):
        model.predict(pd.DataFrame({"a": ["CCO"], "b": [1]}))
    with pytest.raises(DataError, match=r"'kmel_logS \[log10\(mol/L\)\]' already"):
        model.predict(model.predict("CCO"))
    with pytest.raises(DataError, match="no such file"):
        model.predict(tmp_path / "none.csv")
