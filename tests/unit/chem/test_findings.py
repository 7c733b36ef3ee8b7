"""What the data report tells a chemist about tables as they are: limits, zeros, shares, mixed assays, thin folds."""

from __future__ import annotations

import datetime
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmel_p2p.agreement.columns import Column, EmbargoSection, Source, TimeSection
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.catalogue import catalogue
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.dataset.manifest import reason_kind
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.report import check_page as check_page_module
from kmel_p2p.chem.report.check import check
from kmel_p2p.chem.report.check_page import check_page
from kmel_p2p.chem.report.findings import constant_finding, piles, unit_finding, unusual_median
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.cli.data_view import data_view

POLICY = FeatureRule(bits=64)
HLM = catalogue()["hlm_clint"].endpoint
UNBOUND = catalogue()["ppb_unbound"].endpoint
LOGD = AssayEndpoint(name="logd", valid_range=(-5, 10))
CHAIN = [f"{'C' * length}{end}" for length in range(1, 41) for end in ("O", "N", "Cl")]
SPLIT = SplitRule(fold_key="key")


@pytest.fixture(scope="module", autouse=True)
def described_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tables of all these tests hold the same compounds."""
    cached = functools.partial(ingest, cache=StructureCache(tmp_path_factory.mktemp("cache")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "ingest", cached)
        yield


def readings(values: list[float]) -> Readings:
    return Readings(written=list(values), native=list(values), relations=[0] * len(values))


WRITTEN = Column(column="D")


def table(tmp_path: Path, rows: list[str], header: str = "smiles,D", name: str = "d.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def read(path: Path, endpoint: AssayEndpoint = LOGD, column: Column = WRITTEN, **source: Any) -> Measurements:
    return ingest(
        Source(path=path, smiles_column="smiles", columns={endpoint.name: column}, **source), (endpoint,), POLICY
    )  # type: ignore[arg-type]


def test_zeros_of_a_clearance_table_are_not_proposed_as_the_limit() -> None:
    """ExpansionRx writes 0 for "below": the proposed `low_limit = 0.0` would have been refused row by row."""
    rng = np.random.default_rng(0)
    values = [0.0] * 164 + [round(v, 1) for v in rng.lognormal(3, 1, 2000) if v > 1.2] + [1.2]
    held = readings(values)
    held.lowest = 1.2
    (pile,) = piles(HLM, held)
    assert pile["setting"] == "low_limit = 1.2"
    assert "164 of" in pile["advice"]
    assert "are 0, which has no logarithm" in pile["advice"]
    assert unit_finding(HLM, readings(values)) == ""


def test_the_limit_proposed_for_zeros_is_one_that_the_charter_takes(tmp_path: Path) -> None:
    """0.1 mL/min/kg was proposed, which is less than the charter takes in its unit: the bounds would be refused."""
    path = table(tmp_path, ["CCO,0", "CCN,0.1", "CCC,0.2", "CCF,<0.15", *(f"{smiles},5" for smiles in CHAIN[60:])])
    column = Column(column="D", unit="uL/min/mg", factor=0.8647)
    (pile,) = piles(HLM, read(path, HLM, column).readings[0])[:1]
    assert pile["setting"] == "low_limit = 0.2"
    declared = read(path, HLM, Column(column="D", unit="uL/min/mg", factor=0.8647, low_limit=0.2))
    assert (declared.readings[0].limited, declared.relations[:3, 0].tolist()) == (3, [-1, -1, -1])
    assert not declared.rejects


def test_a_zero_among_logarithms_is_a_value_like_any(tmp_path: Path) -> None:
    path = table(tmp_path, [f"{smiles},{at / 40}" for at, smiles in enumerate(CHAIN)])
    assert piles(HLM, read(path, HLM, Column(column="D", unit="log10(uL/min/mg)")).readings[0]) == []


def test_a_pile_is_found_behind_a_few_values_that_lie_beyond_it() -> None:
    rng = np.random.default_rng(1)
    body = list(rng.uniform(4, 140, 900))
    (pile,) = piles(HLM, readings([*body, *[150.0] * 84, 151.0, 190.0]))
    assert (pile["setting"], pile["count"]) == ("high_limit = 150.0", 84)
    assert piles(HLM, readings([*body, *[150.0] * 84, *rng.uniform(151, 200, 30)])) == []


def test_whole_numbers_are_no_piles() -> None:
    """% bound in whole per cent: every value is a heap."""
    rng = np.random.default_rng(2)
    assert piles(AssayEndpoint(name="x"), readings([float(v) for v in rng.integers(80, 101, 1000)])) == []


def test_shares_and_bound_parts_are_noticed() -> None:
    rng = np.random.default_rng(3)
    shares = [float(v) for v in rng.uniform(0.01, 0.99, 100)]
    assert "unit is 'fraction'" in unit_finding(UNBOUND, readings(shares))
    bound = np.log10(100 - 100 * rng.beta(1, 12, 200))
    said = unusual_median(UNBOUND, bound, np.zeros(200, np.int8))
    assert "complement = true" in said
    assert unusual_median(UNBOUND, np.log10(100 * rng.beta(1, 12, 200)), np.zeros(200, np.int8)) == ""


def test_replicates_that_differ_like_different_compounds_are_reported(tmp_path: Path) -> None:
    """TDC's plasma protein binding: human and animal values of one compound in one column."""
    rows = [f"{smiles},{value}" for smiles in CHAIN[:60] for value in (1, 4 if smiles < "CCCCCCCCCO" else 1.1)]
    report = check(
        Source(path=tmp_path / "d.csv", smiles_column="smiles", columns={"logd": Column(column="D")}),
        read(table(tmp_path, rows)),
        SPLIT,
    )
    (logd,) = report["endpoints"]
    assert any("several assays or species" in text for text in report["advice"])
    assert logd["replicates"]["widest"][0]["spread"] == pytest.approx(3 / np.sqrt(2))
    assert logd["replicates"]["widest"][0]["median"] == pytest.approx(2.5)


