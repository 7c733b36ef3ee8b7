"""The charter's `[features]`: how structures are standardised and described.

Imports no RDKit, so that the daemon may use it.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import StrictModel


class FeatureRule(StrictModel):
    """How a structure is standardised and described; the same at every site of a federation."""

    kind: Literal["morgan-count+rdkit"] = "morgan-count+rdkit"
    """What describes a structure: a Morgan count fingerprint, and descriptors of RDKit."""
    radius: Annotated[int, pydantic.Field(ge=0, le=6)] = 2
    """Of the Morgan fingerprint, in bonds; 2 is ECFP4."""
    bits: Annotated[int, pydantic.Field(ge=64, le=65536)] = 2048
    """Length of the count fingerprint. Shorter makes more substructures share a position."""
    stereo: Literal["keep", "drop"] = "drop"
    """Whether stereochemistry is part of a compound's identity and of its features."""
    tautomers: Literal["keep", "canonical"] = "keep"
    """`canonical` maps every tautomer to RDKit's canonical one (slow); `keep` takes the one that is drawn."""
    mixtures: Literal["refuse", "largest"] = "refuse"
    """A record of several parts that are no counter-ions: refuse it, or keep the largest part."""
    reference_hash: Annotated[
        str, worded_pattern(r"^([0-9a-f]{64})?$", "64 hex digits, as kmel-peer charter verify prints, or nothing")
    ] = ""
    """Hash of the reference molecules' features, which every site must reproduce; empty: not checked."""

    @property
    def width(self) -> int:
        """Inputs of the trunk: fingerprint positions, then descriptors."""
        return self.bits + len(descriptor_constants())

    @property
    def tag(self) -> str:
        """Sixteen hex digits that differ whenever the features or the descriptor constants do."""
        text = f"{self.radius}|{self.bits}|{self.stereo}|{self.tautomers}|{self.mixtures}|{descriptor_constants()!r}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class DescriptorConstant:
    """Fixed normalisation of one RDKit descriptor: value -> (value - center) / scale."""

    name: str
    center: float
    scale: float


@functools.cache
def descriptor_constants() -> tuple[DescriptorConstant, ...]:
    """The descriptors in use and their constants, in feature order.

    They come with the package (`descriptors.csv`, made by `scripts/descriptor_constants.py` from public structures
    bundled with RDKit), so no statistic of any site's data goes into them.
    """
    text = resources.files("kmel_p2p.agreement").joinpath("descriptors.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    constants = tuple(DescriptorConstant(row["name"], float(row["center"]), float(row["scale"])) for row in rows)
    if not constants or any(not constant.scale > 0 for constant in constants):
        raise Bug("descriptors.csv of the package is damaged: install kmel_p2p again")
    return constants
