"""Bemis-Murcko scaffolds (J Med Chem 1996, 39, 2887): which compounds belong to one chemical series."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from kmel_p2p.chem.standardise import Structure


def murcko_scaffold(molecule: Chem.Mol) -> str:
    """Canonical SMILES of ring systems and linkers, without stereochemistry; empty for acyclic compounds."""
    if molecule.GetRingInfo().NumRings() == 0:
        return ""
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
    return str(Chem.MolToSmiles(scaffold, isomericSmiles=False))


def series(structure: Structure, scaffold: str, molecule: Chem.Mol) -> str:
    """What decides the fold of a compound (`split.SplitPolicy`): compounds of one series stay together.

    Acyclic compounds and those of a single ring of up to six atoms (benzene, pyridine) form no series in a
    chemist's sense; each stands for itself. Otherwise benzene alone would decide how large a fold is.
    """
    rings = molecule.GetRingInfo().AtomRings()
    general = len(rings) == 0 or (len(rings) == 1 and len(rings[0]) <= 6)
    return structure.identity[:14] if general else scaffold
