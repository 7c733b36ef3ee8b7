"""Features with one atom left out: which environments go, what remains, and odd molecules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES, describe
from kmel_p2p.chem.structures.masked import MAX_ATOMS, mask_atoms, remainder
from kmel_p2p.chem.structures.standardise import standardise

POLICY = FeatureRule(bits=1024)


def _standardised(smiles: str) -> str:
    return standardise(smiles, POLICY)[0].smiles


@pytest.mark.parametrize("smiles", REFERENCE_MOLECULES)
def test_the_first_row_is_the_whole_and_the_others_have_less_of_it(smiles: str) -> None:
    masked = mask_atoms(_standardised(smiles), POLICY)
    assert masked is not None
    molecule = Chem.MolFromSmiles(masked.smiles[0])
    counts, descriptors = describe(molecule, POLICY)
    atoms = molecule.GetNumAtoms()
    assert len(masked.counts) == len(masked.smiles) == len(masked.descriptors) == atoms + 1
    dense = masked.counts.dense(np.arange(atoms + 1))
    assert np.array_equal(dense[0], counts)
    assert np.array_equal(masked.descriptors[0], descriptors)
    assert (dense[1:] <= dense[0]).all()
    # At least the environment of radius 0, the atom itself, is gone; the others' atoms at that radius are not.
    assert (dense[1:].sum(axis=1) < dense[0].sum()).all()
    assert np.isfinite(masked.descriptors).all()
    # What remains: one heavy atom less, and every structure can be read again.
    assert [Chem.MolFromSmiles(text).GetNumAtoms() for text in masked.smiles[1:]] == [atoms - 1] * atoms


def test_only_environments_that_hold_the_atom_go() -> None:
    masked = mask_atoms("CCCCCCO", FeatureRule(radius=1, bits=4096))
    assert masked is not None
    dense = masked.counts.dense(np.arange(8))
    # Without the oxygen go: its own atom, its own bond, and the surroundings of the carbon beside it.
    assert dense[0].sum() - dense[-1].sum() == 3
    # The carbon in the middle is in its own environments, and in those around its two neighbours.
    assert dense[0].sum() - dense[3].sum() == 4


@pytest.mark.parametrize(
    ("smiles", "place", "left"),
    [
        ("CCO", 2, "CC"),
        ("CCO", 1, "C.O"),
        ("O=[N+]([O-])c1ccccc1", 0, "[O-][NH2+]c1ccccc1"),
        ("C[N+](C)(C)C", 0, "C[NH+](C)C"),
        ("c1cc[nH]c1", 3, "C=CC=C"),
        ("F[C@](Cl)(Br)I", 0, "ClC(Br)I"),
    ],
)
def test_hydrogens_take_the_place_of_what_is_removed(smiles: str, place: int, left: str) -> None:
    rest = remainder(Chem.MolFromSmiles(smiles), place)
    assert rest is not None
    assert Chem.MolToSmiles(rest) == Chem.CanonSmiles(left)
    assert all(atom.GetNumRadicalElectrons() == 0 for atom in rest.GetAtoms())


def test_single_atoms_and_giants_are_not_taken_apart() -> None:
    assert mask_atoms("C", POLICY) is None
    assert mask_atoms("C" * (MAX_ATOMS + 1), POLICY) is None
    assert mask_atoms("not a structure", POLICY) is None


FRAGMENTS = ("C", "CC", "O", "N", "c1ccccc1", "C(=O)", "S(=O)(=O)", "C(F)(F)", "c1ccncc1", "N1CCNCC1", "[N+](C)(C)")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=2, max_size=5))
def test_whatever_is_joined_every_atom_can_be_left_out(parts: list[str]) -> None:
    molecule = Chem.MolFromSmiles("".join(parts))
    if molecule is None:
        return
    masked = mask_atoms(Chem.MolToSmiles(molecule), FeatureRule(bits=64))
    assert masked is not None
    assert len(masked.smiles) == molecule.GetNumAtoms() + 1
    assert np.isfinite(masked.descriptors).all()
