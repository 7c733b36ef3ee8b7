"""Files of structures in blocks: the same rows for any size of a block, and the same properties as RDKit finds."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.read.sdf import sdf_records
from kmel_p2p.chem.read.structure_file import InputForm, StructureFile
from kmel_p2p.chem.read.table_file import InputFile, standard_input
from kmel_p2p.chem.structures.parallel import map_blocks

SMILES = ["CCO", "", "c1ccccc1", "CC(=O)O", "CCN", "CCCl", "C1CC1"]


def sdf_text() -> str:
    out = io.StringIO()
    with Chem.SDWriter(out) as writer:
        for at, smiles in enumerate(filter(None, SMILES)):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("_Name", f"compound {at}")
            molecule.SetProp("batch", f"B{at}\nsecond line")
            if at % 2:
                molecule.SetProp("note <odd>", "x")
            molecule.SetProp("empty", "")
            writer.write(molecule)
    return out.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.csv").write_text("id,smiles\n" + "".join(f"{at},{s}\n" for at, s in enumerate(SMILES)) + "\n,\n\n")
    (folder / "a.smi").write_text("\n".join(SMILES) + "\n\n \n")
    (folder / "a.sdf").write_text(sdf_text())
    pd.DataFrame({"id": range(7), "smiles": SMILES}).to_parquet(folder / "a.parquet", row_group_size=3)
    return {path.suffix: path for path in folder.iterdir()}


@given(st.sampled_from([".csv", ".smi", ".sdf", ".parquet"]), st.integers(0, 8), st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_of_any_size_make_the_same_rows(
    sources: dict[str, Path], suffix: str, start: int, stop: int, size: int
) -> None:
    file = StructureFile(InputFile(sources[suffix]), InputForm())
    assert file.count == (6 if suffix == ".sdf" else 7)
    (whole,) = file.blocks(0, file.count, 100)
    assert len(whole.rows) == file.count
    blocks = list(file.blocks(start, stop, size))
    assert [row for block in blocks for row in block.rows] == whole.rows[start:stop]
    assert all(0 < len(block.rows) <= size for block in blocks)
    for block in blocks:
        assert (block.stored is not None) == (suffix == ".parquet")
        assert block.stored is None or block.stored.num_rows == len(block.rows)


def test_a_file_that_somebody_writes_meanwhile_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("smiles\nCCO\nCCN\n")
    file = StructureFile(InputFile(path), InputForm())
    path.write_text("smiles\nCCO\nCCN\nCCC\n")
    with pytest.raises(DataError, match="has changed while it was read"):
        list(file.blocks(0, file.count, 10))
    path.write_text("smiles\nCCO\n")
    with pytest.raises(DataError, match="has changed while it was read"):
        list(file.blocks(0, file.count, 10))


def test_standard_input_is_read_more_than_once_and_by_several_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"smiles;id\nCCO;1\nCCN;2\n")))
    with standard_input() as file:
        found = StructureFile(file, InputForm())
        assert found.header == ["smiles", "id"]
        first, second = found.blocks(0, 2, 1), found.blocks(0, 2, 1)
        assert [next(first).rows, next(second).rows, next(first).rows] == [[["CCO", "1"]], [["CCO", "1"]],
                                                                         [["CCN", "2"]]]  # fmt: skip


def test_properties_of_a_record_are_those_that_rdkit_finds() -> None:
    supplier = Chem.SDMolSupplier()
    supplier.SetData(sdf_text())
    expected = [molecule.GetPropsAsDict(autoConvertStrings=False) for molecule in supplier]
    assert [dict(record.properties) for record in sdf_records(io.StringIO(sdf_text()))] == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_blocks_are_worked_on_in_order_and_taken_as_they_are_needed(workers: int) -> None:
    taken: list[int] = []
    done: list[int] = []

    def blocks() -> object:
        for start in range(0, 4000, 20):
            taken.append(start)
            yield list(range(start, start + 20))

    found = map_blocks(sum, blocks(), chunk=5, workers=workers, lost=abs, done=done.append)  # type: ignore[arg-type]
    assert next(found) == [sum(range(at, at + 5)) for at in range(0, 20, 5)]
    assert len(taken) <= 5, "memory for a few blocks, not for all"
    rest = list(found)
    assert len(rest) == 199
    assert rest[-1][-1] == sum(range(3995, 4000))
    assert sum(done) == 4000


def test_a_single_chunk_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmel_p2p.chem.structures.parallel.ProcessPoolExecutor", None)
    assert list(map_blocks(sum, [[1, 2, 3]], chunk=5, workers=8, lost=abs)) == [[6]]
    assert list(map_blocks(sum, [], chunk=5, workers=8, lost=abs)) == []


def test_utf16_without_a_mark_is_called_what_it_is_and_read_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes("smiles,x\nCCO,1\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"NUL characters in line 1: UTF-16 without a byte order mark.*utf-16-le"):
        StructureFile(InputFile(path), InputForm())
    file = StructureFile(InputFile(path), InputForm(encoding="utf-16-le"))
    assert [block.rows for block in file.blocks(0, file.count, 10)] == [[["CCO", "1"]]]
