"""Molar masses, for units that count mass where the charter counts molecules (ug/mL and umol/L), or the other way."""

from __future__ import annotations

from typing import Literal

from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.read.cells import CellError
from kmel_p2p.chem.structures.standardise import StructureError, standardise
from kmel_p2p.chem.structures.table import StructureTable

MassOf = Literal["parent", "written"]


class Scale:
    """Average molar masses (g/mol) of structures as they stand in a file.

    `parent` is the mass of the standardised structure, without counter-ions: what an assay that quantifies the compound
    itself (by mass spectrometry or absorption) reports. `written` is that of the whole record, salt and solvent
    included: right where a concentration was made up by weighing the form that the SMILES shows.
    """

    def __init__(self, policy: FeatureRule) -> None:
        self._policy = policy
        self._known: dict[tuple[str, MassOf], float | str] = {}

    def learn(self, table: StructureTable) -> None:
        """Take parents from structures that are standardised already."""
        for source, smiles, reason in zip(table.sources, table.smiles, table.reasons, strict=True):
            self._known[source, "parent"] = reason if reason else _weight(_parsed(smiles))

    def mass(self, smiles: str, of: MassOf) -> float:
        """Average molar mass in g/mol.

        Raises:
            CellError: the structure cannot be used, and why.
        """
        key = (smiles, of)
        if key not in self._known:
            self._known[key] = self._weigh(smiles, of)
        known = self._known[key]
        if isinstance(known, str):
            raise CellError(f"its unit needs the compound's mass: {known}")
        return known

    def _weigh(self, smiles: str, of: MassOf) -> float | str:
        if of == "written":
            return _weight(_parsed(smiles))
        try:
            _, molecule = standardise(smiles, self._policy)
        except StructureError as error:
            return str(error)
        return _weight(molecule)


def _parsed(smiles: str) -> Chem.Mol | None:
    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    return molecule


def _weight(molecule: Chem.Mol | None) -> float | str:
    """g/mol, or why there is none."""
    if molecule is None:
        return "SMILES does not parse"
    mass = float(Descriptors.MolWt(molecule))  # type: ignore[attr-defined]
    return mass if mass > 0 else "no atom with a mass"
