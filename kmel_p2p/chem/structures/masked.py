"""Features of a molecule with one atom left out, for each of its atoms.

What a model predicts without an atom, against what it predicts for the whole, is the atom's contribution; the model
may be anything that reads features. Two published ways are joined, each for the features it fits:

- Morgan environments that the atom is part of are not counted (Riniker and Landrum, J. Cheminform. 2013, 5:43). The
  other environments stay, which a molecule without the atom would change.
- Descriptors are those of what remains when the atom is removed and hydrogens take its place (Polishchuk et al., Mol.
  Inf. 2013, 32:843), because no descriptor says which atoms it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import describe, morgan_generator, normalise, raw_descriptors
from kmel_p2p.chem.structures.table import CountMatrix

MAX_ATOMS = 150
"""Heavy atoms up to which atoms are left out one by one; a descriptor takes longer the larger a molecule is."""


@dataclass(frozen=True, slots=True)
class MaskedAtoms:
    """A molecule of A heavy atoms, whole and without each of them.

    Attributes:
        molecule: with atoms in the order of the rows.
        smiles: A + 1 structures: the whole, then what remains without each atom.
        counts: A + 1 rows of Morgan counts.
        descriptors: float32[A + 1, number of descriptors].
    """

    molecule: Chem.Mol
    smiles: Sequence[str]
    counts: CountMatrix
    descriptors: NDArray[np.float32]


def mask_atoms(smiles: str, policy: FeatureRule) -> MaskedAtoms | None:
    """Leave out each atom of a standardised structure; None with fewer than 2 or more than `MAX_ATOMS` atoms."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or not 2 <= molecule.GetNumAtoms() <= MAX_ATOMS:
        return None
    counts, descriptors = describe(molecule, policy)
    without = _counts_without(molecule, policy)
    structures, rows = [smiles], [descriptors]
    for place in range(molecule.GetNumAtoms()):
        rest = remainder(molecule, place)
        structures.append(smiles if rest is None else Chem.MolToSmiles(rest))
        rows.append(descriptors if rest is None else normalise(raw_descriptors(rest)))
    matrix = CountMatrix.from_rows([counts, *without], policy.bits)
    return MaskedAtoms(molecule, structures, matrix, np.stack(rows))


def _counts_without(molecule: Chem.Mol, policy: FeatureRule) -> NDArray[np.int64]:
    """Morgan counts without the environments of each atom, int64[A, policy.bits]."""
    found = rdFingerprintGenerator.AdditionalOutput()
    found.AllocateBitInfoMap()
    generator = morgan_generator(policy.radius, policy.bits, policy.stereo == "keep")
    whole = generator.GetCountFingerprintAsNumPy(molecule, additionalOutput=found)
    without = np.tile(whole.astype(np.int64), (molecule.GetNumAtoms(), 1))
    bonds_between = Chem.GetDistanceMatrix(molecule)
    for position, environments in found.GetBitInfoMap().items():
        for centre, radius in environments:
            without[bonds_between[centre] <= radius, position] -= 1
    return without


def remainder(molecule: Chem.Mol, place: int) -> Chem.Mol | None:
    """The molecule without the atom at `place`, hydrogens where its bonds were; None where RDKit refuses that.

    It may fall apart, and a ring without one of its atoms is a chain.
    """
    with rdBase.BlockLogs():
        try:
            rest = Chem.RWMol(molecule)
            Chem.Kekulize(rest, clearAromaticFlags=True)
            removed = rest.GetAtomWithIdx(place)
            for bond in removed.GetBonds():
                other = bond.GetOtherAtom(removed)
                if other.GetNoImplicit():
                    # Written in brackets: it would keep its hydrogens, and become a radical.
                    other.SetNumExplicitHs(other.GetNumExplicitHs() + int(bond.GetBondTypeAsDouble()))
            rest.RemoveAtom(place)
            # A centre that loses a neighbour may turn over; no descriptor depends on stereo.
            Chem.RemoveStereochemistry(rest)
            # Read anew, as every other structure is.
            read = Chem.MolFromSmiles(Chem.MolToSmiles(rest))
        except (ValueError, RuntimeError):
            return None
    return read if read is not None and read.GetNumAtoms() else None
