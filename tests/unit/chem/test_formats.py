"""Every input format, declared limits, thresholds and embargo lists; each value is accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from kmel_p2p.agreement.columns import Column, EmbargoSection, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.manifest import manifest

POLICY = FeatureRule(bits=64)
LOGD = AssayEndpoint(name="logd")
HALF_LIFE = AssayEndpoint(name="half_life", unit="min", transform="log10")
EFFLUX = AssayEndpoint(name="efflux")
AMES = AssayEndpoint(name="ames", kind="classification")
HERG = AssayEndpoint(name="herg", kind="classification")

LONG_HEADER = (
    "Chemical ID,Chemical Name,SMILES_Structure_Parent,SMILES_Salt,Test,Test_Type,Test_Subject,Measurement_Type,"
    "Measurement_Condition,Measurment_Relation,Measurement_Value,Measurement_Unit\n"
)


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_kmelloddy_rows_are_mapped_whole_and_the_rest_is_listed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "long.csv",
        LONG_HEADER
        + 'A,,CCO,,Metabolic stability,Liver_microsomes,Human,T1/2,,"""=""",1,hr\n'  # 2
        + "B,,CCN,,Metabolic_stability,liver microsomes,Human,T1/2,,>,60,min\n"
        + "C,,CCC,,Metabolic_stability,Liver_microsomes,Mouse,T1/2,,,5,min\n"  # 4: mouse is not mapped
        + "D,,CCCl,,Metabolic_stability,Liver_microsomes_Phase_II,Human,T1/2,,,5,min\n"  # 5: nor is phase II
        + "E,,CCBr,,Metabolic_stability,Liver_microsomes,Human,T1/2,,,5,um\n"  # 6: not a time
        + "F,,CCF,,Toxicity,Ames,,TA98_S9+,,,,Positive\n"
        + "G,,CCI,,Toxicity,Ames,,TA98_S9+,,Non-Toxic,,\n"
        + 'H,,,OCCO.Cl,Efflux_transporter,P_gp,Caco-2,efflux_Ratio,,,"[2,6]",ratio\n'
        + "I,,CCS,,Metabolic_stability,Liver_microsomes,Human,T1/2,,~,5,min\n",  # 10: no relation
    )
    microsomes = {"Test_Type": "Liver_microsomes", "Test_Subject": "Human", "Measurement_Type": "T1/2"}
    got = ingest(
        Source(
            format="kmelloddy",
            path=path,
            columns={
                "half_life": Column(match=microsomes),
                "ames": Column(match={"Test_Type": "Ames"}),
                "efflux": Column(match={"Test_Type": "P_gp"}, part="ratio", unit=""),
            },
        ),
        (HALF_LIFE, AMES, AssayEndpoint(name="efflux", unit="ratio")),
        POLICY,
    )
    assert got.structures.smiles == ["CCO", "CCN", "CCF", "CCI", "OCCO"]
    assert got.labels[:2, 0] == pytest.approx(np.log10([60, 60]))
    assert got.relations[:2, 0].tolist() == [0, 1]
    assert got.labels[2:4, 1].tolist() == [1, 0]
    assert got.labels[4, 2] == pytest.approx(3)
    assert {reject.row: reject.reason.split(":")[0].split(" ")[0] for reject in got.rejects} == {
        4: "unmapped",
        5: "unmapped",
        6: "unit",
        10: "not",
    }
    assert got.total.found == 9 == got.rows_in
    assert got.readings[0].units == {"hr": 1, "min": 1}


def test_a_kmelloddy_list_needs_to_be_told_which_part_is_meant(tmp_path: Path) -> None:
    path = write(tmp_path, "long.csv", LONG_HEADER + 'H,,CCO,,Efflux_transporter,P_gp,,,,,"[2,6]",\n')
    source = Source(format="kmelloddy", path=path, columns={"efflux": Column(match={"Test_Type": "P_gp"})})
    got = ingest(source, (EFFLUX,), POLICY)
    assert "data.columns.efflux.part" in got.rejects[0].reason


def test_tuner_tables_are_joined(tmp_path: Path) -> None:
    assays = write(tmp_path, "T0.csv", "input_assay_id,assay_type\n7,OTHER\n8,OTHER\n")
    structures = write(tmp_path, "T2.csv", "input_compound_id,smiles\na,CCO\nb,CCN\n")
    values = write(
        tmp_path,
        "T1.csv",
        "input_assay_id,input_compound_id,standard_qualifier,standard_value\n"
        "7,a,=,1.5\n7,b,<,2\n8,a,=,1\n9,a,=,1\n7,c,=,1\n7,a,?,1\n7,b,=,\n",
    )
    got = ingest(
        Source(format="tuner", path=values, structures=structures, columns={"logd": Column(column="7")}, assays=assays),
        (LOGD,),
        POLICY,
    )
    assert got.labels[:, 0].tolist() == [1.5, 2]
    assert got.relations[:, 0].tolist() == [0, -1]
    assert [reject.row for reject in got.rejects] == [4, 5, 6, 7, 8]
    assert (got.total.found, got.total.used, got.total.rejected) == (7, 2, 5)


def test_tuner_thresholds_make_classes(tmp_path: Path) -> None:
    assays = write(
        tmp_path,
        "T0.csv",
        "input_assay_id,expert_threshold_1,expert_threshold_2,direction,is_binary\n"
        "7,5,6.5,,False\n8,-6,,low,False\n9,,,,True\n10,,,,False\n11,5,,up,False\n12,five,,,False\n",
    )
    structures = write(tmp_path, "T2.csv", "input_compound_id,smiles\na,CCO\nb,CCN\nc,CCC\n")
    lines = "".join(f"{assay},{c},=,{v}\n" for assay, vs in (("7", (4, 6, 7)), ("8", (-7, -5, -6)), ("9", (0, 1, 1)))
                    for c, v in zip("abc", vs, strict=True))  # fmt: skip
    header = "input_assay_id,input_compound_id,standard_qualifier,standard_value\n"
    values = write(tmp_path, "T1.csv", header + lines)
    endpoint = AssayEndpoint(name="active", kind="classification")

    def classes(column: Column) -> list[float]:
        got = ingest(
            Source(format="tuner", path=values, structures=structures, columns={"active": column}, assays=assays),
            (endpoint,),
            POLICY,
        )
        return got.labels[:, 0].tolist()

    assert classes(Column(column="7")) == [0, 1, 1]
    assert classes(Column(column="7", expert_threshold=2)) == [0, 0, 1]
    assert classes(Column(column="7", threshold=4, positive="below")) == [1, 0, 0]
    assert classes(Column(column="8")) == [1, 0, 1]
    assert classes(Column(column="9")) == [0, 1, 1]
    for column, said in (("10", "expert_threshold_1 is empty"), ("11", "direction is 'up'"), ("12", "is 'five'")):
        with pytest.raises(ConfigError, match=rf"T0\.csv: assay '{column}'.*{said}"):
            classes(Column(column=column))


def test_sdf_records_carry_their_values_as_properties(tmp_path: Path) -> None:
    path = tmp_path / "data.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles, value in (("CCO", "1.5"), ("CCN", ">3")):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("D", value)
            writer.write(molecule)
    text = path.read_text()
    path.write_text(text + "broken\n\n\nno counts\nM  END\n$$$$\n")
    got = ingest(Source(format="sdf", path=path, columns={"logd": Column(column="D")}), (LOGD,), POLICY)
    assert got.structures.smiles == ["CCO", "CCN"]
    assert got.labels[:, 0].tolist() == [1.5, 3]
    assert got.relations[:, 0].tolist() == [0, 1]
    assert [(reject.row, reject.column) for reject in got.rejects] == [(text.count("\n") + 1, "structure")]
    with pytest.raises(ConfigError, match="no record has a property 'E'"):
        ingest(Source(format="sdf", path=path, columns={"logd": Column(column="E")}), (LOGD,), POLICY)


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pd.DataFrame({"smiles": ["CCO", "CCN", None], "D": [1.5, None, 2.0]}).to_parquet(path)
    got = ingest(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), (LOGD,), POLICY)
    assert got.labels[:, 0].tolist() == [1.5]
    assert [(reject.row, reject.reason) for reject in got.rejects] == [
        (3, "no measurement in this row"),
        (4, "no SMILES"),
    ]
    # The bytes of a text that is none, as after damage; pandas writes them uncompressed here.
    pd.DataFrame({"smiles": ["CCO", "CCNCC"], "D": [1.5, 2.0]}).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"CCNCC", b"CC\xffCC"))
    with pytest.raises(DataError, match=r"data\.parquet: cannot be read as Parquet"):
        ingest(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), (LOGD,), POLICY)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        ingest(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), (LOGD,), POLICY)


def test_values_on_a_declared_limit_become_bounds(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "smiles,D\nCCO,0.675686709\nCCN,2\nCCC,0.5\nCCF,9\nCCCl,>1\n")
    column = Column(column="D", low_limit=0.67568671, high_limit=9.0)
    got = ingest(Source(path=path, smiles_column="smiles", columns={"logd": column}), (LOGD,), POLICY)
    assert got.relations[:, 0].tolist() == [-1, 0, -1, 1, 1]
    assert got.labels[2, 0] == pytest.approx(0.67568671)
    assert got.readings[0].limited == 3


@pytest.mark.parametrize(
    ("positive", "expected"), [("below", {2: 1.0, 3: 1.0, 4: 0.0, 5: 0.0}), ("above", {2: 0.0, 3: 1.0, 4: 1.0, 5: 1.0})]
)
def test_a_threshold_makes_classes_unless_a_bound_leaves_it_open(
    tmp_path: Path, positive: str, expected: dict[int, float]
) -> None:
    path = write(tmp_path, "d.csv", "smiles,IC50\nCCO,1\nCCN,10\nCCC,11\nCCF,>30\nCCCl,>1\nCCBr,<30\n")
    column = Column(column="IC50", threshold=10.0, positive=positive)  # type: ignore[arg-type]
    got = ingest(Source(path=path, smiles_column="smiles", columns={"herg": column}), (HERG,), POLICY)
    assert got.labels[:, 0].tolist() == list(expected.values())
    assert [reject.row for reject in got.rejects] == [6, 7]


def test_an_embargo_keeps_compounds_scaffolds_and_projects_back(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "d.csv",
        "smiles,D,P\nCCO,1,a\nCC(N)C(=O)O,1,a\nCC[C@H](C)N,1,a\nc1ccc2ccccc2c1O,1,a\nCCCCl,1,Secret\nCCCBr,1,a\n",
    )
    listed = write(tmp_path, "compounds.txt", "# ours\nOCC\nQNAYBMKLOCPYGJ-REOHCLBHSA-N\nBHRZNVHARXXAHW\n")
    scaffolds = write(tmp_path, "scaffolds.txt", "c1ccc2ccccc2c1CC\n")
    embargo = EmbargoSection(compounds=listed, scaffolds=scaffolds, project_column="P", projects=("secret",))
    source = Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}, embargo=embargo)
    got = ingest(source, (LOGD,), POLICY)
    assert got.structures.smiles == ["CCCBr"]
    assert [reject.row for reject in sorted(got.rejects, key=lambda r: r.row)] == [2, 3, 4, 5, 6]
    assert all(reject.reason.startswith("embargo: ") for reject in got.rejects)
    account = manifest(source, got)
    assert account["refused_for"]["embargo: the compound is on the list"] == 3
    assert len(account["files"]) == 3
    listed.write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1: 'nonsense' is not a SMILES or InChIKey"):
        ingest(source, (LOGD,), POLICY)
