"""Which part of a record is the compound: metals, counter-ions, solvents and mixtures. docs/data.md has the rules."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import inchi, rdqueries
from rdkit.Chem.MolStandardize import rdMolStandardize

from kmel_p2p.agreement.errors import Bug, DataError

_ELEMENTS = Chem.GetPeriodicTable()
_SIMPLE_IONS = {7: "ammonia", 8: "hydroxide", 9: "fluoride", 16: "sulfide", 17: "chloride", 35: "bromide", 53: "iodide"}
"""Names by element, protonated or not."""
_ALKALI = frozenset((3, 11, 19, 37, 55, 87))
_ALKALINE_EARTH = frozenset((4, 12, 20, 38, 56, 88))
METALS = frozenset((*_ALKALI, *_ALKALINE_EARTH, 13, *range(21, 32), *range(39, 52), *range(57, 85), *range(89, 119)))
"""Atomic numbers. B, Si, Ge, As, Se and Te form ordinary covalent compounds and are no metals here."""

# RDKit's queries look at all atoms in a fraction of the time that a loop in Python takes.
_METAL = Chem.MolFromSmarts(f"[{','.join(f'#{number}' for number in sorted(METALS))}]").GetAtomWithIdx(0)
_LABELLED = rdqueries.IsotopeGreaterQueryAtom(0)

_BARE_CARBANION = Chem.MolFromSmarts(
    "[$([c-;X2]),$([C-;!$([C-]#*);!$([C-]~[#6,#7,P,S]~[*-,O,S,N]);!$([C-]~[#6]=,:[#6]);!$([C-]~[*+]);!$([C-](F)(F)F)])]"
)
"""A carbanion that nothing holds: with a metal it is an organometallic compound, such as `[Li+].[CH2-]CCC`."""

_COUNTER_METALS = _ALKALI | _ALKALINE_EARTH | frozenset((13, 30, 47, 83))
"""Metals whose separate ions are counter-ions: those two groups, Al, Zn, Ag and Bi (as in ChEMBL's list)."""

_SALT_PARTNERS = {
    **dict.fromkeys(_ALKALI, (1, frozenset((7, 8, 9, 16, 17, 34, 35, 53)))),
    **dict.fromkeys(_ALKALINE_EARTH, (2, frozenset((8, 9, 16, 17, 35, 53)))),
}
"""Metal -> (most bonds, elements): single bonds that draw an ionic salt as if it were covalent."""


class StructureError(DataError):
    """This SMILES cannot be used; the text is the reason for `rejects.csv`."""


Kind = Literal[
    "salt removed",
    "solvent removed",
    "equal parts merged",
    "smaller part removed",
    "group redrawn",
    "charge neutralised",
    "isotope merged",
    "stereo dropped",
    "tautomer changed",
]


class Change(NamedTuple):
    """One thing that standardising did to a structure."""

    kind: Kind
    detail: str = ""
    """What was removed; empty where the kind says all."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of counter_ions.csv.

    Attributes:
        solvent: whether it is a solvent rather than a counter-ion.
        drug: whether it is also a compound of interest, and so the compound among listed parts alone.
        organic: False for those without carbon, and for carbonate, cyanide and their like.
    """

    name: str
    solvent: bool
    drug: bool
    organic: bool


_INORGANIC = frozenset(("carbonic acid", "hydrocyanic acid", "cyanic acid", "thiocyanic acid", "carbon dioxide"))


@functools.cache
def counter_ions() -> dict[str, Listed]:
    """Key of a part (`part_key`) -> its line in counter_ions.csv."""
    text = resources.files("kmel_p2p.chem.structures").joinpath("counter_ions.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        molecule = Chem.MolFromSmiles(row["smiles"])
        if molecule is None or row["role"] not in ("acid", "base", "solvent"):
            raise Bug(f"counter_ions.csv of the package is damaged at {row['name']}: install kmel_p2p again")
        organic = row["name"] not in _INORGANIC and any(atom.GetAtomicNum() == 6 for atom in molecule.GetAtoms())
        found[part_key(molecule)] = Listed(row["name"], row["role"] == "solvent", row["drug"] == "yes", organic)
    return found


def part_key(molecule: Chem.Mol) -> str:
    """What a part is, whatever its charge, isotopes, stereo and mobile hydrogens: the InChIKey's first block.

    Canonical SMILES where InChI cannot name it.
    """
    neutral = neutral_part(molecule)
    with rdBase.BlockLogs():
        key = str(inchi.MolToInchiKey(neutral) or "")  # type: ignore[no-untyped-call]
    return key[:14] or str(Chem.MolToSmiles(neutral, isomericSmiles=False))


def neutral_part(molecule: Chem.Mol) -> Chem.Mol:
    """A part with natural isotopes, neutral where protons alone can do that; as it is drawn where RDKit fails."""
    plain = Chem.Mol(molecule)
    clear_isotopes(plain)
    try:
        with rdBase.BlockLogs():
            return rdMolStandardize.Uncharger().uncharge(Chem.RemoveHs(plain))
    except Exception:  # RDKit raises many types here
        return plain


def clear_isotopes(molecule: Chem.Mol) -> bool:
    """Make all isotopes natural, in place; whether any was not."""
    labelled = list(molecule.GetAtomsMatchingQuery(_LABELLED))
    for atom in labelled:
        atom.SetIsotope(0)
    return bool(labelled)


def parts_of(molecule: Chem.Mol) -> list[Chem.Mol]:
    """The separate parts of a record; salts of alkali metals and alkaline earths drawn with a bond are parted, too.

    Raises:
        StructureError: a metal is bound to carbon or in a complex.
    """
    if len(molecule.GetAtomsMatchingQuery(_METAL)):
        if molecule.HasSubstructMatch(_BARE_CARBANION):
            raise StructureError("a metal bound to carbon, drawn as ions")
        molecule = _ionic(molecule)
    return list(Chem.GetMolFrags(molecule, asMols=True))


def _ionic(molecule: Chem.Mol) -> Chem.Mol:
    """Cut the bonds of covalently drawn salts."""
    parted = Chem.RWMol(molecule)
    for metal in parted.GetAtoms():
        number = metal.GetAtomicNum()
        if number not in METALS or metal.GetDegree() == 0:
            continue
        most, partners = _SALT_PARTNERS.get(number, (0, frozenset()))
        neighbours = [atom for atom in metal.GetNeighbors() if atom.GetAtomicNum() > 1]
        if any(atom.GetAtomicNum() == 6 for atom in neighbours):
            raise StructureError(f"a metal bound to carbon ({metal.GetSymbol()})")
        if (
            len(neighbours) < metal.GetDegree()
            or len(neighbours) > most
            or any(atom.GetAtomicNum() not in partners for atom in neighbours)
            or any(bond.GetBondType() != Chem.BondType.SINGLE for bond in metal.GetBonds())
        ):
            raise StructureError(f"a metal complex ({metal.GetSymbol()})")
        for atom in neighbours:
            parted.RemoveBond(metal.GetIdx(), atom.GetIdx())
            atom.SetFormalCharge(atom.GetFormalCharge() - 1)
            metal.SetFormalCharge(metal.GetFormalCharge() + 1)
        metal.SetNoImplicit(True)
        metal.SetNumExplicitHs(0)
    try:
        Chem.SanitizeMol(parted)
    except ValueError:
        raise StructureError("a metal complex: it cannot be taken apart into ions") from None
    return parted.GetMol()


def choose_parent(parts: Sequence[Chem.Mol], keep_larger: bool, stereo: bool) -> tuple[Chem.Mol, list[Change]]:
    """The part that is the compound, and what was removed beside it.

    Args:
        parts: of one record, as drawn.
        keep_larger: of several parts that are no counter-ions, take the largest instead of refusing the record.
        stereo: whether stereoisomers are different compounds.

    Raises:
        StructureError: no part is organic, several may be the compound, or a metal ion forms complexes.
    """
    organic = [part for part in parts if any(atom.GetAtomicNum() == 6 for atom in part.GetAtoms())]
    if len(parts) == len(organic) == 1 and organic[0].GetNumHeavyAtoms() > _LARGEST_INORGANIC:
        return organic[0], []
    pairs = [(part, counter_ions().get(part_key(part))) for part in organic]
    pairs = [(part, listed) for part, listed in pairs if not listed or listed.organic]
    if not pairs:
        raise StructureError("no organic part")
    changes = [_removed(part) for part in parts if not any(part is kept for kept, _ in pairs)]
    candidates, role = _candidates(pairs)
    changes += [
        Change("solvent removed" if listed.solvent else "salt removed", listed.name)
        for part, listed in pairs
        if listed and not any(part is kept for kept in candidates)
    ]
    return _one_of(candidates, role, keep_larger, stereo, changes)


_LARGEST_INORGANIC = 4
"""Heavy atoms of the largest inorganic compound of carbon on the list; a larger single part is not looked up."""


def _candidates(pairs: Sequence[tuple[Chem.Mol, Listed | None]]) -> tuple[list[Chem.Mol], str]:
    """What may be the compound: parts not listed; else listed drugs; else all but solvents; else all."""
    choices = (
        ([part for part, listed in pairs if listed is None], "none of them a known counter-ion"),
        ([part for part, listed in pairs if listed and listed.drug], "each may be the drug or the counter-ion"),
        ([part for part, listed in pairs if listed and not listed.solvent], "all of them counter-ions"),
        ([part for part, _ in pairs], "all of them solvents"),
    )
    return next(choice for choice in choices if choice[0])


def _one_of(
    candidates: list[Chem.Mol], role: str, keep_larger: bool, stereo: bool, changes: list[Change]
) -> tuple[Chem.Mol, list[Change]]:
    if len(candidates) == 1:
        return candidates[0], changes
    distinct: dict[str, Chem.Mol] = {}
    for part in sorted(candidates, key=_order):
        distinct.setdefault(part_key(part) + (_stereo_of(part) if stereo else ""), part)
    best, *others = distinct.values()
    if others and not keep_larger:
        names = ", ".join(Chem.MolToSmiles(part) for part in (best, *others))
        raise StructureError(f"a mixture of {len(distinct)} organic parts, {role} ({names:.300})")
    merged = [Change("equal parts merged")] if len(distinct) < len(candidates) else []
    return best, [*changes, *merged, *(Change("smaller part removed", Chem.MolToSmiles(part)) for part in others)]


def _stereo_of(part: Chem.Mol) -> str:
    """Stereo as canonical SMILES of the neutral part."""
    return str(Chem.MolToSmiles(neutral_part(part)))


def _order(part: Chem.Mol) -> tuple[int, float, str]:
    """The larger part first, whatever the order in the record."""
    smiles = Chem.MolToSmiles(part)
    mass = sum(atom.GetMass() for atom in part.GetAtoms())
    return -part.GetNumHeavyAtoms(), -round(mass, 2), str(smiles)


def _removed(part: Chem.Mol) -> Change:
    """An inorganic part.

    Raises:
        StructureError: it is the ion of a metal that forms complexes.
    """
    for atom in part.GetAtoms():
        if atom.GetAtomicNum() in METALS and (atom.GetAtomicNum() not in _COUNTER_METALS or part.GetNumAtoms() > 1):
            raise StructureError(f"a metal complex drawn as ions ({atom.GetSymbol()})")
    listed = counter_ions().get(part_key(part))
    heavy = [atom for atom in part.GetAtoms() if atom.GetAtomicNum() > 1]
    if not heavy:
        return Change("salt removed", "proton")
    if len(heavy) == 1 and heavy[0].GetAtomicNum() == 8 and heavy[0].GetFormalCharge() >= 0:
        return Change("solvent removed", "water")
    if listed and listed.solvent:
        return Change("solvent removed", listed.name)
    if listed:
        return Change("salt removed", listed.name)
    if len(heavy) == 1:
        number = heavy[0].GetAtomicNum()
        return Change("salt removed", _SIMPLE_IONS.get(number) or _ELEMENTS.GetElementName(number).lower())
    return Change("salt removed", Chem.MolToSmiles(part))
