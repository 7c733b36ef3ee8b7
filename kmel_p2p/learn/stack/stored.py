"""Reading named arrays that come from a file: each has the type and shape it must have, and finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError

Tensors = Mapping[str, NDArray[Any]]
"""Arrays by name."""


def damaged(where: str, why: str) -> ConfigError:
    """The error for arrays or facts that cannot be used."""
    return ConfigError(f"{where}: is damaged: {why}; copy the model directory again")


def require(tensors: Tensors, name: str, kind: Any, shape: tuple[int | None, ...], where: str) -> NDArray[Any]:
    """One array, whole and aligned in memory, so that it computes as the one that was written.

    Args:
        kind: its data type.
        shape: its lengths; None where any will do.
        where: what the arrays belong to, for the error.

    Raises:
        ConfigError: it is missing, of another type or shape, or not finite.
    """
    found = tensors.get(name)
    if found is None:
        raise damaged(where, f"{name} is missing")
    fits = found.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, found.shape, strict=True)
    )
    if found.dtype != kind or not fits:
        raise damaged(where, f"{name} is {found.dtype}{list(found.shape)}")
    if not np.isfinite(found).all():
        raise damaged(where, f"{name} holds numbers that are not finite")
    return np.array(found, dtype=kind, order="C")


def below(tensors: Tensors, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names start with `prefix` and a slash, under the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def under(prefix: str, tensors: Tensors) -> dict[str, NDArray[Any]]:
    """The other way round."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
