"""Tensors and a few plain facts in one safetensors file, or bare vectors; a crash leaves the old file or the new."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import BY_UMASK, write_whole

Tensors = dict[str, NDArray[Any]]


def write_state(
    path: Path, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], *, mode: int = BY_UMASK
) -> None:
    """Write `path` in one step (`files.write_whole`).

    Args:
        mode: of the file.

    Raises:
        ConfigError: the disk is full or not writable; nothing is left behind.
    """
    write_whole(path, save(dict(tensors), metadata={"facts": json.dumps(facts, sort_keys=True)}), mode=mode)


def read_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and facts of a file that `write_state` wrote.

    Args:
        shapes: the tensors expected, all float32.

    Raises:
        ConfigError: the file is missing, damaged, or of another model.
    """
    try:
        with safe_open(path, framework="np") as handle:
            facts = parse_json((handle.metadata() or {}).get("facts", "null"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a state file: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is not a state file of this program: it has no facts")
    found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == np.float32}
    if found != dict(shapes):
        raise ConfigError(f"{path}: belongs to another model: it has {found} instead of {dict(shapes)}")
    return tensors, facts


def glance(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shapes and facts of a file that `write_state` wrote, without its values; both empty where it cannot be read.

    What is wrong with it, `read_state` says.
    """
    try:
        with safe_open(path, framework="np") as handle:
            facts = parse_json((handle.metadata() or {}).get("facts", "null"))
            shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError):
        return {}, {}
    return shapes, facts if isinstance(facts, dict) else {}


def write_vector(path: Path, values: NDArray[np.float32]) -> None:
    """Write float32[d] as its little-endian bytes and nothing else.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    write_whole(path, np.ascontiguousarray(values, "<f4").tobytes())


def read_vector(path: Path, size: int) -> NDArray[np.float32]:
    """float32[size] of a file that `write_vector` wrote.

    Raises:
        ConfigError: the file is missing, of another size, or has values that are not finite.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != 4 * size:
                raise ConfigError(
                    f"{path}: has {found} bytes where {4 * size} are needed: it was cut off or is of another model; "
                    "delete it and start again"
                )
            values = np.fromfile(file, "<f4").astype(np.float32, copy=False)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; start again") from error
    if not np.isfinite(values).all():
        raise ConfigError(f"{path}: has values that are not finite: it is damaged; delete it and start again")
    return values


def write_parts(path: Path, parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> None:
    """Write positions int64[n] and values float32[n] of each part, n of its own.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    tensors: Tensors = {}
    for at, (positions, values) in enumerate(parts):
        tensors |= {f"positions.{at}": positions, f"values.{at}": values}
    write_whole(path, save(tensors))


def read_parts(path: Path, count: int, size: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """What `write_parts` wrote.

    Args:
        count: of parts.
        size: of the vector that the positions are in.

    Raises:
        ConfigError: the file is missing, damaged, or of another model.
    """
    try:
        with safe_open(path, framework="np") as handle:
            parts = [(handle.get_tensor(f"positions.{at}"), handle.get_tensor(f"values.{at}")) for at in range(count)]
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; start again") from error
    for positions, values in parts:
        fits = positions.dtype == np.int64 and values.dtype == np.float32 and positions.shape == values.shape
        if not fits or (positions.size and not 0 <= positions.min() <= positions.max() < size):
            raise ConfigError(f"{path}: belongs to another model: its positions are not in a vector of {size}")
    return parts
