"""What a cell must be to be taken for one SMILES of a definite structure, before any chemistry.

RDKit itself forgives too much: it drops characters that SMILES does not have from both ends, so that `CCO` with a
Cyrillic or full-width O would be ethane.
"""

from __future__ import annotations

import re
import unicodedata

from rdkit import Chem
from rdkit.Chem import rdqueries

from kmel_p2p.chem.structures.parent import METALS, StructureError

MAX_SMILES = 4000
"""Characters; longer cells are not small molecules."""

MAX_CHARGE = 3
"""On one atom that is no metal, of either sign: chlorine has it in perchlorate drawn with single bonds."""

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
"""Characters of no width, which web pages and byte order marks leave at the ends of cells."""

_OTHER_NAMES = (
    (re.compile(r"InChI="), "an InChI; write SMILES"),
    (re.compile(r"[A-Z]{14}-[A-Z]{10}-[A-Z]$"), "an InChIKey, which says nothing of the structure; write SMILES"),
    (re.compile(r"[1-9]\d{1,6}-\d\d-\d$"), "a CAS number; write SMILES"),
    (re.compile(r"[^ ]*>[^ ]*>"), "a reaction; write the SMILES of one compound"),
)
"""What else is found in place of SMILES, and what to do about it."""

# RDKit's queries look at all atoms in a fraction of the time that a loop in Python takes.
_UNSPECIFIED = rdqueries.AtomNumEqualsQueryAtom(0)
_POSITIVE = rdqueries.FormalChargeGreaterQueryAtom(MAX_CHARGE)
_NEGATIVE = rdqueries.FormalChargeLessQueryAtom(-MAX_CHARGE)
_LOOSE_BOND = Chem.MolFromSmarts("[*;!a]:*")


def read_smiles(cell: str) -> str:
    """The SMILES of a cell, perhaps with a CXSMILES extension, without blanks and invisible characters at its ends.

    Raises:
        StructureError: the cell is empty, too long, or cannot be one SMILES.
    """
    text = cell.strip().strip(_INVISIBLE).strip()
    if not text:
        raise StructureError("no SMILES")
    if len(text) > MAX_SMILES:
        raise StructureError(f"SMILES of {len(text)} characters; at most {MAX_SMILES} are read")
    own, *rest = text.split(None, 1)
    if rest and not rest[0].startswith("|"):
        # RDKit would take the rest for the compound's name and go on with half a structure.
        raise StructureError("SMILES with a blank in it")
    foreign = next((character for character in own if not "!" <= character <= "~"), None)
    if foreign is not None:
        name = unicodedata.name(foreign, f"U+{ord(foreign):04X}")
        raise StructureError(f"SMILES with a character that it does not have: {foreign!r} ({name})")
    return text


def no_smiles(text: str) -> str:
    """Why this text is not read as SMILES: it is something else, where that can be told."""
    return next((meaning for form, meaning in _OTHER_NAMES if form.match(text)), "SMILES does not parse")


def require_definite(molecule: Chem.Mol, text: str) -> None:
    """What was read from `text` is one structure.

    Raises:
        StructureError: an atom or a bond is left open, or no atom can have such a charge.
    """
    if len(molecule.GetAtomsMatchingQuery(_UNSPECIFIED)):
        raise StructureError("an unspecified atom (* or R): a family of compounds, not one")
    # Only these characters write such bonds, and looking at every bond takes long.
    if "~" in text and any(bond.GetBondType() == Chem.BondType.UNSPECIFIED for bond in molecule.GetBonds()):
        raise StructureError("an unspecified bond (~): a family of compounds, not one")
    if ":" in text and molecule.HasSubstructMatch(_LOOSE_BOND):
        raise StructureError("an aromatic bond (:) between atoms that are not aromatic")
    charged = (*molecule.GetAtomsMatchingQuery(_POSITIVE), *molecule.GetAtomsMatchingQuery(_NEGATIVE))
    for atom in (atom for atom in charged if atom.GetAtomicNum() not in METALS):
        raise StructureError(f"a charge of {atom.GetFormalCharge():+d} on one atom ({atom.GetSymbol()})")