def test_compounds_that_only_this_site_holds_out_are_counted(tmp_path: Path) -> None:
    """By date or by a test file of its own: another site may train on them, unless the key holds them out too."""
    rows = [f"{smiles},{at / 10},{2010 + at % 10}" for at, smiles in enumerate(CHAIN)]
    own = read(table(tmp_path, rows, "smiles,D,Y"), time=TimeSection(column="Y", test_from="2016"))
    test = read(table(tmp_path, [f"{'C' * n}F,1" for n in range(1, 31)], name="t.csv"))
    report = check(
        Source(path=tmp_path / "d.csv", smiles_column="smiles", columns={"logd": Column(column="D")}), own, SPLIT, test
    )
    expected = sum(
        SPLIT.fold(series) != Fold.TEST
        for series in [s for s, late in zip(own.structures.series, own.late, strict=True) if late]
        + test.structures.series
    )
    assert report["folds"]["held_out_here_only"] == expected > 30
    assert (report["test_file"]["found"], report["test_file"]["used"]) == (30, 30)
    assert "30 found" in check_page(report, own)
    assert any(text.startswith(f"{expected} of {report['folds']['test']} test compounds") for text in report["advice"])


def test_an_embargo_that_meets_nothing_is_reported(tmp_path: Path) -> None:
    """A project misspelt in the settings kept nothing back, and nobody was told."""
    path = table(tmp_path, ["CCO,1,P-117", "CCN,1,X", "c1ccccc1C,1,X"], "smiles,D,P")
    (tmp_path / "c.txt").write_text("CCN\nCCCCl\n")
    embargo = EmbargoSection(compounds=tmp_path / "c.txt", project_column="P", projects=("P117", "p-117"))
    own = read(path, embargo=embargo)
    assert own.embargo_unmatched == (
        "project 'p117' is on the list, and no row that could be used names it",
        "1 of 2 compounds on the list withheld nothing (line 2: CCCCl)",
    )
    report = check(
        Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}, embargo=embargo), own, SPLIT
    )
    assert any(text.startswith("embargo: project 'p117'") for text in report["advice"])


def test_two_assay_endpoints_on_one_column_are_noticed(tmp_path: Path) -> None:
    path = table(tmp_path, [f"{smiles},1" for smiles in CHAIN])
    endpoints = (LOGD, AssayEndpoint(name="logp"), AssayEndpoint(name="high", kind="classification"))
    source = Source(
        path=path,
        smiles_column="smiles",
        columns={"logd": Column(column="D"), "logp": Column(column="D"), "high": Column(column="D", threshold=3)},
    )
    report = check(source, ingest(source, endpoints, POLICY), SPLIT)
    assert "logd and logp take the same values: is one of them mapped to the wrong column?" in report["advice"]


