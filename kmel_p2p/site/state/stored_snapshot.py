"""The snapshot a store's entries stand on: one file beside the database, which names the one in force.

A new file is durable before the database names it, and the old one goes after: a crash in between leaves a file that
nobody names, which the next start removes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.snapshot.snapshot import MAX_META_BYTES, PREFIX_BYTES, Snapshot, assemble, meta_length
from kmel_p2p.files import write_whole

PATTERN = "snapshot-*.kmls*"


class SnapshotFiles:
    """Snapshot files of one state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, number: int, snapshot: Snapshot) -> str:
        """Write a snapshot durably; returns the file's name.

        Raises:
            ConfigError: the file cannot be written, or could not be read again; names it and the reason.
        """
        name = f"snapshot-{number}.kmls"
        prefix = snapshot.prefix()
        if len(prefix) > PREFIX_BYTES + MAX_META_BYTES:
            raise ConfigError(
                f"{self._directory / name}: not written: headers, proofs and amendments take {len(prefix):,} bytes, "
                f"more than the {MAX_META_BYTES:,} that are read. Nothing was lost; have the consortium retire the "
                "sites whose logs were ended, and report this"
            )
        write_whole(self._directory / name, prefix, snapshot.accumulator.raw())
        return name

    def read(self, name: str) -> Snapshot:
        """Read a snapshot that the database names.

        Raises:
            ConfigError: it is missing or damaged.
        """
        path = self._directory / name
        remedy = "restore the state directory from a backup, or move it away and start anew: the others will help"
        try:
            return _read(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot read: {error.strerror}; {remedy}") from error
        except WireError as error:
            raise ConfigError(f"{path}: {error}; {remedy}") from error

    def sweep(self, keep: str | None) -> None:
        """Remove every snapshot file but the one in force."""
        for path in self._directory.glob(PATTERN):
            if path.name != keep:
                path.unlink(missing_ok=True)


def _read(path: Path) -> Snapshot:
    """The sum goes from the file to where it stays: it is the largest thing here, and is held once."""
    with path.open("rb") as file:
        length = meta_length(file.read(PREFIX_BYTES))
        meta = file.read(length)
        values = np.fromfile(file, "<i8")
        if os.fstat(file.fileno()).st_size != PREFIX_BYTES + length + values.nbytes:
            raise WireError("a snapshot that is cut off")
    return assemble(meta, Accumulator(values.astype(np.int64, copy=False)))
