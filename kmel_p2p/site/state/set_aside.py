"""The part of a store that keeps what no longer counts: entries of ended logs and disowned branches, and the proofs."""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import msgpack

from kmel_p2p.agreement.identity import SiteKey

OWN_STATE = "own_state_file"
"""Blob that names the trainer state stored with the newest own entry, once that entry is compacted or set aside."""

EPOCH = "epoch "
"""Blobs that hold epochs, by author and number."""


class SetAside:
    """See the module docstring. The attributes are the store's."""

    _connection: sqlite3.Connection

    @abstractmethod
    def transaction(self, name: str) -> AbstractContextManager[None]:
        """All writes inside are kept together or not at all."""

    @abstractmethod
    def put_blob(self, name: str, value: bytes) -> None:
        """Keep a small named value."""

    @abstractmethod
    def _all(self, query: str, *arguments: Any) -> list[Any]:
        """All rows of a query."""

    def retract(self, author: SiteKey, number: int, reason: str, evidence: Iterable[bytes]) -> None:
        """End an author's log before `number`: later entries become evidence, beside what proves the fault."""
        with self.transaction("retract"):
            self.set_aside(author, number)
            rows = [(author, number, "proof", item) for item in evidence]
            self._connection.executemany("INSERT INTO evidence (author, number, kind, body) VALUES (?, ?, ?, ?)", rows)
            self._connection.execute(
                "INSERT INTO log_ends VALUES (?, ?, ?) ON CONFLICT (author) DO UPDATE"
                " SET number = excluded.number, reason = excluded.reason WHERE excluded.number < log_ends.number",
                (author, number, reason),
            )

    def begin_epoch(self, author: SiteKey, name: str, encoded: bytes, cut: int, reopened: bool) -> None:
        """Keep an epoch of a log under `name`; entries from `cut` on (0: none) are set aside.

        `reopened`: that the log had ended, and what proved it, holds no longer.
        """
        with self.transaction("epoch"):
            self.put_blob(name, encoded)
            if reopened:
                self._connection.execute("DELETE FROM log_ends WHERE author = ?", (author,))
                self._connection.execute("DELETE FROM evidence WHERE author = ? AND kind = 'proof'", (author,))
            if cut:
                self.set_aside(author, cut)

    def drop_retracted(self, author: SiteKey, encoded: bytes) -> None:
        """Forget an entry that was set aside."""
        with self.transaction("drop"):
            self._connection.execute(
                "DELETE FROM evidence WHERE author = ? AND kind = 'retracted' AND body = ?", (author, encoded)
            )

    def forget_entry(self, author: SiteKey, number: int) -> None:
        """Forget an own entry that nobody was sent, with the trainer's state that belongs to it."""
        with self.transaction("forget"):
            self._connection.execute("DELETE FROM entries WHERE author = ? AND number = ?", (author, number))

    def set_aside(self, author: SiteKey, number: int) -> None:
        """Entries of an author from `number` on become evidence. The trainer's state outlives own ones."""
        taken = self._all(
            "SELECT number, header, signature, payload, own_state_file FROM entries WHERE author = ? AND number >= ?"
            " ORDER BY number",
            author,
            number,
        )
        rows = [
            (author, at, "retracted", msgpack.packb([header, signature, payload], use_bin_type=True))
            for at, header, signature, payload, _ in taken
        ]
        states = [state for *_, state in taken if state]
        if states:
            # Only the newest file is sure to be there still.
            self.put_blob(OWN_STATE, f"{author.hex()}/{states[-1]}".encode())
            self._connection.execute("UPDATE entries SET own_state_file = NULL WHERE author = ?", (author,))
        self._connection.executemany("INSERT INTO evidence (author, number, kind, body) VALUES (?, ?, ?, ?)", rows)
        self._connection.execute("DELETE FROM entries WHERE author = ? AND number >= ?", (author, number))

    def forget_ends(self) -> None:
        """Forget which logs have ended, and the proofs: what still holds is recorded anew."""
        self._connection.execute("DELETE FROM log_ends")
        self._connection.execute("DELETE FROM evidence WHERE kind = 'proof'")

    def authors(self) -> list[SiteKey]:
        """Authors of the entries that are kept, in the order of their keys."""
        return [SiteKey(author) for (author,) in self._all("SELECT DISTINCT author FROM entries ORDER BY author")]

    def drop_blob(self, name: str) -> None:
        """Forget a small named value."""
        with self.transaction("blob"):
            self._connection.execute("DELETE FROM blobs WHERE name = ?", (name,))

    def log_ends(self) -> dict[SiteKey, tuple[int, str]]:
        """Authors whose log was ended: author -> (first number not accepted, reason)."""
        rows = self._all("SELECT author, number, reason FROM log_ends ORDER BY author")
        return {SiteKey(author): (number, reason) for author, number, reason in rows}

    def evidence(self, author: SiteKey) -> list[tuple[int, str, bytes]]:
        """What was set aside of an author: (number, "retracted" or "proof", bytes), oldest first."""
        return self._all("SELECT number, kind, body FROM evidence WHERE author = ? ORDER BY arrival", author)
