"""Tables of a site's store, as numbered migrations. A released one is never edited; a change appends one."""

from __future__ import annotations

import sqlite3

from kmel_p2p.agreement.errors import ConfigError

APPLICATION_ID = 0x6B6D656C
"""Marks the file as ours in its SQLite header ("kmel")."""

MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "entries, counters, blobs, peers, history",
        (
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
        ),
    ),
    (
        "state and journal of an averaging mode without entries",
        (
            """
            CREATE TABLE averaging_state (
                only INTEGER PRIMARY KEY CHECK (only = 1),
                charter_id BLOB NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL, own_state_file TEXT
            ) STRICT
            """,
            "CREATE TABLE averaging_journal (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
        ),
    ),
)

NEWEST = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, source: str) -> None:
    """Bring the tables to the newest schema, inside the caller's transaction.

    Raises:
        ConfigError: the file belongs to another program, or to a newer version of this one.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or tables):
        raise ConfigError(f"{source}: a database of another program; give this site another state_dir")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, description TEXT NOT NULL) STRICT"
    )
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    if version > NEWEST:
        raise ConfigError(
            f"{source}: written by a newer kmel-peer (schema {version}, this one reads up to {NEWEST}); "
            "upgrade kmel-peer, or restore the copy made before the upgrade"
        )
    for number, (description, statements) in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?, ?)", (number, description))
