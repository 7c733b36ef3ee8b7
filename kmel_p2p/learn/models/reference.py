"""The hash of everything a network sees of the reference molecules. The charter names it; every site checks it."""

from __future__ import annotations

import hashlib
import importlib.metadata

import rdkit

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES, reference_hash
from kmel_p2p.chem.structures.standardise import standardise
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.version import VERSION

MADE_WITH = "made_with"
"""Label in a model's card: the versions it was made with, for when it cannot be loaded."""


def installation(model: ModelRule) -> str:
    """The versions installed here that decide how features are computed."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in kind_of(model).packages]
    return ", ".join([f"kmel_p2p {VERSION}", f"RDKit {rdkit.__version__}", *packages])


def trunk_reference_hash(policy: FeatureRule, model: ModelRule) -> str:
    """BLAKE2b-256 (hex) of the features, and of what the trunk makes of the structures beside them.

    Raises:
        ConfigError: the trunk needs a package that is not installed.
    """
    features = reference_hash(policy)
    smiles = [standardise(text, policy)[0].smiles for text in REFERENCE_MOLECULES]
    further = kind_of(model).reference_hash(smiles, model, policy.bits)
    if not further:
        return features
    return hashlib.blake2b(f"{features} {further}".encode(), digest_size=32, person=b"kmel features 2").hexdigest()
