"""Ingest: every value is used, rejected with a reason, or aggregated; errors say what to do."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import Bug, ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.measurements import Counts, Measurements, write_rejects
from kmel_p2p.chem.dataset.units import converter
from kmel_p2p.chem.report.check import check

POLICY = FeatureRule(bits=64)
LOGD = AssayEndpoint(name="logd", valid_range=(-5.0, 10.0), center=2.0, scale=2.0)
SOLUBILITY = AssayEndpoint(name="solubility", unit="mol/L", transform="log10", valid_range=(1e-12, 50.0), center=-3.0)
BLOCK = AssayEndpoint(name="herg", kind="classification")
ENDPOINTS = (LOGD, SOLUBILITY, BLOCK)
SPLIT = SplitRule()
COLUMNS = {"logd": Column(column="D"), "solubility": Column(column="S", unit="umol/L"), "herg": Column(column="H")}


def read(path: Path, text: str | bytes, columns: dict[str, Column] | None = None, **kwargs: object) -> Measurements:
    path = path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ingest(Source(path=path, smiles_column="smiles", columns=columns or COLUMNS), ENDPOINTS, POLICY, **kwargs)  # type: ignore[arg-type]


def test_a_table_becomes_labels_relations_and_an_account(tmp_path: Path) -> None:
    got = read(
        tmp_path,
        "smiles,D,S,H\n"
        "CCO,-0.3,1000,0\n"  # line 2
        "c1ccccc1O,1.5,<10,active\n"
        "nonsense,1,1,1\n"  # 4: three measurements lost
        "CCN,one,,\n"  # 5
        "CCC,99,5,\n"  # 6: outside the valid range
        "CCCl,,,\n"  # 7: nothing measured
        "OCC,-0.1,,\n"  # 8: ethanol again
        "CCBr,1,2,3,4\n",  # 9: a cell too many
    )
    assert got.rows_in == 8
    assert got.structures.smiles == ["CCO", "Oc1ccccc1", "CCC"]
    assert got.labels[:, 0] == pytest.approx([(-0.2 - 2) / 2, (1.5 - 2) / 2, np.nan], nan_ok=True)
    assert got.labels[:, 1] == pytest.approx([0.0, -2.0, np.log10(5e-6) + 3], nan_ok=True)
    assert got.labels[:, 2] == pytest.approx([0, 1, np.nan], nan_ok=True)
    assert got.relations[:, 1].tolist() == [0, -1, 0]
    assert got.replicates[0, 0] == 2
    assert got.spread[0, 0] == pytest.approx(np.std([-0.3, -0.1], ddof=1) / 2)
    assert got.counts == (Counts(6, 2, 3, 1), Counts(4, 3, 1, 0), Counts(3, 2, 1, 0))
    assert got.total == Counts(15, 7, 7, 1)
    assert {(r.row, r.column): r.measurements for r in got.rejects} == {
        (4, "smiles"): 3,
        (5, "D"): 1,
        (6, "D"): 1,
        (7, "D, S, H"): 1,
        (9, ""): 1,
    }
    reasons = {reject.row: reject.reason for reject in got.rejects}
    assert "does not parse" in reasons[4]
    assert "not a number" in reasons[5]
    assert "valid range" in reasons[6]
    assert "5 cells where the header has 4" in reasons[9]


def test_reject_file_lists_every_refused_row(tmp_path: Path) -> None:
    got = read(tmp_path, 'smiles,D,S,H\nCCO,"1,5",,\nxx,1,,\n')
    write_rejects(tmp_path / "out" / "rejects.csv", got.rejects)
    with (tmp_path / "out" / "rejects.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["row"], row["column"], row["value"]) for row in rows] == [("2", "D", "1,5"), ("3", "smiles", "xx")]
    assert "point" in rows[0]["reason"]
    assert sum(int(row["measurements"]) for row in rows) == got.total.rejected == 2


cells = st.sampled_from(["", "NA", "1", "-2.5", "1e-3", "<2", ">= 3", "abc", "1e999", "0", "-1", "1", "5"])
smiles = st.sampled_from(["CCO", "OCC", "CCN", "c1ccccc1", "[Na+].CC(=O)[O-]", "bad(", "", "CCCC"])


@given(st.lists(st.tuples(smiles, cells, cells, cells), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_no_measurement_is_lost_or_counted_twice(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    rows.append(("CCO", "1", "1", "1"))
    folder = tmp_path_factory.mktemp("rows")
    got = read(folder, "smiles,D,S,H\n" + "".join(",".join(row) + "\n" for row in rows))
    written = sum(cell not in ("", "NA") for row in rows for cell in row[1:])
    empty = sum(all(cell in ("", "NA") for cell in row[1:]) for row in rows if any(row))
    assert got.total.found == written + empty
    assert got.total.found == got.total.used + got.total.rejected + got.total.aggregated
    assert got.total.used == np.isfinite(got.labels).sum()
    assert got.total.rejected == sum(reject.measurements for reject in got.rejects)
    assert got.total.aggregated == (got.replicates[got.replicates > 0] - 1).sum()


def test_contradicting_replicates_are_refused_together(tmp_path: Path) -> None:
    got = read(tmp_path, "smiles,D,S,H\nCCO,>3,,1\nCCO,<2,,0\nCCO,,5,\n")
    assert np.isnan(got.labels[0, [0, 2]]).all()
    assert got.total == Counts(5, 1, 4, 0)
    assert all("lines 2, 3" in reject.reason for reject in got.rejects)


def test_bounds_give_way_to_numbers_and_the_tightest_bound_wins(tmp_path: Path) -> None:
    got = read(tmp_path, "smiles,D,S,H\nCCO,>1,,\nCCO,4,,\nCCN,>1,,\nCCN,>3,,\nCCC,<1,,\nCCC,<3,,\n")
    assert (got.labels[:, 0] * 2 + 2).tolist() == pytest.approx([4, 3, 1])
    assert got.relations[:, 0].tolist() == [0, 1, -1]


def test_compounds_of_the_test_file_are_kept_out(tmp_path: Path) -> None:
    reference = read(tmp_path, "smiles,D,S,H\nCCO,1,,\n")
    got = read(tmp_path, "smiles,D,S,H\nOCC,1,2,\nCCN,1,,\n", excluded=frozenset(reference.structures.identities))
    assert got.structures.smiles == ["CCN"]
    assert got.total == Counts(3, 1, 2, 0)
    assert "test file" in got.rejects[0].reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("smiles,D,S,H\n", "no row of data"),
        (b"smiles,D,S,H\nCC\xff,1,1,1\n", "UTF-8"),
        ('smiles,D,S,H\nCC,"1,1,1\n', "line 2"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, text: str | bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        ingest(Source(path=tmp_path / "absent.csv", smiles_column="smiles", columns=COLUMNS), ENDPOINTS, POLICY)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"logd": Column(column="Dd")}, "no column 'Dd'.*did you mean 'D'"),
        ({"logdd": Column(column="D")}, "logdd.*did you mean 'logd'"),
        ({"logd": Column(column="twice")}, "occurs 2 times"),
        ({"solubility": Column(column="S")}, "no unit is given"),
        ({"solubility": Column(column="S", unit="kg")}, "measure different things"),
        ({"solubility": Column(column="S", unit="furlongs/??")}, "unit 'furlongs"),
        ({"logd": Column(column="D", unit="mol/L")}, "remove 'unit'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_a_remedy(
    tmp_path: Path, columns: dict[str, Column], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, "smiles,D,S,H,twice,twice\nCCO,1,1,1,1,1\n", columns)


@pytest.mark.parametrize(
    ("unit", "written"),
    [("mol/L", "0.001"), ("mmol/L", "1"), ("uM", "1000"), ("log10(mol/L)", "-3"), ("log10(nM)", "6")],
)
def test_units_convert(tmp_path: Path, unit: str, written: str) -> None:
    got = read(tmp_path, f"smiles,S\nCCO,{written}\n", {"solubility": Column(column="S", unit=unit)})
    assert got.labels[0, 1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("smiles", "of", "unit", "written", "native"),
    [
        ("CCO", "parent", "ug/mL", "46.069", 1e-3),
        ("CCO", "parent", "log10(ug/mL)", str(np.log10(46.069)), 1e-3),
        ("CCO", "parent", "ug/mL", ">4.6069", 1e-4),
        # Diethylamine hydrochloride: 73.139 without, 109.600 with the acid.
        ("CCNCC.Cl", "parent", "mg/L", "73.139", 1e-3),
        ("CCNCC.Cl", "written", "mg/L", "109.600", 1e-3),
    ],
)
def test_mass_concentrations_become_molar_with_the_mass_of_the_compound(
    tmp_path: Path, smiles: str, of: Literal["parent", "written"], unit: str, written: str, native: float
) -> None:
    got = read(tmp_path, f"smiles,S\n{smiles},{written}\n", {"solubility": Column(column="S", unit=unit, mass_of=of)})
    assert got.labels[0, 1] == pytest.approx(np.log10(native) + 3, abs=1e-4)
    assert got.relations[0, 1] == (1 if ">" in written else 0)
    report = check(
        Source(
            path=tmp_path / "data.csv",
            smiles_column="smiles",
            columns={"solubility": Column(column="S", unit=unit, mass_of=of)},
        ),
        got,
        SPLIT,
    )
    (solubility,) = report["endpoints"]
    assert solubility["units"] == [{"written": unit, "used": "mol/L", "values": 1, "mass_of": of}]


def test_amounts_become_masses_where_the_charter_wants_those(tmp_path: Path) -> None:
    dose = AssayEndpoint(name="ld50", unit="mg/kg", transform="log10")
    path = tmp_path / "doses.csv"
    path.write_text("smiles,dose\nCCO,10\nC1CC,10\n")
    got = ingest(
        Source(path=path, smiles_column="smiles", columns={"ld50": Column(column="dose", unit="mmol/kg")}),
        [dose],
        POLICY,
    )
    assert got.labels[:, 0] == pytest.approx([np.log10(460.69)], abs=1e-4)
    (lost,) = got.rejects
    assert (lost.row, lost.column) == (3, "dose")
    assert lost.reason.startswith("its unit needs the compound's mass: SMILES does not parse")


def test_a_byte_order_mark_and_quoted_newlines_do_no_harm(tmp_path: Path) -> None:
    got = read(tmp_path, '\ufeffsmiles,D,S,H\n"CC\nO",1,,\nxx,2,,\n')
    assert {reject.row for reject in got.rejects} == {2, 4}


def test_unbalanced_counts_are_a_bug() -> None:
    with pytest.raises(Bug, match="do not add up"):
        Counts(3, 1, 1, 0).require_balance()


def test_the_dataset_hash_ignores_the_order_of_rows(tmp_path: Path) -> None:
    first = read(tmp_path, "smiles,D,S,H\nCCO,1,,\nCCN,2,,\n").dataset_hash()
    assert read(tmp_path, "smiles,D,S,H\nCCN,2,,\nCCO,1,,\n").dataset_hash() == first
    assert read(tmp_path, "smiles,D,S,H\nCCN,2,,\nCCO,1.5,,\n").dataset_hash() != first


@pytest.mark.parametrize(("found", "wanted"), [("uL/min", "uL/min/10^6"), ("uL/min/10^6", "mL/min")])
def test_per_million_cells_is_no_number_to_divide_by(found: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match="per million cells"):
        converter(found, wanted, "clearance.csv")
