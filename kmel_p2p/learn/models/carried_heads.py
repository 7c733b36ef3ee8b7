"""Private parameters of a network that gained assay endpoints, from those it had before.

A head belongs to what it was trained to predict, not to its place: after an amendment gave way to another one, the same
place may hold another assay endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout
from kmel_p2p.learn.tensor_file import glance


def identity_of(endpoint: AssayEndpoint) -> str:
    """Equal for two assay endpoints exactly when they are the same in every respect."""
    return digest(b"kmel assay endpoint 1", canonical(endpoint.model_dump(mode="python"))).hex()


def private_heads(architecture: Architecture) -> list[str]:
    """What the private heads of a network predict, in their order: the identities of the assay endpoints."""
    return [identity_of(architecture.endpoints[place]) for place in architecture.private]


def private_size(architecture: Architecture, heads: int) -> int:
    """Values of the private parameters, were there so many private heads."""
    return private_layout(architecture, heads).size


def heads_of(path: Path, otherwise: Sequence[str]) -> list[str]:
    """What the private heads of a state file predict; `otherwise` where it does not say.

    Raises:
        ConfigError: it says something else.
    """
    found = glance(path)[1].get("private_heads", otherwise)
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, str) for one in found):
        raise ConfigError(f"{path}: is not a round file: private_heads is no list of texts")
    return list(found)


def carried(
    values: NDArray[np.float32], heads: Sequence[str], architecture: Architecture, fresh: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Private parameters for a network, float32[p]: of heads that there were, the values they had.

    Args:
        values: float32[q], the parameters before.
        heads: what the heads before predicted (`private_heads`).
        fresh: float32[p], for the heads that are new.
    """
    before, after = private_layout(architecture, len(heads)), private_layout(architecture)
    places = {identity: place for place, identity in enumerate(heads)}
    known = [(now, places[one]) for now, one in enumerate(private_heads(architecture)) if one in places]
    found = fresh.copy()
    for spec in after.specs:
        if spec.name not in before.slices:
            continue
        if spec.heads_along is None:
            found[after.slices[spec.name]] = values[before.slices[spec.name]]
            continue
        old_shape = next(other.shape for other in before.specs if other.name == spec.name)
        old = np.moveaxis(values[before.slices[spec.name]].reshape(old_shape), spec.heads_along, 0)
        new = np.moveaxis(found[after.slices[spec.name]].reshape(spec.shape), spec.heads_along, 0)
        for now, then in known:
            new[now] = old[then]
    return found
