"""The database file under a site's store: its tables, and SQLite's errors in words an operator can act on."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgpack

from kmel_p2p.agreement.errors import ConfigError

STORE_NAME = "store.sqlite"

APPLICATION_ID = 0x6B6D656C
"""Marks the file as ours in its SQLite header ("kmel")."""

SCHEMA_VERSION = 1
"""Of the tables below, in the header's `user_version`. From the first release on, a change gets a new number and a
migration."""

TABLES: tuple[str, ...] = (
    """
    CREATE TABLE entries (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        author BLOB NOT NULL, number INTEGER NOT NULL, hash BLOB NOT NULL,
        header BLOB NOT NULL, signature BLOB NOT NULL, payload BLOB NOT NULL,
        own_state_file TEXT,
        UNIQUE (author, number)
    ) STRICT
    """,
    """
    CREATE TABLE log_ends (
        author BLOB PRIMARY KEY, number INTEGER NOT NULL, reason TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE evidence (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        author BLOB NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    "CREATE TABLE blobs (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
    "CREATE TABLE peers (key BLOB PRIMARY KEY, descriptor BLOB NOT NULL) STRICT",
    """
    CREATE TABLE history (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX history_by_kind ON history (kind, row)",
    """
    CREATE TABLE averaging_state (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        charter_id BLOB NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL, own_state_file TEXT
    ) STRICT
    """,
    "CREATE TABLE averaging_journal (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
)

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space ({free}), then start the daemon again: "
    "what it has confirmed is safe, and nothing else was sent",
    sqlite3.SQLITE_BUSY: "locked by another process; close whatever else has it open",
    sqlite3.SQLITE_LOCKED: "locked by another process; close whatever else has it open",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop the daemon and restore the state directory from a "
    "backup. Without one, move the file away: the ledger comes back from the others, unpublished work is lost",
    sqlite3.SQLITE_ERROR: "its tables are not this version's, or the file is damaged; restore the state directory "
    "from a backup, and report this if it goes on",
    sqlite3.SQLITE_NOTADB: "not a database; is state_dir right? Otherwise restore the file from a backup",
    sqlite3.SQLITE_READONLY: "may not be written; check owner, mode and mount options of its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its directory exists and belongs to this user",
    sqlite3.SQLITE_PERM: "may not be accessed; check owner and mode of the state directory",
    sqlite3.SQLITE_IOERR: "the disk reports an error; check the file system and the kernel log",
}


def prepare(connection: sqlite3.Connection, source: str) -> None:
    """Create the tables in an empty file, inside the caller's transaction; check those of another one.

    Raises:
        ConfigError: the file belongs to another program, or to another version of this one.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise ConfigError(f"{source}: a database of another program; give this site another state_dir")
    if tables and version != SCHEMA_VERSION:
        raise ConfigError(
            f"{source}: written by another version of kmel-peer (schema {version}, this one reads {SCHEMA_VERSION}); "
            "upgrade kmel-peer, or restore the copy made before the upgrade"
        )
    if not tables:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for statement in TABLES:
            connection.execute(statement)


@contextmanager
def explain(path: Path) -> Iterator[None]:
    """Turn SQLite errors inside into `ConfigError` with path and remedy."""
    try:
        yield
    except UnicodeDecodeError as error:
        # SQLite quotes the file in its message, and damage need not be text.
        raise ConfigError(f"{path}: {_REMEDIES[sqlite3.SQLITE_CORRUPT]} [{error.reason}]") from error
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        # Without a code: a text in it that is none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        remedy = _REMEDIES.get(code & 0xFF) if isinstance(code, int) else None
        if remedy is None:
            raise
        raise ConfigError(f"{path}: {remedy.format(free=_free(path))} [{error}]") from error


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free at {path.parent}"
    except OSError:
        return f"look at {path.parent}"


@contextmanager
def sound(path: Path, what: str) -> Iterator[None]:
    """Has a record that cannot be read told with what to do.

    Raises:
        ConfigError: the `with` block could not read it.
    """
    try:
        yield
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ConfigError(
            f"{path}: {what} is damaged: {error}; stop the daemon and restore the state directory from a backup"
        ) from None


def holds_amendments(path: Path) -> bool:
    """Whether a store has any: a look for commands that would rather not load what a store needs."""
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return (
                connection.execute("SELECT 1 FROM blobs WHERE name GLOB 'amendment *' LIMIT 1").fetchone() is not None
            )
    except sqlite3.Error:
        return False


def empty_log(connection: sqlite3.Connection, timeout_s: float) -> bool:
    """Merge the write-ahead log and cut it to nothing; whether that could be done. Readers are not waited for.

    Args:
        timeout_s: how long the connection waits for others otherwise.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:  # no room, say: everything is durable already, and there is another chance
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout = {1000 * timeout_s:.0f}")
    return not busy
