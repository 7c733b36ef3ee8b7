"""What the charter says about structures and features. Imports no RDKit, so that the daemon may use it."""

from __future__ import annotations

import csv
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from kmel_p2p.agreement.errors import Bug, ConfigError

Stereo = Literal["keep", "drop"]
Tautomers = Literal["keep", "canonical"]


@dataclass(frozen=True, slots=True)
class FeaturePolicy:
    """How a structure is standardised and described; the same at every site of a federation.

    Attributes:
        radius: Morgan radius in bonds; 2 is ECFP4.
        bits: folded length of the count fingerprint.
        stereo: whether stereochemistry is part of a compound's identity and of its features.
        tautomers: `canonical` maps every tautomer to RDKit's canonical one (slow), `keep` takes what is drawn.
    """

    radius: int = 2
    bits: int = 2048
    stereo: Stereo = "drop"
    tautomers: Tautomers = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 6:
            raise ConfigError(f"features.radius is {self.radius}; it must be 0 to 6")
        if not 64 <= self.bits <= 65536:
            raise ConfigError(f"features.bits is {self.bits}; it must be 64 to 65536")

    @property
    def width(self) -> int:
        """Inputs of the trunk: fingerprint positions, then descriptors."""
        return self.bits + len(descriptor_constants())

    @property
    def tag(self) -> str:
        """Sixteen hex digits that differ whenever the policy or the descriptor constants do."""
        text = f"{self.radius}|{self.bits}|{self.stereo}|{self.tautomers}|{descriptor_constants()!r}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class DescriptorConstant:
    """Charter-fixed normalisation of one RDKit descriptor: value -> (value - center) / scale."""

    name: str
    center: float
    scale: float


@functools.cache
def descriptor_constants() -> tuple[DescriptorConstant, ...]:
    """The descriptors used and their constants, in feature order.

    They come with the package (`descriptors.csv`, made by `scripts/descriptor_constants.py` from public structures
    bundled with RDKit), so no statistic of any site's data goes into them.
    """
    text = resources.files("kmel_p2p.agreement").joinpath("descriptors.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    constants = tuple(DescriptorConstant(row["name"], float(row["center"]), float(row["scale"])) for row in rows)
    if not constants or any(not constant.scale > 0 for constant in constants):
        raise Bug("descriptors.csv of the package is damaged: install kmel_p2p again")
    return constants
