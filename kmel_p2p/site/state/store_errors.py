"""SQLite's result codes in words an operator can act on."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmel_p2p.agreement.errors import ConfigError

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space ({free}), then start the daemon again: "
    "what it has confirmed is safe, and nothing else was sent",
    sqlite3.SQLITE_BUSY: "locked by another process; close whatever else has it open",
    sqlite3.SQLITE_LOCKED: "locked by another process; close whatever else has it open",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop the daemon and restore the state directory from a "
    "backup. Without one, move the file away: the ledger comes back from the others, unpublished work is lost",
    sqlite3.SQLITE_NOTADB: "not a database; is state_dir right? Otherwise restore the file from a backup",
    sqlite3.SQLITE_READONLY: "may not be written; check owner, mode and mount options of its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its directory exists and belongs to this user",
    sqlite3.SQLITE_PERM: "may not be accessed; check owner and mode of the state directory",
    sqlite3.SQLITE_IOERR: "the disk reports an error; check the file system and the kernel log",
}


@contextmanager
def explain(path: Path) -> Iterator[None]:
    """Turn SQLite errors inside into `ConfigError` with path and remedy."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        code = getattr(error, "sqlite_errorcode", None)
        remedy = _REMEDIES.get(code & 0xFF) if isinstance(code, int) else None
        if remedy is None:
            raise
        raise ConfigError(f"{path}: {remedy.format(free=_free(path))} [{error}]") from error


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free at {path.parent}"
    except OSError:
        return f"look at {path.parent}"
