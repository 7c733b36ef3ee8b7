"""Tensors and a few plain facts in one safetensors file; a crash leaves the old file or the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.files import BY_UMASK, write_whole

Tensors = dict[str, NDArray[Any]]


def write_state(path: Path, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write `path` in one step (`files.write_whole`).

    Raises:
        ConfigError: the disk is full or not writable; nothing is left behind.
    """
    write_whole(path, save(dict(tensors), metadata={"facts": json.dumps(facts, sort_keys=True)}), mode=BY_UMASK)


def read_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and facts of a file that `write_state` wrote.

    Args:
        shapes: the tensors expected, all float32.

    Raises:
        ConfigError: the file is missing, damaged, or of another model.
    """
    try:
        with safe_open(path, framework="np") as handle:
            facts = json.loads((handle.metadata() or {}).get("facts", "null"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a state file: {error}") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: is not a state file of this program: it has no facts")
    found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == np.float32}
    if found != dict(shapes):
        raise ConfigError(f"{path}: belongs to another model: it has {found} instead of {dict(shapes)}")
    return tensors, facts
