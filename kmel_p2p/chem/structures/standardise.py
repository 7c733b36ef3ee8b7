"""From a SMILES as written to the one structure the federation means by it, with its scaffold and its series.

Steps: parse; RDKit clean-up (disconnect metals, normalise, reionise); largest organic fragment; neutralise; isotopes
to natural; stereo and tautomers as the charter says; then parse our own canonical SMILES again, so that every later
figure depends on that string alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import inchi
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.features import FeatureRule

MAX_HEAVY_ATOMS = 150
"""A larger record is a biologic or a polymer, for which descriptors mean nothing."""

MAX_SMILES = 4000
"""Characters; longer cells are not small molecules."""

MAX_TAUTOMERS = 256


class StructureError(DataError):
    """This SMILES cannot be used; the text is the reason for `rejects.csv`."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A standardised compound.

    Attributes:
        smiles: canonical SMILES of the standardised structure.
        identity: what makes two records one compound: the InChIKey's first block, or the whole key when stereo counts.
    """

    smiles: str
    identity: str


def standardise(smiles: str, policy: FeatureRule) -> tuple[Structure, Chem.Mol]:
    """Standardise one SMILES.

    Returns:
        the structure and its molecule, parsed from the canonical SMILES.

    Raises:
        StructureError: with the reason.
    """
    with rdBase.BlockLogs():
        molecule = _parse(smiles)
        try:
            molecule = _neutral_parent(molecule)
            if policy.tautomers == "canonical":
                molecule = _canonical_tautomer(molecule)
        except StructureError:
            raise
        except Exception as error:  # RDKit raises many types here, among them plain RuntimeError
            raise StructureError(f"RDKit cannot standardise it: {_first_line(error)}") from None
        if policy.stereo == "drop":
            Chem.RemoveStereochemistry(molecule)
        canonical = Chem.MolToSmiles(molecule)
        again = _read(canonical)
        if again is None:
            raise StructureError(f"its standardised form {canonical!r:.120} is no valid structure")
        if again.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
            raise StructureError(f"{again.GetNumHeavyAtoms()} heavy atoms; at most {MAX_HEAVY_ATOMS} are used")
        return Structure(canonical, _identity(again, canonical, policy)), again


def _parse(smiles: str) -> Chem.Mol:
    text = smiles.strip()
    if not text:
        raise StructureError("no SMILES")
    if len(text) > MAX_SMILES:
        raise StructureError(f"SMILES of {len(text)} characters; at most {MAX_SMILES} are read")
    parts = text.split(None, 1)
    if len(parts) > 1 and not parts[1].startswith("|"):
        # RDKit would take the rest for the compound's name and go on with half a structure.
        raise StructureError("SMILES with a blank in it")
    molecule = _read(text)
    if molecule is None:
        raise StructureError(_why_unparsable(text))
    if molecule.GetNumHeavyAtoms() == 0:
        raise StructureError("no heavy atom")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise StructureError("an unspecified atom (* or R): a family of compounds, not one")
    return molecule


def _read(smiles: str) -> Chem.Mol | None:
    """RDKit's stubs do not say that parsing may give None."""
    molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    return molecule


def _why_unparsable(smiles: str) -> str:
    """RDKit's own diagnosis: a chemical problem where the syntax holds."""
    if smiles.startswith("InChI="):
        return "an InChI; write SMILES"
    raw: Any = Chem.MolFromSmiles(smiles, sanitize=False)
    if raw is None:
        return "SMILES does not parse"
    problems = Chem.DetectChemistryProblems(raw)
    return f"SMILES is no valid structure: {problems[0].Message()}" if problems else "SMILES does not parse"


def _cleanup_parameters() -> Any:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]
    parameters.maxTautomers = MAX_TAUTOMERS  # type: ignore[assignment]
    return parameters


_PARAMETERS = _cleanup_parameters()
_UNCHARGER = rdMolStandardize.Uncharger()


def _neutral_parent(molecule: Chem.Mol) -> Chem.Mol:
    rdMolStandardize.CleanupInPlace(molecule, _PARAMETERS)
    if len(Chem.GetMolFrags(molecule)) > 1:
        rdMolStandardize.FragmentParentInPlace(molecule, _PARAMETERS, skipStandardize=True)
    _UNCHARGER.unchargeInPlace(molecule)
    for atom in molecule.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    if molecule.GetNumHeavyAtoms() == 0:
        raise StructureError("no heavy atom is left after standardising")
    # Explicit hydrogens that only carried an isotope are ordinary hydrogens now.
    return Chem.RemoveHs(molecule)


def _canonical_tautomer(molecule: Chem.Mol) -> Chem.Mol:
    return rdMolStandardize.CanonicalTautomer(molecule, _PARAMETERS)


def _identity(molecule: Chem.Mol, canonical: str, policy: FeatureRule) -> str:
    key = str(inchi.MolToInchiKey(molecule) or "")  # type: ignore[no-untyped-call]
    if not key:
        # InChI refuses a few exotic structures; their canonical SMILES still tells them apart.
        return "SMILES-" + hashlib.blake2b(canonical.encode(), digest_size=10).hexdigest()
    return key if policy.stereo == "keep" else key[:14]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def murcko_scaffold(molecule: Chem.Mol) -> str:
    """Canonical SMILES of ring systems and linkers, without stereochemistry; empty for acyclic compounds."""
    if molecule.GetRingInfo().NumRings() == 0:
        return ""
    scaffold = MurckoScaffold.GetScaffoldForMol(molecule)  # type: ignore[no-untyped-call]
    return str(Chem.MolToSmiles(scaffold, isomericSmiles=False))


def series(structure: Structure, molecule: Chem.Mol) -> str:
    """What decides the fold of a compound (`SplitRule`): compounds of one series stay together.

    The scaffold without bond orders, charges and hydrogens: SMILES of the heavy atoms of rings and linkers, all bonds
    single. Two drawings of one compound (tautomers, charged forms) certainly share nothing else: heavy atoms and their
    connections are what the first block of the InChIKey compares. A scaffold with double bonds would put hypoxanthine
    drawn as lactam and as lactim into different folds.

    Acyclic compounds and those with a single ring of up to six atoms (benzene, pyridine) form no series in a chemist's
    sense; each is its own series. Otherwise benzene alone would decide how large a fold is.
    """
    rings = molecule.GetRingInfo().AtomRings()
    if len(rings) == 0 or (len(rings) == 1 and len(rings[0]) <= 6):
        return structure.identity[:14]
    return _bare_framework(molecule)


def _bare_framework(molecule: Chem.Mol) -> str:
    """SMILES of the heavy atoms left after removing terminal atoms repeatedly, all bonds single."""
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
