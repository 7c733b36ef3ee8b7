"""No compound is trained on at one site and tested on at another, however each of them draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rdkit import Chem

from kmel_p2p.agreement.columns import Column, Source, TimeSection
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.chem.structures.series import series
from kmel_p2p.chem.structures.standardise import standardise

POLICY = FeatureRule(bits=64)
LOGD = AssayEndpoint(name="logd")
DRAWINGS = (
    ("O=c1[nH]cnc2[nH]cnc12", "Oc1ncnc2[nH]cnc12"),  # lactam, lactim: one InChIKey block, two Murcko scaffolds
    ("OC1=CC(=O)Nc2ccccc12", "Oc1cc(O)nc2ccccc12"),
    ("c1ccc2[nH]cnc2c1C", "Cc1cccc2[nH]cnc12"),
    ("CN1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O", "C[NH+]1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O.[Cl-]"),
    ("OC(=O)c1ccccc1Nc1cccc(C(F)(F)F)c1", "[Na+].[O-]C(=O)c1ccccc1Nc1cccc(C(F)(F)F)c1"),
    ("C[C@H](CS)C(=O)N1CCC[C@H]1C(=O)O", "CC(CS)C(=O)N1CCCC1C(=O)O"),
    ("[O-][n+]1ccccc1-c1ccccc1", "O=n1ccccc1-c1ccccc1"),
    ("CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"),
)


PAIRS = (
    ("CC(=O)CC(C)=O", "CC(O)=CC(C)=O"),
    ("CC(C)=O", "CC(O)=C"),
    ("CC(C)N=O", "CC(C)=NO"),
    ("CC(C)=NC", "CC(=C)NC"),
    ("CC=NNc1ccccc1", "CCN=Nc1ccccc1"),
    ("CC[N+](=O)[O-]", "CC=[N+](O)[O-]"),
    ("CC1=NN(C)C(=O)C1", "Cc1cc(O)n(C)n1"),
    ("O=C1Cc2ccccc2N1", "Oc1cc2ccccc2[nH]1"),
    ("CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O", "CC(=O)CC(c1ccccc1)C1C(=O)c2ccccc2OC1=O"),
)
"""Tautomers that are two compounds to InChI."""


@pytest.mark.parametrize(("first", "second"), [*PAIRS, *DRAWINGS[:3]])
@pytest.mark.parametrize("stereo", ["keep", "drop"])
@pytest.mark.parametrize("tautomers", ["keep", "canonical"])
def test_tautomers_never_stand_in_two_folds(first: str, second: str, stereo: str, tautomers: str) -> None:
    policy = FeatureRule.model_validate({"stereo": stereo, "tautomers": tautomers})
    assert series(standardise(first, policy)[1]) == series(standardise(second, policy)[1])


def test_stereo_is_dropped_before_the_tautomer_is_chosen() -> None:
    policy = FeatureRule(tautomers="canonical")
    for drawn in (
        "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
        "C=C(C)[C@@H]1CC[C@@]2(C)CCC(=O)C(C)=C2C1",
        "C[C@H](N)C(=O)/C=C/c1ccccc1",
    ):
        flat = Chem.MolToSmiles(Chem.MolFromSmiles(drawn), isomericSmiles=False)
        assert standardise(drawn, policy)[0] == standardise(flat, policy)[0]


UNDATED = TimeSection()


def site(folder: Path, rows: list[tuple[str, str]], time: TimeSection = UNDATED) -> Measurements:
    path = folder / "site.csv"
    lines = [f"{smiles},{value},{date}" for (smiles, date), value in zip(rows, range(len(rows)), strict=True)]
    path.write_text("\n".join(["smiles,D,when", *lines]) + "\n")
    return ingest(
        Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}, time=time), [LOGD], POLICY
    )


@given(
    st.lists(st.tuples(st.integers(0, len(DRAWINGS) - 1), st.integers(0, 1), st.integers(1, 10**6)), min_size=1),
    st.lists(st.tuples(st.integers(0, len(DRAWINGS) - 1), st.integers(0, 1), st.integers(1, 10**6)), min_size=1),
    st.text(max_size=5),
    st.floats(0.05, 0.45),
)
@settings(deadline=None, max_examples=25)
def test_sites_agree_on_the_fold_of_every_compound_without_asking(
    tmp_path_factory: pytest.TempPathFactory,
    here: list[tuple[int, int, int]],
    there: list[tuple[int, int, int]],
    key: str,
    test_fraction: float,
) -> None:
    split = SplitRule(fold_key=key, valid_fraction=0.2, test_fraction=test_fraction)
    folds: dict[str, int] = {}
    for held in (here, there):
        # Each site writes its compounds in its own way: drawing, form, and order of atoms.
        drawn = [
            Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(DRAWINGS[which][how]), 1, randomSeed=seed)[0]
            for which, how, seed in held
            if Chem.MolFromSmiles(DRAWINGS[which][how]) is not None
        ]
        own = site(tmp_path_factory.mktemp("site"), [(smiles, "") for smiles in [*drawn, "CCO"]])
        for identity, fold in zip(own.structures.identities, own.folds(split), strict=True):
            assert folds.setdefault(identity, int(fold)) == fold


def test_places_of_series_never_change() -> None:
    """Folds of one charter must be those of every version of the program."""
    split = SplitRule(fold_key="a charter's key")
    assert [round(split.place(series), 12) for series in ("C1CCC2CCCCC2C1", "RZVAJINKPMORJF")] == [
        0.08259607239,
        0.9291575375,
    ]


def test_a_program_that_divides_otherwise_has_another_reference_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal series alone do not put a compound into one fold everywhere."""
    before = reference_hash(POLICY)
    monkeypatch.setattr(SplitRule, "place", lambda self, series: 0.5)
    assert reference_hash(POLICY) != before


