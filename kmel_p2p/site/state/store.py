"""What a site must not lose, in one SQLite file: entries, evidence, counters, known peers, history.

Write-ahead log and `synchronous=FULL`: what a call has returned from survives a power cut. A store belongs to
the thread that opened it (`StoreWriter` gives the daemon one); offline commands open it read-only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgpack

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.ledger.events import CompactionRecord
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot, advance
from kmel_p2p.site.state.database import APPLICATION_ID, empty_log, explain, prepare, sound
from kmel_p2p.site.state.database import STORE_NAME as STORE_NAME
from kmel_p2p.site.state.set_aside import OWN_STATE, SetAside
from kmel_p2p.site.state.stored_snapshot import SnapshotFiles
from kmel_p2p.site.state.stored_state import StateRecords

SNAPSHOT = "snapshot"
"""Blob that names the snapshot file in force."""
AMENDMENT = "amendment "
"""Blobs that hold the amendments in force, by number."""
TRUSTED = "trusted"
"""Blob that says whose word the newest adopted snapshot rests on."""
BUSY_TIMEOUT_S = 5.0
ROWS_AT_ONCE = 16

Fault = Callable[[str], None]
"""Called at every named point of a write; a test lets it raise there, as a crash would."""


def no_fault(point: str) -> None:
    """The fault hook of a daemon in service: nothing happens."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of the ledger as it was accepted."""

    arrival: int
    author: SiteKey
    number: int
    hash: bytes
    header: bytes
    signature: bytes
    payload: bytes
    own_state_file: str | None

    @property
    def encoded(self) -> bytes:
        """The entry as it travels: what `core.ledger.log.entry.decode` reads."""
        packed: bytes = msgpack.packb([self.header, self.signature, self.payload], use_bin_type=True)
        return packed


