"""What the network sees of a molecule: count Morgan fingerprint and RDKit descriptors, normalised by the charter.

Every number is a function of the canonical SMILES, the policy and constants that come with the package. Nothing is
estimated from a site's data, so nothing about it leaks through the normalisation, and two sites give the same compound
the same features.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import Descriptors, EState, rdFingerprintGenerator, rdMolDescriptors

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.structures.series import series
from kmel_p2p.chem.structures.standardise import standardise

SQUASH_LIMIT = 6.0
"""Largest magnitude a normalised descriptor can take."""

REFERENCE_MOLECULES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CN1CCC23C4C1CC5=C2C(=C(C=C5)O)OC3C(C=C4)O",
    "C[C@H](CS)C(=O)N1CCC[C@H]1C(=O)O",
    "OC(=O)c1ccccc1Nc1cccc(C(F)(F)F)c1.[Na+].[Cl-]",
    "CC1=C(C(=O)C2=C(C1=O)N3CC4C(C3(C2COC(=O)N)OC)N4)N",
    "Clc1ccc(cc1)C(c1ccccc1)N1CCN(CC1)CCOCC(=O)O",
    "O=S(=O)(N)c1cc2c(cc1Cl)NC(Cc1ccccc1)NS2(=O)=O",
    "CCCCCCCCCCCCCCCC[N+](C)(C)C",
    "O=c1[nH]c(=O)n([C@@H]2O[C@H](CO)[C@@H](O)[C@H]2O)cc1Br",
    "N#Cc1ccc(cc1)C(c1ccc(cc1)C#N)n1cncn1",
)
"""Public drugs that cover salts, charges, stereo, ring systems and hetero atoms."""

_OF_ESTATE_INDICES: Mapping[Callable[[Chem.Mol], float], Callable[[NDArray[np.float64]], float]] = {
    EState.MaxEStateIndex: np.max,
    EState.MinEStateIndex: np.min,
    EState.MaxAbsEStateIndex: lambda indices: np.max(np.abs(indices)),
    EState.MinAbsEStateIndex: lambda indices: np.min(np.abs(indices)),
}
"""Descriptors of RDKit that are functions of the E-state indices alone (Hall, Mohney and Kier 1991)."""

_OF_SURFACES: Mapping[str, Callable[[Chem.Mol], Any]] = {
    "PEOE_VSA": rdMolDescriptors.PEOE_VSA_,
    "SMR_VSA": rdMolDescriptors.SMR_VSA_,
    "SlogP_VSA": rdMolDescriptors.SlogP_VSA_,
}
"""Descriptors that are one bin each of a surface that is computed as a whole (Labute 2000): `SMR_VSA1` is bin 0."""

_GRID = 1 / 64
_OFFSET = 0.137
"""Quantisation of descriptors in the reference hash. The offset keeps whole numbers, which many descriptors are, away
from the edges of a cell; a test holds every reference value clear of the edges, so that noise in the last bits of a
float cannot change the hash while a changed definition does."""


def describe(molecule: Chem.Mol, policy: FeatureRule) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Features of one standardised molecule.

    Returns:
        counts: uint32[policy.bits] of the folded Morgan environments.
        descriptors: float32[number of descriptors], each within ±SQUASH_LIMIT; 0 where RDKit gives no finite value.
    """
    generator = morgan_generator(policy.radius, policy.bits, policy.stereo == "keep")
    counts = generator.GetCountFingerprintAsNumPy(molecule)
    return counts, normalise(raw_descriptors(molecule))


def raw_descriptors(molecule: Chem.Mol) -> NDArray[np.float64]:
    """RDKit's values, float64[number of descriptors]; NaN where RDKit fails."""
    values = np.full(len(_functions()), np.nan)
    with rdBase.BlockLogs():
        # Descriptors that share a step would each compute it again, a sixth of the time per molecule.
        indices = _or_nan(EState.EStateIndices, molecule)
        for places, bins, surface in _surfaces():
            whole = _or_nan(surface, molecule)
            values[places] = np.nan if whole is math.nan else [whole[number] for number in bins]
        for place, function in _single():
            of = _OF_ESTATE_INDICES.get(function)
            values[place] = _or_nan(function, molecule) if of is None else _or_nan(of, indices)
    return values