def test_a_fold_with_hardly_a_compound_is_reported(tmp_path: Path) -> None:
    rings = [f"{'C' * n}c1ccc2ccccc2c1,{n / 10}" for n in range(1, 61)]
    path = table(tmp_path, rings)
    report = check(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), read(path), SPLIT)
    assert sum("series stay together" in text for text in report["advice"]) == 2
    nowhere = read(path, column=Column(column="D", match={"D": "x"}))
    unmapped = check(
        Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D", match={"D": "x"})}),
        nowhere,
        SPLIT,
    )
    assert unmapped["problems"] == [
        "logd: no row of the file is mapped to it; look at its column and 'match', and at rejects.csv"
    ]
    assert unmapped["unnamed"] == unmapped["rejected"] == 60


def test_the_page_shows_refused_numbers_and_the_first_rows_of_each_reason(tmp_path: Path) -> None:
    rows = [f"{smiles},{at / 20}" for at, smiles in enumerate(CHAIN)] + ["CCF,77", "CCI,-20", "CCBr,<x>"]
    path = table(tmp_path, rows)
    own = read(path)
    report = check(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), own, SPLIT)
    assert report["refused_for"] == {"... is outside the charter's valid range -5 to 10": 2, "not a number": 1}
    page = check_page(report, own)
    assert "line 122, D: 77<br>" in page
    assert "&lt;x&gt;" in page
    assert "<x>" not in page


def test_bars_of_rounded_values_hold_equally_many_steps() -> None:
    """logD with one decimal: every other bar of a plain histogram was half as high."""
    values = np.repeat(np.round(np.arange(-12, 52) / 10, 1), 7)
    heights = np.histogram(values, check_page_module._edges(values, -1.7, 5.6))[0]
    assert set(heights[heights > 0]) <= {14, 7}
    assert np.count_nonzero(heights == 7) <= 2
    spread = np.random.default_rng(4).normal(size=300)
    assert len(check_page_module._edges(spread, -4.0, 4.0)) == check_page_module.BINS + 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("-0.5 has no logarithm; x is used as log10", "... has no logarithm"),
     ("1e-05 umol/L is outside the range", "... umol/L is outside the range"),
     ("SMILES is no valid structure: atoms: 0 1 12", "SMILES is no valid structure: atoms: ...")],
)  # fmt: skip
def test_reasons_count_together_whatever_the_number(reason: str, kind: str) -> None:
    assert reason_kind(reason) == kind


def test_changes_of_structures_are_counted_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "salts.csv"
    path.write_text("smiles,D\nCC[NH3+].[Cl-].[Cl-].[Na+],1\nCCO.O,2\nC[C@H](F)Cl,3\n[2H]OC,4\nCCCC.CCF,5\n")
    own = read(path)
    assert {kind: changed.rows for kind, changed in own.changes.items()} == {
        "salt removed": 1,
        "charge neutralised": 1,
        "solvent removed": 1,
        "stereo dropped": 1,
        "isotope merged": 1,
    }
    report = check(Source(path=path, smiles_column="smiles", columns={"logd": Column(column="D")}), own, SPLIT)
    assert report["structures_changed"]["salt removed"]["examples"] == [
        {
            "row": 2,
            "written": "CC[NH3+].[Cl-].[Cl-].[Na+]",
            "standardised": "CCN",
            "removed": "chloride, chloride, sodium",
        }
    ]
    assert any("solvent removed (first: line 3, water: CCO.O became CCO)" in str(line) for line in data_view(report))
    assert "CC[NH3+].[Cl-].[Cl-].[Na+] became CCN" in check_page(report, own)


def report_of(
    tmp_path: Path, rows: list[str], header: str, columns: dict[str, str], endpoints: tuple[AssayEndpoint, ...],
    test: list[str] | None = None, today: datetime.date = datetime.date(2026, 1, 1), **source: Any,
) -> dict[str, Any]:  # fmt: skip
    mapped = {name: Column(column=column) for name, column in columns.items()}
    made = Source(path=table(tmp_path, rows, header), columns=mapped, **source)
    scored = made.model_copy(update={"path": table(tmp_path, test or [], header, "t.csv")})
    held_out = ingest(scored, endpoints, POLICY) if test else None
    excluded = held_out.structures.identities if held_out else ()
    return check(made, ingest(made, endpoints, POLICY, excluded=excluded), SPLIT, held_out, today)


def said(report: dict[str, Any], *parts: str) -> bool:
    return any(all(part in text for part in parts) for text in report["advice"])


