"""The shared trunk of a completed run as a directory for use elsewhere: the same bytes at every site.

    card.json               what it is: charter, vector, authors, digests; it names the file beside it
    trunk-<digest>.safetensors   its tensors, by name

The card is renamed into place once the file is durable, so a directory with a card is complete. Nothing in it depends
on the site, time or machine that wrote it. `kmel_p2p.load` reads it and predicts the assay endpoints whose heads are
shared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import BY_UMASK, write_whole
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.predict.model_directory import CARD, card_values, shapes_of

TRUNK_FORMAT = "kmel trunk 1"


@dataclass(frozen=True, slots=True)
class TrunkCard:
    """What a trunk is, and who made it.

    Attributes:
        charter_id: hex.
        amendments: how many are in force; `amendment_hash` (hex) is the newest one's.
        vector: author key (hex) -> number of its newest entry in the sum.
        authors: for each of them `name`, `key`, `entries`, and `retracted_from` if entries were taken back.
        ledger_digest: of the exact sum, hex; what `kmel-peer status` and `ledger verify` show.
        digest: BLAKE2b-256 of the tensors, hex; `digest_of` recomputes it from the file.
        reference_hash: the charter's hash of the reference molecules' features; empty if the charter has none.
        unlearned: assay endpoints whose shared head no site has trained.
    """

    federation: str
    charter_id: str
    amendments: int
    amendment_hash: str
    vector: Mapping[str, int]
    authors: Sequence[Mapping[str, Any]]
    ledger_digest: str
    architecture: Architecture
    features: FeatureRule
    reference_hash: str
    digest: str = ""
    unlearned: Sequence[str] = dataclasses.field(default_factory=list)

    @property
    def file(self) -> str:
        """Name of the tensors' file."""
        return f"trunk-{self.digest[:16]}.safetensors"


def digest_of(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """BLAKE2b-256 over names and values (float32, little-endian) in the order of names, hex."""
    state = hashlib.blake2b(digest_size=32, person=b"kmel trunk 1")
    for name in sorted(tensors):
        state.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return state.hexdigest()


def write_trunk(folder: Path, card: TrunkCard, trunk: NDArray[np.float32]) -> bool:
    """Write a trunk directory, unless it already holds this trunk. Returns whether it wrote.

    Args:
        card: `digest` is filled in.
        trunk: float32[d], laid out as `trunk_layout` says.

    Raises:
        ConfigError: the disk is full or not writable; the previous trunk is kept.
    """
    tensors = trunk_layout(card.architecture).split(trunk)
    card = dataclasses.replace(card, digest=digest_of(tensors))
    values = {"format": TRUNK_FORMAT, "file": card.file, **card_values(card)}
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if _is_there(folder, card, text):
        return False
    write_whole(folder / card.file, save(tensors), mode=BY_UMASK)
    write_whole(folder / CARD, text.encode(), mode=BY_UMASK)
    for path in folder.glob("trunk-*.safetensors"):
        if path.name != card.file:
            with contextlib.suppress(OSError):
                path.unlink()
    return True


def is_trunk(folder: Path) -> bool:
    """Whether a directory holds only a trunk, rather than a site's models."""
    try:
        found = parse_json((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == TRUNK_FORMAT


def read_trunk(folder: Path) -> tuple[TrunkCard, NDArray[np.float32]]:
    """Card and trunk, float32[d].

    Raises:
        ConfigError: a file is missing or damaged, or the two do not belong together.
    """
    path = folder / CARD
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
        if raw.pop("format") != TRUNK_FORMAT:
            raise ConfigError(f"{path}: is not the card of a trunk; kmel_p2p.load reads models as well")
        raw.pop("file")
        card = TrunkCard(**shapes_of(raw, path), **raw)
        file = folder / card.file
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged: {error!r}; copy the directory again from a site") from None
    layout = trunk_layout(card.architecture)
    try:
        tensors = load(file.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; copy the directory again from a site") from None
    expected = {spec.name: spec.shape for spec in layout.specs}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected or digest_of(tensors) != card.digest:
        raise ConfigError(f"{folder}: {card.file} and {CARD} do not belong together; copy the directory as a whole")
    return card, layout.join(tensors)


def _is_there(folder: Path, card: TrunkCard, text: str) -> bool:
    try:
        if (folder / CARD).read_text(encoding="utf-8") != text:
            return False
        return digest_of(load((folder / card.file).read_bytes())) == card.digest
    except (OSError, SafetensorError, ValueError):
        return False
