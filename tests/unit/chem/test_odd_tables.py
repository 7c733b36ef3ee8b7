"""Tables as spreadsheets, LIMS and ChEMBL write them: understood where told how, else refused with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rdkit import Chem

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.read.cells import ABOVE, BELOW, CellError, read_date, read_number, read_relation

POLICY = FeatureRule(bits=64)
LOGD = AssayEndpoint(name="logd")
IC50 = AssayEndpoint(name="ic50", unit="umol/L", transform="log10")
AMES = AssayEndpoint(name="ames", kind="classification")


def wide(tmp_path: Path, content: str | bytes, column: Column, endpoint: AssayEndpoint = LOGD,
         name: str = "d.csv", **written: Any) -> Measurements:  # fmt: skip
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ingest(
        Source(path=path, smiles_column="smiles", columns={endpoint.name: column}, **written), (endpoint,), POLICY
    )


def test_a_spreadsheet_with_semicolons_and_decimal_commas_is_read_when_told_so(tmp_path: Path) -> None:
    table = "\ufeffsmiles;D\r\nCCO;1,5\r\nCCN;<2,25\r\nCCC;1.5\r\n"
    with pytest.raises(ConfigError, match=r"looks separated by ';': set data\.separator = \";\", and data\.decimal"):
        wide(tmp_path, table, Column(column="D"))
    got = wide(tmp_path, table, Column(column="D"), separator=";", decimal=",")
    assert got.labels[:, 0].tolist() == [1.5, 2.25]
    assert got.relations[:, 0].tolist() == [0, BELOW]
    assert [(reject.row, reject.reason) for reject in got.rejects] == [
        (4, "not a number; data.decimal is ',' and this has a point")
    ]
    tabs = wide(tmp_path, table.replace(";", "\t").replace(",", "."), Column(column="D"), separator="\t")
    assert tabs.labels[:, 0].tolist() == [1.5, 2.25, 1.5]


def test_other_encodings_are_named_not_guessed(tmp_path: Path) -> None:
    table = "smiles,D,비고\nCCO,1.5,a\nCCN,2,가\n"
    with pytest.raises(DataError, match=r"d\.csv: not UTF-8 text \(.* in line 1\); .*data\.encoding"):
        wide(tmp_path, table.encode("cp949"), Column(column="D"))
    assert len(wide(tmp_path, table.encode("cp949"), Column(column="D"), encoding="cp949")) == 2
    assert len(wide(tmp_path, table.encode("utf-16"), Column(column="D"), encoding="utf-16")) == 2
    assert len(wide(tmp_path, table.encode("utf-16"), Column(column="D"))) == 2  # it begins with a mark that says so
    with pytest.raises(DataError, match=r"in line 3\)"):
        wide(tmp_path, b"smiles,D\nCCO,1\nCC\xff,2\n", Column(column="D"))
    with pytest.raises(ValidationError, match=r"data\.encoding is 'latin-17'"):
        wide(tmp_path, table, Column(column="D"), encoding="latin-17")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04\xff", "Excel workbook"), (b"PK\x03\x04", "Excel workbook"), (b"\x1f\x8b\x08\xff", "gzip")],
)
def test_files_that_are_no_csv_are_called_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        wide(tmp_path, content, Column(column="D"))


def test_separators_at_the_end_of_lines_cost_no_row(tmp_path: Path) -> None:
    got = wide(tmp_path, "smiles,D\nCCO,1,,\nCCN,2, \nCCC,3,4\nCCF\n,,,\n", Column(column="D"))
    assert got.labels[:, 0].tolist() == [1, 2]
    assert [(reject.row, reject.reason) for reject in got.rejects] == [
        (4, "3 cells where the header has 2"),
        (5, "1 cells where the header has 2"),
    ]


def test_a_column_in_other_letters_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'smiles' \(data\.smiles_column\); did you mean 'SMILES'\?"):
        wide(tmp_path, "SMILES,D\nCCO,1\n", Column(column="D"))


@pytest.mark.parametrize("written", ["=<5", "<<5", "≤ 5", "＜5", "<=5"])
def test_relations_as_people_type_them(written: str) -> None:
    reading = read_number(written)
    assert (reading.value, reading.relation) == (5.0, BELOW)
    assert read_number("−1.5\u00a0").value == -1.5
    assert read_relation("'>>'") == ">>"
    assert read_relation('"="') == ""


@pytest.mark.parametrize(
    ("written", "hint"),
    [("~5", "approximate"), ("5.0 uM", "unit_column"), ("BLOQ", "limit itself"), ("1-2", "a range"),
     ("1,000", "data.decimal"), ("<>5", "not a number"), ("5 5", "not a number"), ("10+", "write it as >="),
     ("1,234.5", "between the thousands"), ("1.234,5", "between the thousands"), ("1,234,567", "between the thousands"),
     ("1 234", "between the thousands"), ("10 ± 2", "the value alone"), ("10 +/- 2", "the value alone"),
     ("10 (n=2)", "the value alone"), ("BLQ", "limit itself"), ("<LLOQ", "limit itself"), ("ALOQ", "limit itself"),
     ("no data", "data.missing"), ("BLQ", "data.missing")],
)  # fmt: skip
def test_other_cells_are_refused_with_what_to_do(written: str, hint: str) -> None:
    with pytest.raises(CellError, match=hint):
        read_number(written)


def test_titles_above_the_header_are_passed_over_when_told_so(tmp_path: Path) -> None:
    table = "Assay report\n\nsmiles,D\nCCO,1\nCCN,x\n"
    with pytest.raises(ConfigError, match=r"'smiles'.* in line 1; line 3 has one: set data\.header_line = 3"):
        wide(tmp_path, table, Column(column="D"))
    got = wide(tmp_path, table, Column(column="D"), header_line=3)
    assert got.labels[:, 0].tolist() == [1]
    assert [reject.row for reject in got.rejects] == [5]
    with pytest.raises(DataError, match="empty from line 9"):
        wide(tmp_path, table, Column(column="D"), header_line=9)


def test_a_first_line_may_say_what_separates_the_cells(tmp_path: Path) -> None:
    got = wide(tmp_path, "sep=;\r\nsmiles;D\r\nCCO;1\r\nCCN;x\r\n", Column(column="D"))
    assert got.labels[:, 0].tolist() == [1]
    assert [reject.row for reject in got.rejects] == [4]
    titled = wide(tmp_path, '"sep=\t"\nA title\nsmiles\tD\nCCO\t1\n', Column(column="D"), header_line=3)
    assert len(titled) == 1
    with pytest.raises(ConfigError, match=r"says that ';' separates its cells, the settings say '\|'"):
        wide(tmp_path, "sep=;\nsmiles;D\nCCO;1\n", Column(column="D"), separator="|")


def test_own_words_may_mean_not_measured(tmp_path: Path) -> None:
    table = "smiles,D\nCCO,1\nCCN,No Data\nCCC,BLQ\nCCF,failed\n"
    got = wide(tmp_path, table, Column(column="D"), missing=("no data", "BLQ"))
    assert (got.total.found, got.total.used) == (4, 1)
    assert [(reject.row, reject.reason.split(";")[0]) for reject in got.rejects] == [
        (3, "no measurement in this row"), (4, "no measurement in this row"), (5, "not a number"),
    ]  # fmt: skip
    classes = wide(tmp_path, "smiles,A\nCCO,1\nCCN,-\n", Column(column="A"), AMES, missing=("-",))
    assert [reject.reason for reject in classes.rejects] == ["no measurement in this row"]
    with pytest.raises(ValidationError, match=r"classes and 'missing' both have '-'"):
        wide(tmp_path, table, Column(column="A", classes={"-": 0}), AMES, missing=("-",))


@pytest.mark.parametrize(
    ("written", "day"), [("45443", "2024-05-31"), ("45443.75", "2024-05-31"), ("36526", "2000-01-01")]
)
def test_a_spreadsheets_days_are_dates_when_told_so(written: str, day: str) -> None:
    assert str(read_date(written, "excel")) == day
    with pytest.raises(CellError, match=r"data\.time\.format = 'excel'"):
        read_date(written)
    with pytest.raises(CellError, match="five digits"):
        read_date("2024-05-31", "excel")


def test_a_minus_in_a_class_column_is_never_taken_for_not_measured(tmp_path: Path) -> None:
    """Ames tables write + and -: every negative was lost, and none of them was listed."""
    table = "smiles,A,D\nCCO,+,1\nCCN,-,1\nCCC,,1\nCCCl,1,1\nCCBr,Mutagen,1\n"
    got = wide(tmp_path, table, Column(column="A"), AMES)
    assert [(reject.row, reject.reason.split(";")[0][:20]) for reject in got.rejects][:2] == [
        (2, "not a class"),
        (3, "'-' may mean negativ"),
    ]
    told = wide(tmp_path, table, Column(column="A", classes={"+": 1, "-": 0, "Mutagen": 1}), AMES)
    assert told.labels[:, 0].tolist() == [1, 0, 1, 1]
    assert [(reject.row, reject.reason) for reject in told.rejects] == [(4, "no measurement in this row")]
    with pytest.raises(ConfigError, match="classes: the charter takes logd as a value"):
        wide(tmp_path, table, Column(column="D", classes={"+": 1}))


def test_numbers_for_a_class_ask_for_a_threshold(tmp_path: Path) -> None:
    block = AssayEndpoint(name="herg_block", kind="classification")
    got = wide(tmp_path, "smiles,I\nCCO,0\nCCN,3.2\nCCC,>30\nCCF,maybe\n", Column(column="I"), block)
    assert [reject.reason for reject in got.rejects] == [
        "a number where a class is wanted; set 'threshold' and 'positive' of data.columns.herg_block "
        "(usual: 10 umol/L, class 1 below it)",
    ] * 2 + ["not a class; write 1 or 0, positive or negative, active or inactive, or say what the table's words mean "
             "with 'classes'"]  # fmt: skip


CHEMBL = (
    "smiles,Type,Relation,Value,Units\nCCO,IC50,'=',20.0,nM\nCCN,IC50,'>',30,uM\nCCC,Ki,'=',1,nM\n"
    "CCCl,IC50,'~',5,nM\nCCBr,IC50,,1000,nM\nCCF,IC50,'<',>3,nM\nCCI,IC50,'=',,nM\nCCS,IC50,'=',4,\nCCP,IC50,=,4,bar\n"
)


def test_relation_and_unit_may_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    """As in every ChEMBL export."""
    column = Column(column="Value", relation_column="Relation", unit_column="Units", match={"Type": "IC50"})
    got = wide(tmp_path, CHEMBL, column, IC50)
    assert got.structures.smiles == ["CCO", "CCN", "CCBr"]
    assert got.labels[:, 0] == pytest.approx(np.log10([0.02, 30, 1.0]), abs=1e-6)
    assert got.relations[:, 0].tolist() == [0, ABOVE, 0]
    assert {reject.row: reject.column for reject in got.rejects} == {
        4: "Type", 5: "Relation", 7: "Value", 8: "Value", 9: "Value", 10: "Value",
    }  # fmt: skip
    assert got.total.found == 9 == got.total.used + got.total.rejected
    with pytest.raises(ConfigError, match=r"no column 'Unit' \(data\.columns\.ic50\.unit_column\); did you mean 'Unit"):
        wide(tmp_path, CHEMBL, Column(column="Value", unit_column="Unit"), IC50)


def test_sdf_properties_may_hold_relation_and_unit_too(tmp_path: Path) -> None:
    path = tmp_path / "d.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles, value, relation, unit in (("CCO", "5", ">", "uM"), ("CCN", "5", "", "nM"), ("CCC", "", "", "")):
            molecule = Chem.MolFromSmiles(smiles)
            for name, text in (("V", value), ("R", relation), ("U", unit)):
                if text:
                    molecule.SetProp(name, text)
            writer.write(molecule)
    column = Column(column="V", relation_column="R", unit_column="U")
    got = ingest(Source(format="sdf", path=path, columns={"ic50": column}), (IC50,), POLICY)
    assert got.labels[:, 0] == pytest.approx(np.log10([5, 0.005]))
    assert got.relations[:, 0].tolist() == [ABOVE, 0]


def test_measurements_of_an_unreadable_structure_count_for_their_assay_endpoint(tmp_path: Path) -> None:
    """A record of three values counted as one rejected measurement of none of them."""
    path = tmp_path / "d.sdf"
    molecule = Chem.MolFromSmiles("CCO")
    molecule.SetProp("D", "1.5")
    molecule.SetProp("A", "1")
    with Chem.SDWriter(str(path)) as writer:
        writer.write(molecule)
    text = path.read_text()
    path.write_text(text + "Z-17\n\n\nno counts\nM  END\n" + text[text.index(">") :])
    got = ingest(
        Source(format="sdf", path=path, columns={"logd": Column(column="D"), "ames": Column(column="A")}),
        (LOGD, AMES),
        POLICY,
    )
    assert [(counts.found, counts.used, counts.rejected) for counts in got.counts] == [(2, 1, 1)] * 2
    (reject,) = got.rejects
    assert (reject.value, reject.measurements) == ("Z-17", 2)
    assert got.total.found == 4


def test_negative_logarithms_turn_relations_round(tmp_path: Path) -> None:
    got = wide(tmp_path, "smiles,pIC50\nCCO,6\nCCN,<5\n", Column(column="pIC50", unit="-log10(mol/L)"), IC50)
    assert got.labels[:, 0] == pytest.approx([0, 1])
    assert got.relations[:, 0].tolist() == [0, ABOVE]
    limited = wide(
        tmp_path, "smiles,pIC50\nCCO,4\nCCN,6\n", Column(column="pIC50", unit="-log10(mol/L)", low_limit=4), IC50
    )
    assert limited.relations[:, 0].tolist() == [ABOVE, 0]


def test_bound_shares_become_unbound_ones(tmp_path: Path) -> None:
    unbound = AssayEndpoint(name="fu", unit="%", transform="log10", valid_range=(1e-4, 100))
    got = wide(tmp_path, "smiles,B\nCCO,90\nCCN,>99\nCCC,100\n", Column(column="B", unit="%", complement=True), unbound)
    assert got.labels[:, 0] == pytest.approx([1, 0])
    assert got.relations[:, 0].tolist() == [0, BELOW]
    assert "has no logarithm" in got.rejects[0].reason
    share = wide(tmp_path, "smiles,B\nCCO,0.9\n", Column(column="B", unit="fraction", complement=True), unbound)
    assert share.labels[:, 0] == pytest.approx([1])
    with pytest.raises(ConfigError, match="complement is for shares"):
        wide(tmp_path, "smiles,B\nCCO,0.9\n", Column(column="B", unit="uM", complement=True), IC50)


def test_clearance_per_kg_of_body_is_not_clearance_per_mg_of_protein(tmp_path: Path) -> None:
    """Both are a volume per time and mass: pint would have made a value a thousand times too small of it."""
    clint = AssayEndpoint(name="hlm", unit="uL/min/mg", transform="log10")
    table = "smiles,C\nCCO,1.0\n"
    with pytest.raises(ConfigError, match=r"only one of them is per kg of body weight.*factor"):
        wide(tmp_path, table, Column(column="C", unit="mL/min/kg"), clint)
    got = wide(tmp_path, table, Column(column="C", unit="log10(uL/min/mg)", factor=0.8647), clint)
    assert got.labels[0, 0] == pytest.approx(1 + np.log10(0.8647))
    body = AssayEndpoint(name="clearance", unit="mL/min/kg", transform="log10")
    assert wide(tmp_path, table, Column(column="C", unit="L/hr/kg"), body).labels[0, 0] == pytest.approx(
        np.log10(1000 / 60)
    )


LONG = "SMILES_Structure_Parent,Test_Type,Measurement_Value,Measurement_Unit\n"


def test_numbers_of_the_settings_follow_the_unit_of_each_row(tmp_path: Path) -> None:
    """A threshold of 10 uM once made an IC50 of 500 nM "above"; and a limit of 1 uM left 0.5 mM below it."""
    path = tmp_path / "long.csv"
    path.write_text(LONG + "CCO,hERG,500,nM\nCCN,hERG,50,uM\nCCC,hERG,0.5,mM\nCCCl,hERG,5,\nCCBr,hERG,5,min\n")
    match = {"Test_Type": "hERG"}
    herg = AssayEndpoint(name="herg", kind="classification")

    def read(column: Column, endpoint: AssayEndpoint) -> Measurements:
        return ingest(Source(format="kmelloddy", path=path, columns={endpoint.name: column}), (endpoint,), POLICY)

    got = read(Column(match=match, threshold=10, positive="below", unit="uM"), herg)
    assert got.labels[:, 0].tolist() == [1, 0, 0, 1]
    assert [reject.row for reject in got.rejects] == [6]
    unsaid = read(Column(match=match, threshold=10, positive="below"), herg)
    assert [reject.row for reject in unsaid.rejects] == [2, 3, 4, 6]
    assert "give them a 'unit' that fits" in unsaid.rejects[0].reason
    limited = read(Column(match=match, low_limit=1, unit="uM"), IC50)
    assert limited.relations[:, 0].tolist() == [BELOW, 0, 0, 0]
    assert limited.labels[0, 0] == pytest.approx(0)


def test_one_tuner_assay_may_serve_two_assay_endpoints(tmp_path: Path) -> None:
    """The first of the two was lost, without a word."""
    for name, text in (
        ("T1.csv", "input_assay_id,input_compound_id,standard_qualifier,standard_value\n7,a,>,5\n7,b,=,6\n"),
        ("T2.csv", "input_compound_id,smiles\na,CCO\nb,CCN\nb,CCN\n"),
    ):
        (tmp_path / name).write_text(text)
    columns = {"logd": Column(column="7"), "ames": Column(column="7", threshold=5)}
    source = Source(format="tuner", path=tmp_path / "T1.csv", structures=tmp_path / "T2.csv", columns=columns)
    got = ingest(source, (LOGD, AMES), POLICY)
    assert got.labels.tolist() == [[5, 1], [6, 1]]
    assert got.total.found == 4 == got.total.used
    (tmp_path / "T2.csv").write_text("input_compound_id,smiles\na,CCO\na,CCN\n")
    with pytest.raises(DataError, match="line 3 names input_compound_id 'a' a second time, with other content"):
        ingest(source, (LOGD, AMES), POLICY)
