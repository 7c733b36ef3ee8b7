"""Structures computed before: one file per feature rule.

The cache never changes a result: a missing, damaged or foreign file means computing again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rdkit import rdBase
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

FORMAT = "4"
FOLDER = "cache"
"""Of a site's structures, in its state directory."""
_TEXT_COLUMNS = ("sources", "smiles", "identities", "scaffolds", "series", "reasons", "changes")


class StructureCache:
    """Keeps `StructureTable` rows in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged = 0
        """Files that could not be used, so that their structures were computed again."""

    def path(self, policy: FeatureRule) -> Path:
        """File of one policy under this RDKit version (another version may compute different features)."""
        version = hashlib.blake2b(f"{FORMAT} {rdBase.rdkitVersion}".encode(), digest_size=4).hexdigest()
        return self._folder / f"structures-{policy.tag}-{version}.safetensors"

    def look_up(self, smiles: Sequence[str], policy: FeatureRule) -> tuple[StructureTable | None, list[str]]:
        """Rows known for these distinct SMILES, and the SMILES that are not known."""
        table = self._load(policy)
        if table is None:
            return None, list(smiles)
        place = {text: row for row, text in enumerate(table.sources)}
        rows = [place[text] for text in smiles if text in place]
        return table.take(rows), [text for text in smiles if text not in place]

    def add(self, fresh: StructureTable, policy: FeatureRule) -> None:
        """Keep these rows too. A full disk does not fail the run: then nothing is kept."""
        table = self._load(policy)
        if table is not None:
            known = set(table.sources)
            rows = [row for row, text in enumerate(fresh.sources) if text not in known]
            fresh = StructureTable.concatenate([table, fresh.take(rows)], policy.bits)
        path = self.path(policy)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(_tensors(fresh), partial)
            os.replace(partial, path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink()

    def _load(self, policy: FeatureRule) -> StructureTable | None:
        path = self.path(policy)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return _table(tensors, policy)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError):
            self.damaged += 1
            path.unlink(missing_ok=True)
            return None


def _tensors(table: StructureTable) -> dict[str, np.ndarray]:
    texts = json.dumps({name: getattr(table, name) for name in _TEXT_COLUMNS}).encode()
    return {
        "texts": np.frombuffer(texts, np.uint8),
        "check": np.frombuffer(hashlib.blake2b(texts, digest_size=16).digest(), np.uint8),
        "offsets": table.counts.offsets,
        "positions": table.counts.positions,
        "values": table.counts.values,
        "descriptors": np.ascontiguousarray(table.descriptors),
    }


def _table(tensors: dict[str, np.ndarray], policy: FeatureRule) -> StructureTable:
    texts = tensors["texts"].tobytes()
    if hashlib.blake2b(texts, digest_size=16).digest() != tensors["check"].tobytes():
        raise ValueError("texts do not match their check")
    columns = json.loads(texts)
    rows = len(columns["sources"])
    counts = CountMatrix(tensors["offsets"], tensors["positions"], tensors["values"], policy.bits)
    fits = (
        all(len(columns[name]) == rows for name in _TEXT_COLUMNS)
        and len(counts) == rows
        and counts.offsets[0] == 0
        and bool((np.diff(counts.offsets) >= 0).all())
        and counts.offsets[-1] == len(counts.positions) == len(counts.values)
        and (not len(counts.positions) or int(counts.positions.max()) < policy.bits)
        and tensors["descriptors"].shape == (rows, len(descriptor_constants()))
    )
    if not fits:
        raise ValueError("columns do not fit together")
    return StructureTable(
        **{name: list(columns[name]) for name in _TEXT_COLUMNS}, counts=counts, descriptors=tensors["descriptors"]
    )
