"""Tensors and a few plain facts in one safetensors file, or bare vectors; a crash leaves the old file or the new."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import BY_UMASK, whole_file, write_whole

Tensors = dict[str, NDArray[Any]]

PIECE = 1 << 20
"""Values that `read_into` reads at once."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A vector that is made while it is written: float32[size], in parts that follow one another."""

    size: int
    parts: Iterable[NDArray[np.float32]]


def write_state(
    path: Path, tensors: Mapping[str, NDArray[Any] | Stream], facts: Mapping[str, Any], *, mode: int = BY_UMASK
) -> None:
    """Write `path` in one step (`files.whole_file`), float32 tensors without a copy of them.

    Args:
        mode: of the file.

    Raises:
        ConfigError: the disk is full or not writable; nothing is left behind.
    """
    metadata = {"facts": json.dumps(facts, sort_keys=True)}
    whole = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Stream)}
    if any(tensor.dtype != np.float32 for tensor in whole.values()):
        if len(whole) < len(tensors):
            raise Bug("streams are written beside float32 tensors only")
        write_whole(path, save(whole, metadata=metadata), mode=mode)
        return
    with whole_file(path, mode) as file:
        file.write(_header(tensors, metadata))
        for name in sorted(tensors):
            _write_values(file, name, tensors[name])


def _header(tensors: Mapping[str, NDArray[Any] | Stream], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a safetensors file of float32 tensors, byte for byte as the library writes it."""
    described: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = [tensor.size] if isinstance(tensor, Stream) else list(tensor.shape)
        stop = start + 4 * tensor.size
        described[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_values(file: BinaryIO, name: str, tensor: NDArray[Any] | Stream) -> None:
    written = 0
    for part in tensor.parts if isinstance(tensor, Stream) else (tensor,):
        flat = np.ascontiguousarray(part, "<f4").reshape(-1)
        file.write(flat.data.cast("B") if flat.size else b"")
        written += flat.size
    if written != tensor.size:
        raise Bug(f"tensor {name!r} has {written} values where {tensor.size} were announced")


def read_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and facts of a file that `write_state` wrote.

    Args:
        shapes: the tensors expected, all float32.

    Raises:
        ConfigError: the file is missing, damaged, or of another model.
    """
    facts = state_facts(path, shapes)
    try:
        with safe_open(path, framework="np") as handle:
            return {name: handle.get_tensor(name) for name in shapes}, facts
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as a state file: {error}") from error


def state_facts(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """`read_state` without the tensors, of which none is read."""
    try:
        with safe_open(path, framework="np") as handle:
            facts = parse_json((handle.metadata() or {}).get("facts", "null"))
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            found = {name: tuple(one.get_shape()) for name, one in slices.items() if one.get_dtype() == "F32"}
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a state file: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is not a state file of this program: it has no facts")
    if found != dict(shapes):
        raise ConfigError(f"{path}: belongs to another model: it has {found} instead of {dict(shapes)}")
    return facts


def read_piece(path: Path, name: str, piece: slice) -> NDArray[np.float32]:
    """A piece of a vector float32[n] of a file that `write_state` wrote.

    The file is opened for each: it is mapped into memory, and what was read of it would stay there.

    Raises:
        ConfigError: the file is missing or damaged, or the vector ends before.
    """
    if piece.start == piece.stop:
        return np.empty(0, np.float32)
    try:
        with safe_open(path, framework="np") as handle:
            found: NDArray[np.float32] = handle.get_slice(name)[piece]
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as a state file: {error}") from error
    return found


def read_into(path: Path, name: str, out: NDArray[np.float32]) -> None:
    """Write such a vector into `out`, float32[n], a few megabytes at a time.

    Raises:
        ConfigError: as `read_piece`.
    """
    for start in range(0, len(out), PIECE):
        piece = slice(start, min(start + PIECE, len(out)))
        out[piece] = read_piece(path, name, piece)


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
    with whole_file(path) as file:
        file.write(np.ascontiguousarray(values, "<f4").data.cast("B") if values.size else b"")


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
