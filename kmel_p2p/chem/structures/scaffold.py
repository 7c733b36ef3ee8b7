"""Bemis-Murcko scaffolds (J Med Chem 1996, 39, 2887): which compounds belong to one chemical series."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from kmel_p2p.chem.structures.standardise import Structure


def murcko_scaffold(molecule: Chem.Mol) -> str:
    """Canonical SMILES of ring systems and linkers, without stereochemistry; empty for acyclic compounds."""
    if molecule.GetRingInfo().NumRings() == 0:
        return ""
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
    return str(Chem.MolToSmiles(scaffold, isomericSmiles=False))


def series(structure: Structure, molecule: Chem.Mol) -> str:
    """What decides the fold of a compound (`split.SplitRule`): compounds of one series stay together.

    The scaffold without bond orders, charges and hydrogens: SMILES of the heavy atoms of rings and linkers, all bonds
    single. Two drawings of one compound (tautomers, charged forms) agree in nothing else for certain: their heavy atoms
    and how these are connected are what the first block of the InChIKey holds them equal by. A scaffold with its double
    bonds would put hypoxanthine drawn as lactam and as lactim into two folds.

    Acyclic compounds and those of a single ring of up to six atoms (benzene, pyridine) form no series in a
    chemist's sense; each stands for itself. Otherwise benzene alone would decide how large a fold is.
    """
    rings = molecule.GetRingInfo().AtomRings()
    if len(rings) == 0 or (len(rings) == 1 and len(rings[0]) <= 6):
        return structure.identity[:14]
    return _bare_framework(molecule)


def _bare_framework(molecule: Chem.Mol) -> str:
    """SMILES of the heavy atoms that are left when ends are taken off until there are none, all bonds single."""
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
    bare = Chem.RWMol()
    places = {}
    for atom in molecule.GetAtoms():
        if degrees[atom.GetIdx()] > 0:
            plain = Chem.Atom(atom.GetAtomicNum())
            plain.SetNoImplicit(True)
            places[atom.GetIdx()] = bare.AddAtom(plain)
    for bond in molecule.GetBonds():
        pair = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if all(at in places for at in pair):
            bare.AddBond(places[pair[0]], places[pair[1]], Chem.BondType.SINGLE)
    # Without bond orders many atoms have a valence that RDKit would refuse to sanitise.
    bare.UpdatePropertyCache(strict=False)
    return str(Chem.MolToSmiles(bare))
