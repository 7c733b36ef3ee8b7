"""Bemis-Murcko scaffolds (J Med Chem 1996, 39, 2887): which compounds belong to one chemical series."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from kmel_p2p.chem.standardise import Structure


def murcko_scaffold(molecule: Chem.Mol) -> str:
    """Canonical SMILES of ring systems and linkers, without stereochemistry; empty for acyclic compounds."""
    if molecule.GetRingInfo().NumRings() == 0:
        return ""
    return str(Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(molecule), isomericSmiles=False))


def fold_scaffold(structure: Structure, scaffold: str) -> str:
    """What `split.SplitPolicy.fold` hashes.

    An acyclic compound is a series of its own: all of them in one fold would make that fold's size a matter of luck.
    """
    return scaffold or structure.identity[:14]
