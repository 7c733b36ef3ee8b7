"""Scaffold and series of a compound, and its skeleton, which no tautomer changes."""

from __future__ import annotations

from collections.abc import Collection

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold


def murcko_scaffold(molecule: Chem.Mol) -> str:
    """Canonical SMILES of ring systems and linkers, without stereochemistry; empty for acyclic compounds."""
    if molecule.GetRingInfo().NumRings() == 0:
        return ""
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
    return str(Chem.MolToSmiles(scaffold, isomericSmiles=False))


def series(molecule: Chem.Mol) -> str:
    """What decides the fold of a compound (`SplitRule`): compounds of one series stay together.

    The scaffold without bond orders, charges and hydrogens: SMILES of the heavy atoms of rings and linkers, all bonds
    single. It is the same for every tautomer, stereoisomer and charged form of a compound. A scaffold with double bonds
    would put hypoxanthine drawn as lactam and as lactim into different folds.

    Acyclic compounds and those with a single ring of up to six atoms (benzene, pyridine) form no series in a chemist's
    sense; the series of each is its own skeleton. Otherwise benzene alone would decide how large a fold is.
    """
    rings = molecule.GetRingInfo().AtomRings()
    if len(rings) == 0 or (len(rings) == 1 and len(rings[0]) <= 6):
        return skeleton(molecule)
    return _bare(molecule, _framework(molecule))


def skeleton(molecule: Chem.Mol) -> str:
    """What all tautomers, stereoisomers and protonated forms of a compound have in common.

    SMILES of its heavy atoms with all bonds single, and the number of hydrogens less formal charge. A tautomer moves a
    hydrogen and changes neither. Isomers that differ in the place of a double bond alone have it in common, too.
    """
    balance = sum(
        atom.GetTotalNumHs() - atom.GetFormalCharge() + (atom.GetAtomicNum() == 1) for atom in molecule.GetAtoms()
    )
    heavy = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() > 1]
    return f"{_bare(molecule, heavy)} H{balance}"


def _framework(molecule: Chem.Mol) -> list[int]:
    """Heavy atoms left after removing terminal atoms repeatedly."""
    degrees = [atom.GetDegree() for atom in molecule.GetAtoms()]
    ends = [place for place, degree in enumerate(degrees) if degree <= 1]
    while ends:
        place = ends.pop()
        degrees[place] = 0
        for neighbour in molecule.GetAtomWithIdx(place).GetNeighbors():
            at = neighbour.GetIdx()
            degrees[at] -= 1
            if degrees[at] == 1:
                ends.append(at)
    return [place for place, degree in enumerate(degrees) if degree > 0]


def _bare(molecule: Chem.Mol, chosen: Collection[int]) -> str:
    """SMILES of these atoms, without hydrogens and charges, all bonds single."""
    bare = Chem.RWMol()
    places = {}
    for place in chosen:
        plain = Chem.Atom(molecule.GetAtomWithIdx(place).GetAtomicNum())
        plain.SetNoImplicit(True)
        places[place] = bare.AddAtom(plain)
    for bond in molecule.GetBonds():
        pair = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if all(at in places for at in pair):
            bare.AddBond(places[pair[0]], places[pair[1]], Chem.BondType.SINGLE)
    # Without bond orders many atoms have a valence that RDKit would refuse to sanitise.
    bare.UpdatePropertyCache(strict=False)
    return str(Chem.MolToSmiles(bare))