class Store(SetAside):
    """The open store. Every write is one transaction; calls inside `transaction()` share one."""

    def __init__(self, path: Path, *, fault: Fault = no_fault, read_only: bool = False) -> None:
        """Open or create the file.

        Raises:
            ConfigError: missing (read-only), locked, damaged, of another version, or not writable; names the
                path and the remedy.
        """
        self.path = path
        self._files = SnapshotFiles(path.parent)
        self._fault = fault
        self._depth = 0
        self._shred = False
        """Whether the write-ahead log still has what must not be found any more."""
        if read_only and not path.exists():
            raise ConfigError(f"{path}: there is no store here; has this site ever run? (kmel-peer run)")
        with explain(path):
            # `mode=ro` would refuse a store whose write-ahead log a crash left behind; query_only does not.
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._prepare(read_only)
            except BaseException:
                self._connection.close()
                raise
        self.averaging = StateRecords(self._connection, self.transaction)

    def _prepare(self, read_only: bool) -> None:
        if read_only:
            self._connection.execute("PRAGMA query_only = ON")
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID:
                raise ConfigError(f"{self.path}: not the store of a site")
            return
        self.path.chmod(0o600)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self.transaction("prepare"):
            prepare(self._connection, str(self.path))
        self._files.sweep(self._snapshot_name())

    def close(self) -> None:
        """Close the file; merges the write-ahead log into it."""
        self._connection.close()

    @contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        """All writes inside are kept together or not at all. Inner ones can fail alone.

        Fault points: `<name>:begin`, `<name>:written`, and at the outermost level `<name>:committed`.
        """
        level = self._depth
        execute = self._connection.execute
        with explain(self.path):
            execute("BEGIN IMMEDIATE" if level == 0 else f"SAVEPOINT level{level}")
            self._depth += 1
            try:
                self._fault(f"{name}:begin")
                yield
                self._fault(f"{name}:written")
                execute("COMMIT" if level == 0 else f"RELEASE level{level}")
            except BaseException:
                if self._connection.in_transaction:
                    undo = ("ROLLBACK",) if level == 0 else (f"ROLLBACK TO level{level}", f"RELEASE level{level}")
                    for statement in undo:
                        execute(statement)
                raise
            finally:
                self._depth = level
        if level == 0:
            self._fault(f"{name}:committed")
            self._shred = self._shred and not empty_log(self._connection, BUSY_TIMEOUT_S)

    # entries

    def append_entry(self, author: SiteKey, number: int, encoded: bytes, own_state_file: str | None = None) -> None:
        """Keep an accepted entry, and with an own one the trainer state it was made from.

        Raises:
            Bug: the entry does not follow the newest one kept of that author.
            ConfigError: the store cannot take it; nothing was written.
        """
        header, signature, payload = msgpack.unpackb(encoded, raw=False)
        with self.transaction("append"):
            newest = self._one("SELECT max(number) FROM entries WHERE author = ?", author)
            if newest is not None and number != newest + 1:
                raise Bug(f"entry {author[:4].hex()}/{number} does not follow {newest}, the newest one stored")
            self._connection.execute(
                "INSERT INTO entries (author, number, hash, header, signature, payload, own_state_file)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (author, number, digest(header), header, signature, payload, own_state_file),
            )

    def load_entries(
        self, order: Literal["author", "arrival"] = "author", *, of: SiteKey | None = None, above: int = 0
    ) -> Iterator[StoredEntry]:
        """Every entry kept, by (author, number) or in the order of arrival; never all in memory.

        `of`, `above`: one author's only, numbered above that.
        """
        columns = "author, number" if order == "author" else "arrival"
        which, values = ("WHERE author = ? AND number > ?", (of, above)) if of is not None else ("", ())
        with explain(self.path):
            cursor = self._connection.execute(
                "SELECT arrival, author, number, hash, header, signature, payload, own_state_file"
                f" FROM entries {which} ORDER BY {columns}",
                values,
            )
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                for row in rows:
                    yield StoredEntry(*row)

    def vector(self) -> dict[SiteKey, int]:
        """Newest number kept of each author, in an entry or in the snapshot."""
        snapshot = self.snapshot()
        heads = snapshot.vector if snapshot is not None else {}
        rows = self._all("SELECT author, max(number) FROM entries GROUP BY author ORDER BY author")
        return dict(sorted({**heads, **{SiteKey(author): number for author, number in rows}}.items()))

    def own_state_file(self, author: SiteKey) -> str | None:
        """Trainer state stored with an entry of `author` (this site), the newest there is; None when there is none.

        Entries that other sites gave back have none.
        """
        name: str | None = self._one(
            "SELECT own_state_file FROM entries WHERE author = ? AND own_state_file IS NOT NULL"
            " ORDER BY number DESC LIMIT 1",
            author,
        )
        if name is not None:
            return name
        kept = (self.get_blob(OWN_STATE) or b"").decode()
        # A site that has a new key numbers its entries anew: the state of the old one is not its own. Values without
        # an author were written before keys could change.
        of, slash, kept_name = kept.rpartition("/")
        return kept_name if kept and (not slash or of == author.hex()) else None

    # the snapshot that the entries stand on

    def snapshot(self) -> Snapshot | None:
        """What the stored entries stand on; None: the charter's initial trunk.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        while True:
            name = self._snapshot_name()
            try:
                return None if name is None else self._files.read(name)
            except ConfigError:
                # Beside a running daemon the file may be replaced between the two looks.
                if name == self._snapshot_name():
                    raise

    def compact(self, record: CompactionRecord, genesis: Callable[[], Snapshot], codec: Decoder) -> None:
        """Compact entries into the snapshot (or into `genesis()`), and forget them.

        Raises:
            ConfigError: the store cannot take it; nothing was changed.
        """
        until = record.until
        compacted = (decode(e.encoded) for e in self.load_entries() if e.number <= until.get(e.author, 0))
        before = self.snapshot() or genesis()
        snapshot = advance(before, compacted, codec, record.withdrawn, record.amendments)
        self._replace_snapshot(snapshot, lambda author: (until.get(author, 0), None))

    def adopt(self, snapshot: Snapshot, kept: Mapping[SiteKey, int], trusted: bytes) -> None:
        """Go on from an attested snapshot: entries in it go, those above it and up to `kept` stay.

        Ended logs are forgotten too: what still holds is recorded anew. `trusted`: see `trust.Trusted`.
        """
        vector = snapshot.vector

        def also() -> None:
            self.put_blob(TRUSTED, trusted)
            self.forget_ends()

        self._replace_snapshot(snapshot, lambda author: (vector.get(author, 0), kept.get(author, 0)), also)

    def _snapshot_name(self) -> str | None:
        name = self.get_blob(SNAPSHOT)
        return None if name is None else name.decode()

    def _replace_snapshot(
        self,
        snapshot: Snapshot,
        span: Callable[[SiteKey], tuple[int, int | None]],
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """`span`: author -> the entries up to which go, and above which go (None: none)."""
        name = self._files.write(self.bump("snapshot"), snapshot)
        self._fault("snapshot:file")
        with self.transaction("snapshot"):
            # The trainer's state outlives the own entry that it was stored with.
            states = self._all(
                "SELECT author, own_state_file FROM entries WHERE own_state_file IS NOT NULL"
                " ORDER BY arrival DESC LIMIT 1"
            )
            for author, state in states:
                self.put_blob(OWN_STATE, f"{author.hex()}/{state}".encode())
            for author in self.authors():
                low, high = span(author)
                self._connection.execute("DELETE FROM entries WHERE author = ? AND number <= ?", (author, low))
                if high is not None:
                    self._connection.execute("DELETE FROM entries WHERE author = ? AND number > ?", (author, high))
            also()
            self.put_blob(SNAPSHOT, name.encode())
        self._files.sweep(name)

    def add_amendment(self, number: int, encoded: bytes) -> None:
        """Keep an amendment in force."""
        self.put_blob(f"{AMENDMENT}{number:010d}", encoded)

    def amendments(self) -> dict[int, bytes]:
        """Amendments heard of, by number, in order. Those that the site's files list need not be among them."""
        with sound(self.path, "an amendment"):
            return {int(number): value for number, value in self.blobs(AMENDMENT).items()}

    # small values

    def bump(self, counter: str) -> int:
        """Raise a persistent counter by one and return it; the first value is 1."""
        with self.transaction("bump"):
            self._connection.execute(
                "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
                (counter,),
            )
            value: int = self._one("SELECT value FROM counters WHERE name = ?", counter)
            return value

    def raise_counter(self, counter: str, least: int) -> None:
        """Make a persistent counter at least `least`; it never goes down."""
        with self.transaction("counter"):
            self._connection.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name)"
                " DO UPDATE SET value = max(value, excluded.value)",
                (counter, least),
            )

    def bump_generation(self) -> int:
        """How often this site has started, this start included. Membership orders facts by it."""
        return self.bump("generation")

    def put_blob(self, name: str, value: bytes) -> None:
        """Keep a small named value; it replaces the one before."""
        with self.transaction("blob"):
            self._connection.execute(
                "INSERT INTO blobs VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def get_blob(self, name: str) -> bytes | None:
        """The value kept under `name`."""
        value: bytes | None = self._one("SELECT value FROM blobs WHERE name = ?", name)
        return value

    def shred_replaced(self) -> None:
        """Have what the present transaction replaces overwritten, and the write-ahead log emptied after it.

        While somebody reads the store, the log stays; it is emptied after a later transaction.
        """
        self._connection.execute("PRAGMA secure_delete = ON")
        self._shred = True

    def put_peer(self, key: SiteKey, descriptor: bytes) -> None:
        """Keep the newest signed descriptor of a remote peer, so that it is found again after a restart."""
        with self.transaction("peer"):
            self._connection.execute(
                "INSERT INTO peers VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET descriptor = excluded.descriptor",
                (key, descriptor),
            )

    def peers(self) -> dict[SiteKey, bytes]:
        """Signed descriptors kept, by site."""
        return {SiteKey(key): value for key, value in self._all("SELECT key, descriptor FROM peers ORDER BY key")}

    def blobs(self, prefix: str) -> dict[str, bytes]:
        """Values whose name begins so, by the rest of the name, in order."""
        rows = self._all("SELECT name, value FROM blobs WHERE name LIKE ? ORDER BY name", f"{prefix}%")
        return {name.removeprefix(prefix): value for name, value in rows}

    def add_history(self, kind: str, at: float, values: Mapping[str, Any]) -> None:
        """Append one row of a time series.

        Args:
            kind: name of the series, for example "entry" or "traffic".
            at: wall clock in seconds since 1970; for reports only.
            values: plain data (numbers, strings, lists, maps).
        """
        with self.transaction("history"):
            self._insert_history(kind, at, values)

    def _insert_history(self, kind: str, at: float, values: Mapping[str, Any]) -> None:
        self._connection.execute(
            "INSERT INTO history (kind, at, body) VALUES (?, ?, ?)",
            (kind, at, msgpack.packb(dict(values), use_bin_type=True)),
        )

    def history(self, kind: str, most: int = 0) -> list[dict[str, Any]]:
        """Rows of one series in order, each with its time under "at".

        Args:
            most: so many at most, evenly spread, with the newest; 0: all.
        """
        step = -(-self.history_length(kind) // most) if most else 1
        rows = self._all(
            "SELECT at, body FROM (SELECT row, at, body, ROW_NUMBER() OVER (ORDER BY row DESC) - 1 AS place "
            "FROM history WHERE kind = ?) WHERE place % ? = 0 ORDER BY row",
            kind,
            max(1, step),
        )
        with sound(self.path, f"a row of the series {kind!r}"):
            return [{"at": at, **msgpack.unpackb(body, raw=False)} for at, body in rows]

    def history_length(self, kind: str) -> int:
        """Number of rows of one series."""
        return int(self._one("SELECT COUNT(*) FROM history WHERE kind = ?", kind))

    def replace_history(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep these rows alone of one series, each with its time under "at"."""
        with self.transaction("history"):
            self._connection.execute("DELETE FROM history WHERE kind = ?", (kind,))
            for row in rows:
                self._insert_history(kind, row["at"], {name: value for name, value in row.items() if name != "at"})

    def check(self) -> list[str]:
        """What SQLite's own integrity check finds wrong; empty when the file is sound."""
        return [text for (text,) in self._all("PRAGMA integrity_check") if text != "ok"]

    def _one(self, query: str, *arguments: Any) -> Any:
        with explain(self.path):
            row = self._connection.execute(query, arguments).fetchone()
        return None if row is None else row[0]

    def _all(self, query: str, *arguments: Any) -> list[Any]:
        with explain(self.path):
            return self._connection.execute(query, arguments).fetchall()
