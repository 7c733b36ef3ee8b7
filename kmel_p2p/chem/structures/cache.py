"""Structures computed before: one file per feature rule, and blocks of work that is not finished.

    structures-TAG-VERSION.safetensors         what was finished
    structures-TAG-VERSION.PID-NUMBER.block    what a process has done so far

Who finishes puts all blocks into the file, those of processes that were interrupted too. The cache never changes a
result: a missing, damaged or foreign file means computing again. Several processes may use a folder at once: where two
finish at the same moment, one's structures are computed again some day.
"""

from __future__ import annotations

import contextlib
import glob
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
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

FORMAT = "5"
FOLDER = "cache"
"""Of a site's structures, in its state directory."""
_TEXT_COLUMNS = ("sources", "smiles", "identities", "scaffolds", "series", "reasons", "changes")


class StructureCache:
    """Keeps `StructureTable` rows in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.damaged = 0
        """Files that could not be used, so that their structures were computed again."""
        self._kept = 0

    def path(self, policy: FeatureRule) -> Path:
        """File of one policy under this RDKit version (another version may compute different features)."""
        version = hashlib.blake2b(f"{FORMAT} {rdBase.rdkitVersion}".encode(), digest_size=4).hexdigest()
        return self._folder / f"structures-{policy.tag}-{version}.safetensors"

    def look_up(self, smiles: Sequence[str], policy: FeatureRule) -> tuple[StructureTable | None, list[str]]:
        """Rows known for these distinct SMILES, and the SMILES that are not known."""
        table = self._all(policy, self._blocks(policy))
        if table is None:
            return None, list(smiles)
        place = {text: row for row, text in enumerate(table.sources)}
        rows = [place[text] for text in smiles if text in place]
        return table.take(rows), [text for text in smiles if text not in place]

    def add(self, fresh: StructureTable, policy: FeatureRule) -> None:
        """Keep these rows and those of all blocks. A full disk does not fail the run: then nothing is kept."""
        blocks = self._blocks(policy)
        table = self._all(policy, blocks)
        if table is not None:
            fresh = _joined([table, fresh], policy)
        if self._write(self.path(policy), fresh):
            for block in blocks:
                with contextlib.suppress(OSError):
                    block.unlink()

    def keep(self, part: StructureTable, policy: FeatureRule) -> None:
        """Keep these rows in a block, for whoever goes on if this process does not come to `add`."""
        self._kept += 1
        path = self.path(policy)
        self._write(path.with_name(f"{path.stem}.{os.getpid()}-{self._kept}.block"), part)

    def _blocks(self, policy: FeatureRule) -> list[Path]:
        return sorted(self._folder.glob(f"{glob.escape(self.path(policy).stem)}.*.block"))

    def _all(self, policy: FeatureRule, blocks: Sequence[Path]) -> StructureTable | None:
        """The rows of the file and of these blocks; None if there are none."""
        found = [self._load(path, policy) for path in (self.path(policy), *blocks)]
        tables = [table for table in found if table is not None]
        return _joined(tables, policy) if len(tables) > 1 else next(iter(tables), None)

    def _write(self, path: Path, table: StructureTable) -> bool:
        """Whether it went well."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.touch(0o600)  # before there are structures in it: projects may share a folder that others can read
            save_file(_tensors(table), partial)
            os.replace(partial, path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink()
            return False
        return True

    def _load(self, path: Path, policy: FeatureRule) -> StructureTable | None:
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


def _joined(tables: Sequence[StructureTable], policy: FeatureRule) -> StructureTable:
    """All rows, each source once."""
    known: set[str] = set()
    parts = []
    for table in tables:
        rows = [row for row, text in enumerate(table.sources) if text not in known]
        parts.append(table.take(rows))
        known.update(table.sources)
    return StructureTable.concatenate(parts, policy.bits)


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
    columns = parse_json(texts)
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
