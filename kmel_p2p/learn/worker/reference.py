"""One hash for everything a network sees of the reference molecules: the charter names it, every site checks it."""

from __future__ import annotations

import hashlib
import importlib.metadata

import rdkit

from kmel_p2p.agreement.features import FeaturePolicy
from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES, reference_hash
from kmel_p2p.chem.structures.standardise import standardise
from kmel_p2p.learn.models.architecture import Trunk
from kmel_p2p.version import VERSION

MADE_WITH = "made_with"
"""Label of a model's card: the versions that made it, for whoever cannot load it."""


def installation(trunk: Trunk) -> str:
    """Versions here of what decides how molecules are described."""
    versions = f"kmel_p2p {VERSION}, RDKit {rdkit.__version__}"
    return versions if trunk == "mlp" else f"{versions}, chemprop {importlib.metadata.version('chemprop')}"


def trunk_reference_hash(policy: FeaturePolicy, trunk: Trunk) -> str:
    """BLAKE2b-256 (hex): of the features, and for a `dmpnn` trunk of chemprop's graphs too.

    Raises:
        ConfigError: the trunk needs a package that is not installed.
    """
    features = reference_hash(policy)
    if trunk == "mlp":
        return features
    from kmel_p2p.learn.models.graphs import graphs_hash

    graphs = graphs_hash([standardise(smiles, policy)[0].smiles for smiles in REFERENCE_MOLECULES])
    return hashlib.blake2b(f"{features} {graphs}".encode(), digest_size=32, person=b"kmel features 2").hexdigest()
