"""Structures as SVG, plain or coloured by what each atom contributes.

Blue raises the value and orange lowers it; people who see colours differently tell the two apart (Okabe and Ito 2008).
The strongest atoms carry their number, so that nothing is told by colour alone.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from kmel_p2p.agreement.endpoint import AssayEndpoint

RAISES, LOWERS = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)
"""Colours (red, green, blue), 0 to 1."""

FAINTEST = 0.25
"""Full colour is for a contribution of at least this share of the assay endpoint's scale, so that a compound whose
atoms hardly matter is not drawn as if they did."""

NUMBERED = 3
"""Atoms that carry their number: the strongest ones."""

PALEST = 0.08
"""Share of full colour below which an atom stays uncoloured."""

SIZE, SMALL = (340, 250), (180, 130)
"""Width and height of a drawing in pixels."""


def full_colour(contributions: Sequence[float], endpoint: AssayEndpoint) -> float:
    """The contribution that is drawn in full colour, in the unit of contributions."""
    floor = FAINTEST * (1.0 if endpoint.kind == "classification" else endpoint.scale)
    return max([floor, *(abs(value) for value in contributions)])


def draw(smiles: str, size: tuple[int, int] = SMALL) -> str:
    """SVG of a structure; empty if it cannot be drawn."""
    molecule = Chem.MolFromSmiles(smiles)
    return "" if molecule is None else _svg(molecule, size, {}, {})


def draw_contributions(smiles: str, contributions: Sequence[float], full: float) -> str:
    """SVG of a structure whose atoms are coloured by their contributions.

    Args:
        contributions: one for each heavy atom, in the order of the SMILES.
        full: the contribution that gets full colour.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() != len(contributions):
        return ""
    colours = {}
    for place, value in enumerate(contributions):
        share = min(abs(value) / full, 1.0)
        if share >= PALEST:
            colours[place] = _towards_white(RAISES if value > 0 else LOWERS, share)
    strongest = np.argsort(-np.abs(contributions), kind="stable")[:NUMBERED]
    notes = {int(place): f"{contributions[place]:+.2g}" for place in strongest if int(place) in colours}
    return _svg(molecule, SIZE, colours, notes)


def as_image(svg: str) -> str:
    """The address of an SVG for an `<img>`: in an image, nothing runs and nothing is loaded."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _towards_white(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    # At most 0.75 of the colour: letters of atoms must stay legible on it.
    red, green, blue = (1 - 0.75 * share * (1 - part) for part in colour)
    return red, green, blue


def _svg(
    molecule: Chem.Mol, size: tuple[int, int], colours: dict[int, tuple[float, float, float]], notes: dict[int, str]
) -> str:
    rdDepictor.Compute2DCoords(molecule)
    for place, note in notes.items():
        molecule.GetAtomWithIdx(place).SetProp("atomNote", note)
    drawer = rdMolDraw2D.MolDraw2DSVG(*size)
    options: Any = drawer.drawOptions()
    options.useBWAtomPalette()
    options.highlightBondWidthMultiplier = 14
    options.fillHighlights = True
    options.highlightRadius = 0.38
    options.annotationFontScale = 0.6
    options.clearBackground = False
    options.flagCloseContactsDist = -1  # crowded atoms are no error to be marked in red
    atoms = list(colours)
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule, highlightAtoms=atoms, highlightAtomColors=colours,
                                       highlightBonds=[])  # fmt: skip
    drawer.FinishDrawing()
    text: str = drawer.GetDrawingText()
    return text[text.index("<svg") :]
