"""Structures that went wrong elsewhere (benchmarks/parts/awkward_structures.csv names each source), and the rules."""

from __future__ import annotations

import csv
import random
from collections import Counter
from importlib import resources

import pytest
from rdkit import Chem

from benchmarks.structures import own_cases
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.parent import Change, StructureError, counter_ions
from kmel_p2p.chem.structures.standardise import standardise

POLICY = FeatureRule()
CASES = own_cases()
PAMOATE = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_structure_becomes_what_a_registry_would_make_of_it(case: dict[str, object]) -> None:
    assert case["ok"], f"{case['got']}, expected {case['expected']}"


def test_there_are_a_hundred_of_them_and_each_is_stable() -> None:
    assert len(CASES) >= 119
    for case in CASES:
        got = str(case["got"])
        if not got.startswith("refused"):
            again, _ = standardise(got, POLICY)
            assert again.smiles == got, case["name"]


def test_every_counter_ion_alone_is_the_compound_and_beside_a_drug_is_removed() -> None:
    text = resources.files("kmel_p2p.chem.structures").joinpath("counter_ions.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert len(rows) >= 150
    assert len(counter_ions()) == len(rows)  # no line twice, whatever the way it is drawn
    drug = "CN1CCN(CC1)C1=Nc2ccccc2Nc2sc(C)cc12"
    parent = standardise(drug, POLICY)[0]
    inorganic = {listed.name for listed in counter_ions().values() if not listed.organic}
    for row in rows:
        beside, _ = standardise(f"{row['smiles']}.{drug}", POLICY)
        assert beside == parent
        kind = "solvent removed" if row["role"] == "solvent" else "salt removed"
        assert beside.changes[0].kind == kind, row["name"]
        if row["name"] in inorganic:
            with pytest.raises(StructureError, match="no organic part"):
                standardise(row["smiles"], POLICY)
        else:
            alone, _ = standardise(row["smiles"], POLICY)
            assert not {change.kind for change in alone.changes} & {"salt removed", "solvent removed"}


@pytest.mark.parametrize(
    ("smiles", "changes"),
    [
        ("CCN", ()),
        ("CC[NH3+].[Cl-].O", ("salt removed: chloride", "solvent removed: water", "charge neutralised")),
        ("CC(=O)O[Na]", ("salt removed: sodium", "charge neutralised")),
        (f"{PAMOATE}.CN(C)C(=N)NC(N)=N", ("salt removed: embonic acid (pamoate)",)),
        ("[2H]OC", ("isotope merged",)),
        ("O[C@H](F)Cl", ("stereo dropped",)),
        ("CS(=O)CC", ("group redrawn",)),
        ("CCN1CCCC1.CCN1CCCC1.OS(O)(=O)=O", ("salt removed: sulfuric acid", "equal parts merged")),
    ],
)
def test_every_change_is_told(smiles: str, changes: tuple[str, ...]) -> None:
    assert tuple(map(str, standardise(smiles, POLICY)[0].changes)) == changes


def test_a_changed_tautomer_is_told_and_costs_the_stereo_it_passes() -> None:
    structure, _ = standardise("Oc1ccncc1", FeatureRule(tautomers="canonical"))
    assert structure.changes == (Change("tautomer changed"),)
    kept, _ = standardise("NC(=O)C[C@@H]1CC(=O)NC1=O", FeatureRule(tautomers="canonical", stereo="keep"))
    assert Change("stereo dropped") in kept.changes


def test_of_a_mixture_the_larger_part_is_kept_only_where_the_charter_says_so() -> None:
    largest = FeatureRule(mixtures="largest")
    assert largest.tag != POLICY.tag
    for text in ("c1ccccc1O.Cc1ccccc1N", "Cc1ccccc1N.c1ccccc1O"):
        with pytest.raises(StructureError, match="a mixture of 2 organic parts"):
            standardise(text, POLICY)
        structure, _ = standardise(text, largest)
        assert (structure.smiles, structure.changes) == (
            "Cc1ccccc1N",
            (Change("smaller part removed", "Oc1ccccc1"),),
        )


def test_enantiomers_in_one_record_are_one_compound_only_where_stereo_does_not_count() -> None:
    both = "C[C@H](N)c1ccc(O)cc1.C[C@@H](N)c1ccc(O)cc1"
    assert standardise(both, POLICY)[0].smiles == "CC(N)c1ccc(O)cc1"
    with pytest.raises(StructureError, match="a mixture of 2 organic parts"):
        standardise(both, FeatureRule(stereo="keep"))


def test_the_order_in_which_a_record_is_written_changes_nothing() -> None:
    rng = random.Random(1)
    for record in ("CC[NH3+].[Cl-].O.OC(=O)c1ccccc1", "C1CNCCN1.OC(=O)CC(O)(CC(O)=O)C(O)=O.O", f"{PAMOATE}.CCCCNC.O"):
        found: Counter[tuple[str, str]] = Counter()
        for seed in range(8):
            molecule = Chem.MolFromSmiles(record)
            text = Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)[0].split(".")
            rng.shuffle(text)
            structure, _ = standardise(".".join(text), POLICY)
            found[structure.smiles, structure.identity] += 1
        assert len(found) == 1
