"""The disk of a virtual site: the real store in a real folder, whose writes take virtual time and may be lost.

Records are written one after another, each in one transaction, as the driver hands them to the store's thread. What a
power cut interrupts is there whole or not at all, which SQLite promises and the store's own tests show; so a cut ends
the present write at one of the store's named fault points and forgets what waits.
"""

from __future__ import annotations

import random
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.core.types import MILLISECOND, Micros
from kmel_p2p.site.state import instance
from kmel_p2p.site.state.store import STORE_NAME, Store

FULL = "the disk is full"
CUTS = ("begin", "written", "committed")
"""Where a power cut may hit a write."""


class PowerCut(BaseException):
    """The power is gone while a write is under way."""


@dataclass(slots=True)
class Write:
    """What is to be stored, and whom to tell."""

    work: Callable[[Store], object]
    done: Callable[[], None]


class VirtualDisk:
    """See the module docstring.

    Args:
        folder: the state directory; made here.
        later: runs something after a virtual time.
    """

    def __init__(self, folder: Path, later: Callable[[Micros, Callable[[], None]], None]) -> None:
        self.folder = folder
        self.store: Store | None = None
        self.latency_us: Micros = 2 * MILLISECOND
        self.full = False
        self.is_new = True
        """Whether no store was ever opened here."""
        self.writes = 0
        self.torn = 0
        self._later = later
        self._waiting: deque[Write] = deque()
        self._busy = False
        self._life = 0
        self._cut_at = ""
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def waiting(self) -> int:
        """Writes that are not durable yet."""
        return len(self._waiting)

    # ---- in service ---------------------------------------------------------------------------------------------

    def open(self) -> Store:
        """Open the store for a new life of the peer."""
        self._life += 1
        self._waiting.clear()
        self._busy, self._cut_at, self.is_new = False, "", False
        self.store = Store(self.folder / STORE_NAME, fault=self._fault)
        return self.store

    def write(self, work: Callable[[Store], object], done: Callable[[], None] = lambda: None) -> None:
        """Store something; `done` is called once it is durable."""
        self._waiting.append(Write(work, done))
        self._begin()

    def room(self) -> None:
        """The disk is full no longer."""
        self.full = False
        self._begin()

    def close(self) -> None:
        """The peer stops in order: what waits is stored first."""
        while self._waiting and self.store is not None:
            self._waiting.popleft().work(self.store)
        self._end()

    def lose_power(self, rng: random.Random) -> None:
        """The peer is gone at once. A write that is under way is stored or not, by chance."""
        if self._busy and self._waiting and self.store is not None:
            self._cut_at = rng.choice(CUTS)
            with suppress(PowerCut):
                self._execute(self.store, self._waiting[0])
            self.torn += 1
        self._end()

    # ---- while the peer is off ----------------------------------------------------------------------------------

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def copy_to(self, backup: Path) -> None:
        """Make a copy, as a backup of a machine that may be running does."""
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(self.folder, backup)

    def put_back(self, backup: Path, as_image: bool) -> None:
        """Replace everything by a copy. As an image of the whole disk it looks as if it had never been away."""
        shutil.rmtree(self.folder)
        shutil.copytree(backup, self.folder)
        if as_image:
            store = Store(self.folder / STORE_NAME)
            store.put_blob(instance.INSTANCE_BLOB, instance.mark_of(store.path, self.folder / instance.INSTANCE_NAME))
            store.close()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._busy and self._waiting and not self.full:
            self._busy = True
            life = self._life
            self._later(self.latency_us, lambda: self._finish(life))

    def _finish(self, life: int) -> None:
        if life != self._life or self.store is None or not self._busy:
            return
        self._busy = False
        if self.full:
            return
        write = self._waiting.popleft()
        self._execute(self.store, write)
        write.done()
        self._begin()

    def _execute(self, store: Store, write: Write) -> None:
        self.writes += 1
        with store.transaction("group"):
            write.work(store)

    def _fault(self, point: str) -> None:
        if self._cut_at and point == f"group:{self._cut_at}":
            raise PowerCut(point)

    def _end(self) -> None:
        self._life += 1
        self._waiting.clear()
        self._busy = False
        if self.store is not None:
            self.store.close()
            self.store = None