def test_what_came_last_is_for_testing(tmp_path: Path) -> None:
    rows = [
        ("CCO", "2020-05-01"),
        ("OCC", "2024-01-31"),  # ethanol again: it was known before
        ("CCN", "2023"),
        ("CCCN", "2024-01"),
        ("CCCCN", "2023-12-31T23:59:59"),
        ("CCCl", ""),
        ("CCBr", "01/02/2024"),
        ("CCI", "2024-02-30"),
    ]
    split = SplitRule(fold_key="", valid_fraction=0.0, test_fraction=0.0)
    own = site(tmp_path, rows, TimeSection(column="when", test_from="2024-01-01"))
    folds = dict(zip(own.structures.smiles, own.folds(split), strict=True))
    assert folds == {"CCO": Fold.TRAIN, "CCN": Fold.TRAIN, "CCCN": Fold.TEST, "CCCCN": Fold.TRAIN, "CCCl": Fold.TRAIN}
    assert {(r.row, r.column, r.value) for r in own.rejects} == {(8, "when", "01/02/2024"), (9, "when", "2024-02-30")}
    assert all("2024-05-31" in r.reason for r in own.rejects)
    assert own.total.found == own.total.used + own.total.rejected + own.total.aggregated == 8
    undated = site(tmp_path, rows)
    assert not undated.late.any()
    assert len(undated) == 7
    assert own.dataset_hash() != site(tmp_path, rows, TimeSection(column="when", test_from="2025-01-01")).dataset_hash()


def test_dates_may_be_written_as_the_settings_say(tmp_path: Path) -> None:
    """31/05/2024 of a LIMS: refused row by row unless told how to read it; 03/04 is never guessed at."""
    rows = [("CCO", "03/04/2024"), ("CCN", "28/02/2024"), ("CCC", "2024-05-31"), ("CCF", "")]
    got = site(tmp_path, rows, TimeSection(column="when", test_from="2024-04-01", format="%d/%m/%Y"))
    assert got.late.tolist() == [True, False, False]
    assert [(reject.row, reject.reason) for reject in got.rejects] == [
        (4, "not a date in the form of data.time.format (%d/%m/%Y)")
    ]
    unsaid = site(tmp_path, rows, TimeSection(column="when", test_from="2024-04-01"))
    assert [reject.row for reject in unsaid.rejects] == [2, 3]
    for written in ("%d/%m", "dd/mm/yyyy", "%Q"):
        with pytest.raises(ValidationError, match=r"data\.time\.format is .* must give day, month and year"):
            TimeSection(column="when", test_from="2024", format=written)


def test_a_date_never_moves_a_compound_into_training(tmp_path: Path) -> None:
    rows = [("C" * length + "N", "2019") for length in range(1, 30)]
    split = SplitRule(fold_key="k", valid_fraction=0.2, test_fraction=0.3)
    plain, dated = site(tmp_path, rows), site(tmp_path, rows, TimeSection(column="when", test_from="2024"))
    assert np.array_equal(plain.folds(split), dated.folds(split))
    late = site(tmp_path, rows, TimeSection(column="when", test_from="2019"))
    assert (late.folds(split) == Fold.TEST).all()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (TimeSection(column="whn", test_from="2024"), "data.time.column.*did you mean 'when'"),
        (TimeSection(column="when", test_from="soon"), "data.time.test_from is 'soon'.*2024-05-31"),
        (TimeSection(column="when", test_from=" "), "data.time.test_from is empty"),
    ],
)
def test_a_time_split_that_cannot_be_is_refused(tmp_path: Path, time: TimeSection, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        site(tmp_path, [("CCO", "2024")], time)
