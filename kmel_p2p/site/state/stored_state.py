"""What a store keeps for an averaging mode without entries: one state, and a journal of the changes after it.

A new state replaces the old one and empties the journal in one transaction, so a crash leaves either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from kmel_p2p.agreement.errors import Bug

Transaction = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class StoredState:
    """What averaging goes on from.

    Attributes:
        charter_id: under which it was made, 32 bytes.
        journal: (number, body) of the changes after `state`, in order.
    """

    charter_id: bytes
    state: bytes
    journal: tuple[tuple[int, bytes], ...]


class StateRecords:
    """Part of `store.Store`, which opens the tables and gives its transactions."""

    def __init__(self, connection: sqlite3.Connection, transaction: Transaction) -> None:
        self._connection = connection
        self._transaction = transaction

    def put_state(self, charter_id: bytes, number: int, state: bytes | bytearray, own_state_file: str | None) -> None:
        """Keep a state in place of the state and the journal before.

        Args:
            number: of the newest change that is in the state.
            own_state_file: trainer state that belongs to it; None keeps the one stored before.
        """
        with self._transaction("state"):
            self._connection.execute(
                "INSERT INTO averaging_state VALUES (1, ?, ?, ?, ?) ON CONFLICT (only) DO UPDATE SET"
                " charter_id = excluded.charter_id, number = excluded.number, state = excluded.state,"
                " own_state_file = coalesce(excluded.own_state_file, own_state_file)",
                (charter_id, number, state, own_state_file),
            )
            self._connection.execute("DELETE FROM averaging_journal")

    def append(self, number: int, body: bytes) -> None:
        """Keep one change.

        Raises:
            Bug: it does not follow the newest one kept.
        """
        with self._transaction("journal"):
            (newest,) = self._connection.execute(
                "SELECT coalesce((SELECT max(number) FROM averaging_journal), (SELECT number FROM averaging_state))"
            ).fetchone()
            if newest is None or number != newest + 1:
                raise Bug(f"change {number} does not follow {newest}, the newest one stored")
            self._connection.execute("INSERT INTO averaging_journal VALUES (?, ?)", (number, body))

    def load(self) -> StoredState | None:
        """State and journal; None before the first start."""
        with self._transaction("load"):
            row = self._connection.execute("SELECT charter_id, state FROM averaging_state").fetchone()
            journal = self._connection.execute("SELECT number, body FROM averaging_journal ORDER BY number").fetchall()
        return None if row is None else StoredState(row[0], row[1], tuple(journal))

    def newest(self) -> int:
        """Number of the newest change; 0 without any. Reads alone, so it works beside a peer that runs."""
        row = self._connection.execute("SELECT COALESCE(MAX(number), 0) FROM averaging_journal").fetchone()
        return int(row[0])

    def own_state_file(self) -> str | None:
        """Trainer state stored with the newest own round; None when there is none."""
        row = self._connection.execute("SELECT own_state_file FROM averaging_state").fetchone()
        name: str | None = None if row is None else row[0]
        return name
