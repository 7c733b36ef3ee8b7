"""The site's stack as a file of its model directory, which stays at the site: it holds training compounds.

    learners_STAYS.safetensors   tensors of `SiteStack`, its facts, and what intervals are made from; 42 MB for 1,000
                                 compounds and four assay endpoints

`card.json` has the file's digest. A card without one is that of an exported model, which predicts with the networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.learn.predict.model_directory import Card
from kmel_p2p.learn.predict.uncertainty import Calibration, SiteCalibration
from kmel_p2p.learn.stack.graph_networks import graphs_reference
from kmel_p2p.learn.stack.stack import SiteStack
from kmel_p2p.learn.tensor_file import write_state
from kmel_p2p.learn.train.checkpoint import Parameters

STACK_FILE = "learners_STAYS.safetensors"

WHAT_TO_DO = (
    "copy the whole model directory from the site again, or have the site write it anew by removing card.json and "
    "starting kmel-peer run; what kmel-peer export writes needs no such file"
)


@dataclass(frozen=True, slots=True)
class StoredStack:
    """A site's stack, and its calibrations by assay endpoint."""

    stack: SiteStack
    calibrations: Mapping[str, SiteCalibration]


def write_stack(folder: Path, stored: StoredStack) -> str:
    """Write the file, in one step; returns its digest for the card.

    Raises:
        ConfigError: the disk is full or not writable.
    """
    path = folder / STACK_FILE
    known = {
        name: {"own": calibration.own.plain(), "unusual": calibration.unusual.plain()}
        for name, calibration in stored.calibrations.items()
    }
    write_state(path, stored.stack.tensors(), {"stack": stored.stack.facts(), "calibrations": known}, mode=0o600)
    return _digest(path)


def read_stack(folder: Path, card: Card, parameters: Mapping[str, Parameters]) -> StoredStack | None:
    """The stack that belongs to a card; None if the card has none, as in an exported model.

    Args:
        parameters: of the networks in the model directory.

    Raises:
        ConfigError: the file is missing or damaged, or belongs to another card; says what to do.
    """
    if not card.stack_digest:
        return None
    path = folder / STACK_FILE
    try:
        if _digest(path) != card.stack_digest:
            raise ConfigError(f"{path}: is damaged, or belongs to other models than card.json; {WHAT_TO_DO}")
        with safe_open(path, framework="np") as handle:
            facts = parse_json(handle.metadata()["facts"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        _require_graphs(path, facts["stack"])
        stack = SiteStack.from_tensors(tensors, facts["stack"], card.architecture, parameters)
        known = {e.name: _calibration(facts["calibrations"][e.name]) for e in stack.architecture.endpoints}
    except FileNotFoundError:
        raise ConfigError(f"{path}: is missing, and card.json refers to it; {WHAT_TO_DO}") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, ConfigError) as error:
        if isinstance(error, ConfigError) and str(path) in str(error):
            raise
        raise ConfigError(f"{path}: cannot be read: {error}; {WHAT_TO_DO}") from None
    return StoredStack(stack, known)


def _require_graphs(path: Path, facts: Mapping[str, Any]) -> None:
    """Raises:
    ConfigError: there are graph networks, and chemprop is missing here.
    """
    if "graphs" in facts:
        try:
            graphs_reference()
        except ConfigError as error:
            raise ConfigError(f"{path}: this site's stack has graph networks: {error}") from None


def _calibration(raw: Mapping[str, Any]) -> SiteCalibration:
    return SiteCalibration(Calibration.read(raw["own"]), Calibration.read(raw["unusual"]))


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
