"""From a SMILES as written to the one structure the federation means by it, with every change on the way.

Steps: parse; choose the parent (`parent.choose_parent`); isotopes to natural; RDKit clean-up (normalise, reionise) and
neutralise; stereo and tautomers as the charter says; then parse our own canonical SMILES again, so that every later
figure depends on that string alone. No step may change the heavy atoms, nor hydrogens less formal charge: protons may
come and go with their charge, and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import inchi, rdMolDescriptors, rdqueries
from rdkit.Chem.MolStandardize import rdMolStandardize

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.cell import no_smiles, read_smiles, require_definite
from kmel_p2p.chem.structures.parent import Change, StructureError, choose_parent, clear_isotopes, parts_of

MAX_HEAVY_ATOMS = 150
"""A larger record is a biologic or a polymer, for which descriptors mean nothing."""

MAX_TAUTOMERS = 256


@dataclass(frozen=True, slots=True)
class Structure:
    """A standardised compound.

    Attributes:
        smiles: canonical SMILES of the standardised structure.
        identity: what makes two records one compound: the InChIKey's first block, or the whole key when stereo counts.
            Empty where nobody asked for it.
        changes: what was done to get from the record to `smiles`, in order.
    """

    smiles: str
    identity: str
    changes: tuple[Change, ...] = field(default=(), compare=False)


def standardise(smiles: str, policy: FeatureRule, *, identify: bool = True) -> tuple[Structure, Chem.Mol]:
    """Standardise one SMILES.

    Args:
        identify: also compute `Structure.identity`.

    Returns:
        the structure and its molecule, parsed from the canonical SMILES.

    Raises:
        StructureError: with the reason.
    """
    with rdBase.BlockLogs():
        try:
            molecule, changes = choose_parent(
                parts_of(parse(smiles)), policy.mixtures == "largest", policy.stereo == "keep"
            )
            _require_small(molecule)
            # Before tautomers: which one RDKit takes for canonical depends on stereo elsewhere in the molecule.
            changes += _drop_stereo(molecule) if policy.stereo == "drop" else []
            canonical, molecule, own = _neutral(molecule)
            changes += own
            if policy.tautomers == "canonical":
                canonical, molecule, own = _canonical_tautomer(canonical, molecule, policy)
                changes += own
        except StructureError:
            raise
        except Exception as error:  # RDKit raises many types here, among them plain RuntimeError
            raise StructureError(f"RDKit cannot standardise it: {_first_line(error)}") from None
        identity = _identity(molecule, canonical, policy) if identify else ""
        return Structure(canonical, identity, tuple(changes)), molecule


def _require_small(molecule: Chem.Mol) -> None:
    if molecule.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        raise StructureError(f"{molecule.GetNumHeavyAtoms()} heavy atoms; at most {MAX_HEAVY_ATOMS} are used")


def identity_of(standardised: str, policy: FeatureRule) -> str:
    """`Structure.identity` of a structure that was standardised already.

    Raises:
        StructureError: RDKit cannot read it; it is no standardised SMILES.
    """
    with rdBase.BlockLogs():
        return _identity(parse(standardised), standardised, policy)


def parse(smiles: str) -> Chem.Mol:
    """The molecule of a cell.

    Raises:
        StructureError: it is not one SMILES of a definite structure.
    """
    text = read_smiles(smiles)
    molecule = _read(text)
    if molecule is None:
        raise StructureError(_why_unparsable(text))
    if ":" in text:
        for atom in molecule.GetAtoms():
            atom.SetAtomMapNum(0)
    if molecule.GetNumHeavyAtoms() == 0:
        raise StructureError("no heavy atom")
    require_definite(molecule, text)
    return molecule


def _read(smiles: str) -> Chem.Mol | None:
    """RDKit's stubs do not say that parsing may give None."""
    molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    return molecule


def _why_unparsable(smiles: str) -> str:
    """RDKit's own diagnosis: a chemical problem where the syntax holds."""
    raw: Any = Chem.MolFromSmiles(smiles, sanitize=False)
    if raw is None:
        return no_smiles(smiles)
    problems = Chem.DetectChemistryProblems(raw)
    return f"SMILES is no valid structure: {problems[0].Message()}" if problems else no_smiles(smiles)


def _cleanup_parameters() -> Any:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]
    parameters.maxTautomers = MAX_TAUTOMERS  # type: ignore[assignment]
    return parameters


_PARAMETERS = _cleanup_parameters()
_UNCHARGER = rdMolStandardize.Uncharger()
_NORMALIZER = rdMolStandardize.Normalizer()
_REIONIZER = rdMolStandardize.Reionizer()


def _neutral(molecule: Chem.Mol) -> tuple[str, Chem.Mol, list[Change]]:
    """The parent with natural isotopes, redrawn as RDKit normalises it, and neutral where protons alone can do that.

    Returns:
        canonical SMILES, the molecule that it parses to, and the changes.

    Raises:
        StructureError: the parent would become another substance.
    """
    isotopes = clear_isotopes(molecule)
    molecule = Chem.RemoveHs(molecule)  # hydrogens that only carried an isotope are ordinary now
    expected = _composition(molecule)
    for redrawn, neutral in _ways(molecule):
        canonical = Chem.MolToSmiles(neutral)
        read = _read(canonical)
        if read is not None and _composition(read) == expected:
            changes = [Change("isotope merged")] if isotopes else []
            changes += [Change("group redrawn")] if _charges(redrawn) != _charges(molecule) else []
            changes += [Change("charge neutralised")] if _charges(neutral) != _charges(redrawn) else []
            return canonical, read, changes
    raise StructureError("standardising would change its hydrogens beyond its charge: it would be another substance")