def test_a_target_that_hardly_varies_is_reported(tmp_path: Path) -> None:
    def of(values: list[float], endpoint: AssayEndpoint = LOGD) -> dict[str, Any]:
        rows = [f"{smiles},{value}" for smiles, value in zip(CHAIN, values, strict=True)]
        return report_of(tmp_path, rows, "smiles,D", {endpoint.name: "D"}, (endpoint,))

    assert said(of([2.0] * 110 + [3.0] * 10), "logd: 110 of 120 values are 2: hardly anything differs")
    assert said(of([2 + at / 1000 for at in range(120)]), "the values hardly differ: their standard deviation is 0.035")
    assert not said(of([at / 30 for at in range(120)]), "hardly")
    ames = AssayEndpoint(name="ames", kind="classification")
    few = constant_finding(ames, np.array([1.0] * 1 + [0.0] * 119), np.zeros(120, np.int8))
    assert few == "only 1 of 120 compounds are of class 1"
    assert constant_finding(ames, np.array([1.0] * 30 + [0.0] * 90), np.zeros(120, np.int8)) == ""


def test_noise_of_replicates_is_held_against_the_spread_of_compounds(tmp_path: Path) -> None:
    def of(apart: float) -> dict[str, Any]:
        rows = [f"{smiles},{at / 60 + sign * apart}" for at, smiles in enumerate(CHAIN[:60]) for sign in (-1, 1)]
        return report_of(tmp_path, rows, "smiles,D", {"logd": "D"}, (LOGD,))

    noisy, clean = of(0.25), of(0.02)
    assert said(noisy, "replicates of one compound differ by 0.35, all values by 0.29", "more than about 0% of")
    assert noisy["endpoints"][0]["replicates"]["pooled_spread"] == pytest.approx(0.25 * 2**0.5, rel=1e-5)
    assert not said(clean, "of the variance")


def test_a_column_that_is_a_copy_of_another_is_reported(tmp_path: Path) -> None:
    endpoints = (LOGD, AssayEndpoint(name="logp", center=2.0, scale=3.0))

    def of(shift: float) -> dict[str, Any]:
        rows = [f"{smiles},{at / 30},{at / 30 + shift}" for at, smiles in enumerate(CHAIN)]
        return report_of(tmp_path, rows, "smiles,D,P", {"logd": "D", "logp": "P"}, endpoints)

    assert said(of(0.0), "logd and logp have the same value for 120 of 120 compounds")
    assert not said(of(0.1), "same value")


def test_what_is_not_mapped_is_told_with_the_column_that_may_be_meant(tmp_path: Path) -> None:
    endpoints = (LOGD, HLM, AssayEndpoint(name="odd_one"))
    rows = [f"{smiles},{at / 30},5,1" for at, smiles in enumerate(CHAIN)]
    report = report_of(tmp_path, rows, "smiles,D,HLM CLint,note", {"logd": "D"}, endpoints)
    assert said(report, "hlm_clint is not mapped; column 'HLM CLint' may be it")
    assert said(report, "not mapped, so nothing of them is used: odd_one;")
    report = report_of(tmp_path, rows, "smiles,D,HLM CLint,note", {"logd": "D"}, (LOGD,))
    assert not said(report, "not mapped")


def test_tested_compounds_and_scaffolds_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    rings = [f"{'C' * n}c1ccc2ccccc2c1" for n in range(1, 6)]
    rows = [*(f"{smiles},{at / 30}" for at, smiles in enumerate(CHAIN)), *(f"{smiles},1" for smiles in rings)]
    trained = read(table(tmp_path, rows)).folds(SPLIT)[-1] == Fold.TRAIN
    report = report_of(tmp_path, rows, "smiles,D", {"logd": "D"}, (LOGD,), ["CCO,1", "CCCCCCc1ccc2ccccc2c1,1", "CCN,1"])
    assert said(report, "2 rows are of compounds of the test file and not trained on")
    assert trained
    assert said(report, "1 of 3 compounds of the test file have a scaffold that is trained on")
    assert not said(report_of(tmp_path, rows, "smiles,D", {"logd": "D"}, (LOGD,)), "test file")


@pytest.mark.parametrize(
    ("day", "text"), [("1900-01-01", "the first date is 1900-01-01"), ("2106-05-01", "the last date is 2106-05-01")]
)
def test_dates_that_cannot_be_are_reported(tmp_path: Path, day: str, text: str) -> None:
    rows = [f"{smiles},{at / 30},{day if at == 7 else '2020'}" for at, smiles in enumerate(CHAIN)]
    time = TimeSection(column="when", test_from="2022")
    assert said(report_of(tmp_path, rows, "smiles,D,when", {"logd": "D"}, (LOGD,), time=time), text)
    usual = [row.replace(day, "2020") for row in rows]
    assert not said(report_of(tmp_path, usual, "smiles,D,when", {"logd": "D"}, (LOGD,), time=time), "date is")
