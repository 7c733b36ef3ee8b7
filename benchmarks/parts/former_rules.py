"""What structures became before counter_ions.csv: the largest organic fragment after RDKit's clean-up."""

from __future__ import annotations

from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import inchi
from rdkit.Chem.MolStandardize import rdMolStandardize


def _parameters() -> Any:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]
    return parameters


_PARAMETERS = _parameters()
_UNCHARGER = rdMolStandardize.Uncharger()


def former_structure(smiles: str) -> str:
    """Canonical SMILES, stereo dropped; empty where the record was refused."""
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles.strip())
        if molecule is None or molecule.GetNumHeavyAtoms() == 0:
            return ""
        if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
            return ""
        try:
            rdMolStandardize.CleanupInPlace(molecule, _PARAMETERS)
            if len(Chem.GetMolFrags(molecule)) > 1:
                rdMolStandardize.FragmentParentInPlace(molecule, _PARAMETERS, skipStandardize=True)
            _UNCHARGER.unchargeInPlace(molecule)
            for atom in molecule.GetAtoms():
                atom.SetIsotope(0)
                atom.SetAtomMapNum(0)
            molecule = Chem.RemoveHs(molecule)
            Chem.RemoveStereochemistry(molecule)
            read: Chem.Mol | None = Chem.MolFromSmiles(Chem.MolToSmiles(molecule))
        except Exception:  # RDKit raises many types here
            return ""
        if read is None or not 0 < read.GetNumHeavyAtoms() <= 150:
            return ""
        return str(Chem.MolToSmiles(read))


def identity(canonical: str) -> str:
    """First block of the InChIKey; the SMILES itself where InChI cannot name it."""
    with rdBase.BlockLogs():
        key = str(inchi.MolToInchiKey(Chem.MolFromSmiles(canonical)) or "")  # type: ignore[no-untyped-call]
    return key[:14] or canonical