def _ways(molecule: Chem.Mol) -> Iterator[tuple[Chem.Mol, Chem.Mol]]:
    """(normalised, neutralised), the best way first.

    RDKit's normalising in place is the fastest, but it leaves mesoionic rings short of hydrogens; its copying form
    checks each step. What neither can do is only neutralised, or stays as it is drawn.
    """
    for clean in (_clean_in_place, _clean_checked, Chem.Mol):
        try:
            redrawn = clean(molecule)
            yield redrawn, _UNCHARGER.uncharge(redrawn)
        except Exception:  # RDKit raises many types here; the next way may do
            continue
    yield molecule, molecule


def _clean_in_place(molecule: Chem.Mol) -> Chem.Mol:
    copy = Chem.Mol(molecule)
    rdMolStandardize.CleanupInPlace(copy, _PARAMETERS)
    return copy


def _clean_checked(molecule: Chem.Mol) -> Chem.Mol:
    return _REIONIZER.reionize(_NORMALIZER.normalize(molecule))


def _composition(molecule: Chem.Mol) -> tuple[str, int, int]:
    """(heavy atoms, hydrogens less charge, atoms with unpaired electrons): what standardising must not change."""
    formula = rdMolDescriptors.CalcMolFormula(molecule)
    parsed = _FORMULA.match(formula)
    if parsed is None:
        raise StructureError(f"RDKit gives it the formula {formula!r}")
    hydrogens = int(parsed["many"] or 1) if parsed["hydrogen"] else 0
    charge = int(parsed["charge"] or 1) * (-1 if parsed["sign"] == "-" else 1) if parsed["sign"] else 0
    unpaired = len(molecule.GetAtomsMatchingQuery(_UNPAIRED))
    return parsed["before"] + " " + parsed["after"], hydrogens - charge, unpaired


_FORMULA = re.compile(
    r"^(?P<before>(?:C\d*)?)(?P<hydrogen>H(?![a-z])(?P<many>\d*))?(?P<after>(?:[A-Z][a-z]?\d*)*)"
    r"(?:(?P<sign>[+-])(?P<charge>\d*))?$"
)
"""A formula in Hill's order, for a compound with carbon."""

# RDKit's queries look at all atoms in a fraction of the time that a loop in Python takes.
_UNPAIRED = rdqueries.NumRadicalElectronsGreaterQueryAtom(0)
_POSITIVE, _NEGATIVE = rdqueries.FormalChargeGreaterQueryAtom(0), rdqueries.FormalChargeLessQueryAtom(0)
_CENTRE = rdqueries.HasChiralTagQueryAtom()


def _charges(molecule: Chem.Mol) -> list[tuple[int, int]]:
    """(place, charge) of the charged atoms."""
    charged = (*molecule.GetAtomsMatchingQuery(_POSITIVE), *molecule.GetAtomsMatchingQuery(_NEGATIVE))
    return [(atom.GetIdx(), atom.GetFormalCharge()) for atom in charged]


def _drop_stereo(molecule: Chem.Mol) -> list[Change]:
    """Remove stereo in place."""
    none = (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY)
    had = len(molecule.GetAtomsMatchingQuery(_CENTRE)) > 0 or any(
        bond.GetStereo() not in none for bond in molecule.GetBonds() if bond.GetBondType() == Chem.BondType.DOUBLE
    )
    Chem.RemoveStereochemistry(molecule)
    return [Change("stereo dropped")] if had else []


def _canonical_tautomer(drawn: str, molecule: Chem.Mol, policy: FeatureRule) -> tuple[str, Chem.Mol, list[Change]]:
    """RDKit's canonical tautomer, as `_neutral` returns it. A centre that takes part in a shift loses its stereo.

    Raises:
        StructureError: RDKit's tautomer is another substance.
    """
    found = rdMolStandardize.CanonicalTautomer(molecule, _PARAMETERS)
    if policy.stereo == "drop":
        Chem.RemoveStereochemistry(found)  # of a double bond that the shift made
    canonical = Chem.MolToSmiles(found)
    read = _read(canonical)
    if read is None or _composition(read) != _composition(molecule):
        raise StructureError("its canonical tautomer would have other hydrogens: it would be another substance")
    moved = Chem.MolToSmiles(read, isomericSmiles=False) != Chem.MolToSmiles(molecule, isomericSmiles=False)
    changes = [Change("tautomer changed")] if moved else []
    if _marks(canonical) < _marks(drawn):
        changes.append(Change("stereo dropped"))
    return canonical, read, changes


def _marks(canonical: str) -> int:
    """Stereo centres and double bonds with stereo, as a canonical SMILES marks them."""
    return canonical.replace("@@", "@").count("@") + canonical.count("/") + canonical.count("\\")


def _identity(molecule: Chem.Mol, canonical: str, policy: FeatureRule) -> str:
    key = str(inchi.MolToInchiKey(molecule) or "")  # type: ignore[no-untyped-call]
    if not key:
        # InChI refuses a few exotic structures; their canonical SMILES still tells them apart.
        return "SMILES-" + hashlib.blake2b(canonical.encode(), digest_size=10).hexdigest()
    return key if policy.stereo == "keep" else key[:14]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
