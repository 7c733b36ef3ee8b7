"""The trunk that a run starts from: drawn from the charter's seed, or of a file that the charter names by its hash.

The file is safetensors with the layout's own names (`trunk.…`), such as the trunk that an earlier federation wrote.
Each site has a copy of it, from whoever supplies it or fetched from another site (`site.desk.start_file_fetch`).
Imports no torch, so that the daemon may use it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import MAX_BOUND, Layout, TensorSpec, initial_trunk, on_grid

HEAD = "head."
"""Tensors of such names may be in the file and are not read: its heads are of other assay endpoints."""

_BLOCK = 1 << 20


def start_file_of(model: ModelRule, named: Path | None, state_dir: Path) -> Path | None:
    """A site's copy: the one that its settings name, else a fetched one; None where there is none."""
    fetched = fetched_path(model, state_dir)
    return fetched if named is None and model.start and fetched.exists() else named


def fetched_path(model: ModelRule, state_dir: Path) -> Path:
    """Where a site keeps a fetched copy."""
    return state_dir / f"start-{model.start[:16]}.safetensors"


def started_trunk(model: ModelRule, layout: Layout, file: Path | None) -> NDArray[np.float32]:
    """The trunk before the first entry, the same bits at every site, float32[layout.size].

    Args:
        file: the site's copy of the charter's start file, where the charter names one.

    Raises:
        ConfigError: the charter names a file and there is none, or another; or it does not fit the layout.
    """
    if not model.start:
        if file is not None:
            raise ConfigError(f"site.start_file is {file}, but the charter has no model.start: remove the setting")
        return initial_trunk(layout, model.seed)
    if file is None:
        raise ConfigError(
            f"the charter's trunk starts from a file of sha256 {model.start[:16]} (model.start): fetch it from another "
            "site (kmel-peer trunk fetch), or get it from whoever supplies it and name your copy in site.start_file"
        )
    _require(file, file_hash(file), model.start)
    # Read at once and hashed again: what is used is what was hashed, whatever happens to the path meanwhile.
    try:
        whole = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; site.start_file names it") from error
    _require(file, hashlib.sha256(whole).hexdigest(), model.start)
    return read_start(file, whole, layout, model.seed)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex, as sha256sum prints it.

    Raises:
        ConfigError: it cannot be read.
    """
    whole = hashlib.sha256()
    if path.exists() and not path.is_file():
        # A pipe would never end, nor would some devices.
        raise ConfigError(f"{path}: is no file; site.start_file names it")
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                whole.update(block)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; site.start_file names it") from error
    return whole.hexdigest()


def _require(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise ConfigError(
            f"{path}: has sha256 {found[:16]}, and the charter's trunk starts from a file of {wanted[:16]} "
            "(model.start): get that one"
        )


def read_start(path: Path, whole: bytes, layout: Layout, seed: int) -> NDArray[np.float32]:
    """The trunk's tensors of a start file, rounded to what the ledger's sum holds exactly; heads from the seed.

    Args:
        path: of the file, for errors.
        whole: its bytes.
        layout: of the trunk.
        seed: of the heads.

    Raises:
        ConfigError: the file is none of safetensors, or its tensors are not the layout's.
    """
    trunk = initial_trunk(layout, seed)
    wanted = {spec.name: spec for spec in layout.specs if not spec.name.startswith(HEAD)}
    try:
        found = dict(deserialize(whole))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a safetensors file: {error}") from error
    odd = sorted(wanted.keys() ^ {name for name in found if not name.startswith(HEAD)})
    if odd:
        where = "is missing" if odd[0] in wanted else "is none of the charter's"
        raise ConfigError(f"{path}: tensor {odd[0]!r:.80} {where}; the trunk has: {', '.join(wanted)[:500]}")
    for name, spec in wanted.items():
        tensor = found[name]
        _check(path, spec, tensor["shape"], tensor["dtype"])
        trunk[layout.slices[name]] = _values(path, spec, np.frombuffer(tensor["data"], "<f4"))
    return trunk


def _check(path: Path, spec: TensorSpec, shape: list[int], kind: str) -> None:
    if (tuple(shape), kind) != (spec.shape, "F32"):
        raise ConfigError(f"{path}: tensor {spec.name} is {kind}{shape}; the charter's is F32{list(spec.shape)}")


def _values(path: Path, spec: TensorSpec, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.abs(values).max(initial=0.0) <= MAX_BOUND:
        raise ConfigError(f"{path}: tensor {spec.name} has a value that is not finite, or beyond ±{MAX_BOUND:g}")
    rounded: NDArray[np.float32] = on_grid(values.ravel().astype(np.float64))
    return rounded