def _or_nan(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        return math.nan


def normalise(raw: NDArray[np.float64]) -> NDArray[np.float32]:
    """(value - center) / scale, compressed by asinh so that outliers stay within reach."""
    center, scale = _constants()
    with np.errstate(over="ignore", invalid="ignore"):
        bent = np.arcsinh((raw - center) / scale)
    bent = np.clip(bent, -SQUASH_LIMIT, SQUASH_LIMIT)
    return np.where(np.isfinite(bent), bent, 0.0).astype(np.float32)


def reference_hash(policy: FeatureRule) -> str:
    """BLAKE2b-256 (hex) of the reference molecules' features, series, and places in a split by a fixed key.

    Sites with equal hashes compute the same features and the same folds; a deviating RDKit version is noticed here
    before it can spoil the trunk (as MELLODDY's `ref_hash.json` does).
    """
    state = hashlib.blake2b(digest_size=32, person=b"kmel features 4")
    state.update(policy.tag.encode())
    split = SplitRule(fold_key="reference")
    for smiles in REFERENCE_MOLECULES:
        structure, molecule = standardise(smiles, policy)
        counts, descriptors = describe(molecule, policy)
        occupied = np.flatnonzero(counts)
        kin = series(molecule)
        state.update(f"{structure.smiles} {structure.identity} {kin} {split.place(kin).hex()}\n".encode())
        state.update(occupied.astype("<u4").tobytes() + counts[occupied].astype("<u4").tobytes())
        state.update(np.floor(reference_cells(descriptors)).astype("<i4").tobytes())
    return state.hexdigest()


def reference_cells(descriptors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Descriptors in units of the hash's grid; their whole parts are hashed."""
    return descriptors.astype(np.float64) / _GRID + _OFFSET


@functools.cache
def morgan_generator(radius: int, bits: int, stereo: bool) -> Any:
    """RDKit's generator of the fingerprint; its folded counts are the first features."""
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits, includeChirality=stereo)


@functools.cache
def _functions() -> tuple[Callable[[Chem.Mol], float], ...]:
    known = dict(Descriptors.descList)
    missing = [constant.name for constant in descriptor_constants() if constant.name not in known]
    if missing:
        # RDKit reads the patterns of its fr_* descriptors from a file, and goes on without them where it finds none.
        if not (Path(RDConfig.RDDataDir) / "FragmentDescriptors.csv").is_file():
            raise ConfigError(
                f"RDKit finds no file of its own in {RDConfig.RDDataDir}; if the environment variable RDBASE is set, "
                "to the place of another RDKit perhaps, unset it; else install RDKit again"
            )
        raise Bug(f"this RDKit has no descriptor {missing[0]!r}; install a version within the package's range")
    return tuple(known[constant.name] for constant in descriptor_constants())


@functools.cache
def _surfaces() -> tuple[tuple[list[int], list[int], Callable[[Chem.Mol], Any]], ...]:
    """(places among the descriptors, bins, function) of each surface."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for place, constant in enumerate(descriptor_constants()):
        name = constant.name.rstrip("0123456789")
        if name in _OF_SURFACES:
            places, bins = found.setdefault(name, ([], []))
            places.append(place)
            bins.append(int(constant.name.removeprefix(name)) - 1)
    return tuple((places, bins, _OF_SURFACES[name]) for name, (places, bins) in found.items())


@functools.cache
def _single() -> tuple[tuple[int, Callable[[Chem.Mol], float]], ...]:
    """(place, function) of the descriptors that are no bin of a surface."""
    taken = {place for places, _, _ in _surfaces() for place in places}
    return tuple((place, function) for place, function in enumerate(_functions()) if place not in taken)


@functools.cache
def _constants() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    constants = descriptor_constants()
    return np.array([c.center for c in constants]), np.array([c.scale for c in constants])


assert math.asinh(1e3) > SQUASH_LIMIT, "the limit only cuts what lies a thousand scales away"
