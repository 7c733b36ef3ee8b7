"""The register of a site: predictions with their time and model version, kept until a measurement arrives.

It is a SQLite file in the state directory. It holds no structures, only what tells compounds apart (the first block of
the InChIKey, or all of it where stereo counts): whoever has a structure can look it up, so the file stays at the site,
as its name says.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from kmel_p2p.agreement.errors import ConfigError

FILE = "predictions_STAYS.sqlite"
APPLICATION_ID = 0x6B6D7072
"""Marks the file as ours in its SQLite header ("kmpr")."""
SCHEMA_VERSION = 1
WAIT_S = 30.0
"""For another process that writes."""

TABLES = (
    """
    CREATE TABLE predictions (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        compound TEXT NOT NULL, endpoint TEXT NOT NULL, version TEXT NOT NULL, at_s INTEGER NOT NULL,
        value REAL NOT NULL, lower REAL, upper REAL, classes TEXT NOT NULL, level REAL NOT NULL,
        best_local REAL, median REAL, similarity REAL, applicability TEXT NOT NULL,
        measured_before INTEGER NOT NULL,
        UNIQUE (compound, endpoint, version)
    ) STRICT
    """,
    "CREATE TABLE measured (compound TEXT, endpoint TEXT, PRIMARY KEY (compound, endpoint)) STRICT, WITHOUT ROWID",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)


@dataclass(frozen=True, slots=True)
class Registered:
    """One prediction of the register.

    Attributes:
        compound: what makes two records one compound (`chem.structures.standardise.Structure.identity`).
        endpoint: name of the assay endpoint.
        version: of the models (`Card.version`).
        at_s: when it was predicted, in seconds since 1970 (UTC).
        value: in the unit of the assay endpoint; the probability of class 1 for classes.
        lower, upper: ends of the interval in the same unit; None without one.
        classes: those that could not be ruled out, such as "01"; empty without.
        level: of interval or classes.
        best_local, median: what best local and the median of the training values said; None where there was none.
        similarity: to the nearest training compound then, 0 to 1; None if not known.
        applicability: `inside`, `edge` or `outside` then; empty if not known.
    """

    compound: str
    endpoint: str
    version: str
    at_s: int
    value: float
    lower: float | None
    upper: float | None
    classes: str
    level: float
    best_local: float | None
    median: float | None
    similarity: float | None
    applicability: str


_COLUMNS = ", ".join(field.name for field in fields(Registered))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of predictions that were to be recorded.

    Attributes:
        new: recorded.
        again: left out, because the same models predicted the same compound before.
        left_out: not recorded, because the register is full.
    """

    new: int = 0
    again: int = 0
    left_out: int = 0

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(self.new + other.new, self.again + other.again, self.left_out + other.left_out)


class Register:
    """See the module docstring.

    Args:
        path: made if it is missing.
        most: predictions that it holds at most; further ones are left out and counted.

    Raises:
        ConfigError: it is of another program or version, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        try:
            with self._explained(), self._transaction():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Register:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def __len__(self) -> int:
        """Predictions in it."""
        with self._explained():
            (count,) = self._connection.execute("SELECT count(*) FROM predictions").fetchone()
        return int(count)

    # ---- what is measured ---------------------------------------------------------------------------------------

    @property
    def seen(self) -> Any:
        """What `see` was last given as `files`; None before the first time."""
        with self._explained():
            found = self._connection.execute("SELECT value FROM facts WHERE name = 'files'").fetchone()
        return None if found is None else json.loads(found[0])

    def see(self, measured: Collection[tuple[str, str]], files: Any) -> None:
        """Note what the site has measured now.

        A prediction made afterwards for one of these is no proof of anything.

        Args:
            measured: (compound, assay endpoint); replaces what was noted before.
            files: what they were read from, as JSON has it, so that the next run can tell whether anything changed.
        """
        with self._explained(), self._transaction():
            self._connection.execute("DELETE FROM measured")
            self._connection.executemany("INSERT OR IGNORE INTO measured VALUES (?, ?)", measured)
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('files', ?)", (json.dumps(files),))

    # ---- predictions --------------------------------------------------------------------------------------------

    def keep(self, predictions: Sequence[Registered]) -> Recorded:
        """Record predictions, all or none of them; what the site has measured already is recorded as such."""
        with self._explained(), self._transaction():
            (count,) = self._connection.execute("SELECT count(*) FROM predictions").fetchone()
            again = [one for one in predictions if self._known(one)]
            new = [one for one in predictions if not self._known(one)]
            kept = new[: max(0, self._most - count)]
            marks = ", ".join("?" * len(fields(Registered)))
            self._connection.executemany(
                f"INSERT OR IGNORE INTO predictions ({_COLUMNS}, measured_before) VALUES ({marks}, "
                "EXISTS (SELECT 1 FROM measured WHERE compound = ? AND endpoint = ?))",
                [(*astuple(one), one.compound, one.endpoint) for one in kept],
            )
        return Recorded(len(kept), len(again), len(new) - len(kept))

    def ahead(self) -> Iterator[Registered]:
        """For each compound and assay endpoint the newest prediction made before the site measured it."""
        with self._explained():
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM predictions AS p WHERE measured_before = 0 AND row = ("
                "SELECT row FROM predictions AS other WHERE other.compound = p.compound "
                "AND other.endpoint = p.endpoint AND measured_before = 0 ORDER BY at_s DESC, row DESC LIMIT 1) "
                "ORDER BY at_s, row"
            )
            while found := rows.fetchmany(4096):
                yield from (Registered(*row) for row in found)

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Model version -> (predictions, time of the first in seconds since 1970), in order of time."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT version, count(*), min(at_s) FROM predictions GROUP BY version ORDER BY min(at_s), version"
            ).fetchall()
        return {version: (count, first) for version, count, first in rows}

    def forget(self, before_s: int) -> int:
        """Delete predictions made before a time (seconds since 1970); returns how many."""
        with self._explained(), self._transaction():
            return self._connection.execute("DELETE FROM predictions WHERE at_s < ?", (before_s,)).rowcount

    # ---- inner --------------------------------------------------------------------------------------------------

    def _known(self, one: Registered) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM predictions WHERE compound = ? AND endpoint = ? AND version = ?",
            (one.compound, one.endpoint, one.version),
        )
        return found.fetchone() is not None

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise ConfigError(f"{self._path}: a database of another program; move it away, or change state_dir")
        if tables and version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self._path}: written by another version of kmel-peer (schema {version}, this one reads "
                f"{SCHEMA_VERSION}); use that version, or move the file away to begin a new register"
            )
        if not tables:
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in TABLES:
                self._connection.execute(statement)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # A full disk may have ended it already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise ConfigError(
                f"{self._path}: the register of predictions cannot be used: {error}; if it is damaged, restore it from "
                "a backup, or move it away to begin a new one"
            ) from error
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be made: {error.strerror}") from error
