"""The catalogue is usable as it stands; the data report finds what a chemist would want to be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.catalogue import catalogue, charter_rules, look_up
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.dataset.units import converter
from kmel_p2p.chem.report.check import check, quorum_problem
from kmel_p2p.chem.report.check_page import check_page
from kmel_p2p.chem.report.findings import piles, unit_finding

CHAIN = [f"{'C' * length}{end}" for length in range(1, 41) for end in ("O", "N", "Cl")]


@pytest.mark.parametrize("name", catalogue())
def test_every_entry_is_a_valid_charter_rule_with_a_known_unit(name: str) -> None:
    rules = charter_rules(name)
    assert rules is not None
    assert AssayEndpoint(**rules).name == name
    entry = catalogue()[name]
    if entry.endpoint.unit:
        # A multiple of the unit forces pint to read it.
        convert = converter(f"{entry.endpoint.unit} * 1000", entry.endpoint.unit, "catalogue")
        assert convert(np.array([1.0]))[0] == pytest.approx(1000)
    if entry.typical:
        low, high = entry.endpoint.valid_range
        assert low <= entry.typical[0] < entry.typical[1] <= high
        assert np.abs(entry.endpoint.label(np.array(entry.typical))).max() <= 4


def test_names_and_synonyms_mean_one_entry_only() -> None:
    seen: dict[str, str] = {}
    for name, entry in catalogue().items():
        for other in {n.lower().replace("_", "").replace("-", "").replace(" ", "") for n in (name, *entry.synonyms)}:
            assert other not in seen, f"{other}: {seen.get(other)} and {name}"
            seen[other] = name
    found = look_up("Liver microsomes-human")
    assert found is not None
    assert found.endpoint.name == "hlm_clint"
    assert look_up("shoe size") is None


def readings(values: list[float]) -> Readings:
    return Readings(written=list(values), native=list(values), relations=[0] * len(values))


def test_a_pile_on_the_lowest_value_is_found_with_its_setting() -> None:
    """As in Biogen's HLM table, where 958 of 3,087 values are the floor."""
    rng = np.random.default_rng(0)
    values = [0.675686709] * 958 + list(rng.uniform(0.7, 3.0, 2129))
    (pile,) = piles(AssayEndpoint(name="hlm"), readings(values))
    assert (pile["side"], pile["count"], pile["of"]) == ("low_limit", 958, 3087)
    assert pile["setting"] == "low_limit = 0.675686709"
    declared = readings(values)
    declared.limited = 958
    assert piles(AssayEndpoint(name="hlm"), declared) == []
    assert piles(AssayEndpoint(name="hlm"), readings(list(rng.normal(size=500)))) == []


def test_values_in_a_wrong_unit_are_suspected() -> None:
    entry = look_up("cyp3a4_ic50")
    assert entry is not None
    micromolar = list(np.random.default_rng(1).lognormal(1.5, 1.2, 200))
    assert unit_finding(entry.endpoint, readings(micromolar)) == ""
    assert "multiplied by 0.001" in unit_finding(entry.endpoint, readings([1000 * v for v in micromolar]))
    logarithms = list(np.log10(micromolar) - 0.5)
    assert "are they logarithms?" in unit_finding(entry.endpoint, readings(logarithms))


@pytest.mark.parametrize(
    ("values", "bounds", "met"), [(50, 25, True), (49, 0, False), (60, 36, False), (100, 75, True)]
)
def test_the_quorum_of_values(values: int, bounds: int, met: bool) -> None:
    relations = np.array([1] * bounds + [0] * (values - bounds), np.int8)
    assert (quorum_problem(AssayEndpoint(name="x"), np.zeros(values), relations) == "") is met


@pytest.mark.parametrize(("ones", "zeros", "met"), [(25, 25, True), (24, 100, False), (100, 24, False)])
def test_the_quorum_of_classes(ones: int, zeros: int, met: bool) -> None:
    labels = np.array([1.0] * ones + [0.0] * zeros)
    endpoint = AssayEndpoint(name="x", kind="classification")
    assert (quorum_problem(endpoint, labels, np.zeros(len(labels), np.int8)) == "") is met


def test_the_report_adds_up_and_renders(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    rows = [f"{smiles},{1 + at / 10 if at % 4 else 0.5},{at % 2}" for at, smiles in enumerate(CHAIN)]
    path.write_text("smiles,D<x>,H\n" + "\n".join([*rows, "bad(,1,1", "CO,0.7,0"]) + "\n")
    source = Source(
        path=path, smiles_column="smiles", columns={"logd": Column(column="D<x>"), "herg": Column(column="H")}
    )
    endpoints = (
        AssayEndpoint(name="logd", valid_range=(-5, 10)),
        AssayEndpoint(name="herg", kind="classification"),
        AssayEndpoint(name="elsewhere"),
    )
    own = ingest(source, endpoints, FeatureRule(bits=64))
    report = check(source, own, SplitRule(fold_key="key"))
    assert report["found"] == report["used"] + report["rejected"] + report["aggregated"] == 2 * len(rows) + 4
    logd, herg = report["endpoints"]
    assert logd["used"] == logd["train"] + logd["valid"] + logd["test"]
    assert logd["replicates"]["compounds"] == 1
    assert logd["piles"][0]["value"] == 0.5
    assert herg["class_1"] + herg["class_0"] == herg["used"]
    assert report["folds"]["compounds_in_train_and_test"] == 0
    assert report["not_measured_here"] == ["elsewhere"]
    assert sum(report["refused_for"].values()) == len(own.rejects)
    page = check_page(report, own)
    assert "data:image/png;base64," in page
    assert "low_limit = 0.5" in page
    assert "elsewhere" in page
