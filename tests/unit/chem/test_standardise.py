"""Structures: what is made one compound, and what is refused with which reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.cell import MAX_SMILES
from kmel_p2p.chem.structures.parent import StructureError
from kmel_p2p.chem.structures.series import series
from kmel_p2p.chem.structures.standardise import standardise

POLICY = FeatureRule()


def canonical(smiles: str, policy: FeatureRule = POLICY) -> str:
    return standardise(smiles, policy)[0].smiles


@pytest.mark.parametrize(
    "variants",
    [
        ["CC(=O)O", "CC(=O)[O-].[Na+]", "[Na]OC(C)=O", " OC(C)=O "],
        ["CCN", "CC[NH3+].[Cl-]", "CCN.Cl"],
        ["C[N+](=O)[O-]", "CN(=O)=O"],
        ["CCO", "CCO |$a;;$|"],
        ["CCO", "[13CH3]CO", "[2H]CCO", "[CH3:1][CH2:2][OH:3]"],
        ["OC(F)Cl", "O[C@H](F)Cl", "O[C@@H](F)Cl"],
        ["CC=CC", "C/C=C/C", "C/C=C\\C"],
    ],
)
def test_ways_to_write_one_compound_give_one_structure(variants: list[str]) -> None:
    structures = {standardise(smiles, POLICY)[0] for smiles in variants}
    assert len(structures) == 1


def test_stereo_counts_where_the_charter_keeps_it() -> None:
    keep = FeatureRule(stereo="keep")
    left, right = (standardise(smiles, keep)[0] for smiles in ("O[C@H](F)Cl", "O[C@@H](F)Cl"))
    assert left.identity != right.identity
    assert left.identity[:14] == right.identity[:14]


def test_tautomers_become_one_where_the_charter_says_so() -> None:
    keto, enol = "O=C1C=CNC=C1", "Oc1ccncc1"
    assert canonical(keto) != canonical(enol)
    one = FeatureRule(tautomers="canonical")
    assert canonical(keto, one) == canonical(enol, one)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "no SMILES"),
        ("   ", "no SMILES"),
        ("nonsense", "does not parse"),
        ("c1ccc", "does not parse"),
        ("CC O", "blank"),
        ("CC\nO", "blank"),
        ("C(C)(C)(C)(C)C", "valence"),
        ("c1cccc1", "kekulize"),
        ("[H][H]", "no heavy atom"),
        ("*CC", "an unspecified atom"),
        ("CC[*:1]", "an unspecified atom"),
        ("InChI=1S/CH4/h1H4", "an InChI; write SMILES"),
        ("VNWKTOKETHGBQD-UHFFFAOYSA-N", "an InChIKey, which says nothing"),
        ("50-78-2", "a CAS number"),
        ("CCO>>CC=O", "a reaction"),
        ("CC\u041e", "does not have: .* \\(CYRILLIC CAPITAL LETTER O\\)"),
        ("\uff2fc1ccccc1", "FULLWIDTH LATIN CAPITAL LETTER O"),
        ("CCO\x01", r"'\\x01' \(U\+0001\)"),
        ("C~C", "an unspecified bond"),
        ("C:C", "an aromatic bond"),
        ("C[N+4]", r"a charge of \+4 on one atom \(N\)"),
        ("[Li+].CCC[CH2-]", "a metal bound to carbon, drawn as ions"),
        ("C" * 200, "200 heavy atoms"),
        ("C" * (MAX_SMILES + 1), "characters"),
    ],
)
def test_unusable_structures_are_refused_with_the_reason(smiles: str, reason: str) -> None:
    with pytest.raises(StructureError, match=reason):
        standardise(smiles, POLICY)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=150)
def test_any_text_is_a_structure_or_a_reason(text: str) -> None:
    try:
        structure, _ = standardise(text, POLICY)
    except StructureError:
        return
    assert Chem.MolFromSmiles(structure.smiles) is not None


FOREIGN = st.characters(exclude_characters="\u200b\u200c\u200d\u2060\ufeff\u00ad", exclude_categories=["Cs"]).filter(
    lambda character: not "!" <= character <= "~" and not character.isspace()
)


@given(FOREIGN, st.integers(min_value=0, max_value=20))
@settings(deadline=None, max_examples=200)
def test_a_letter_of_another_script_never_costs_an_atom_in_silence(foreign: str, place: int) -> None:
    smiles = "CC(=O)Oc1ccccc1C(=O)O"
    for text in (smiles[:place] + foreign + smiles[place:], smiles[:place] + foreign + smiles[place + 1 :]):
        with pytest.raises(StructureError, match="a character that it does not have"):
            standardise(text, POLICY)


@given(st.sampled_from(["CC(=O)Oc1ccccc1C(=O)O", "CN1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O", "C[N+](C)(C)CC(=O)[O-]"]))
@settings(deadline=None, max_examples=5)
def test_standardising_twice_changes_nothing(smiles: str) -> None:
    once = standardise(smiles, POLICY)[0]
    assert standardise(once.smiles, POLICY)[0] == once


def test_series_is_the_bare_scaffold_of_compounds_that_have_one() -> None:
    naphthol, naphthylamine = "Oc1cccc2ccccc12", "Nc1cccc2ccccc12"
    assert kinship(naphthol) == kinship(naphthylamine) == "C1CCC2CCCCC2C1"
    # benzene and chains are no series: each compound stands for itself
    assert kinship("Cc1ccccc1") != kinship("Oc1ccccc1")
    assert kinship("CCO") != kinship("CCCO")


def test_series_is_the_same_for_every_stereoisomer() -> None:
    keep = FeatureRule(stereo="keep")
    assert kinship("O[C@H](F)Cl", keep) == kinship("O[C@@H](F)Cl", keep)


def kinship(smiles: str, policy: FeatureRule = POLICY) -> str:
    return series(standardise(smiles, policy)[1])
