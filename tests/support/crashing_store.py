"""A virtual site on the real store: a SQLite file and snapshot files that fail at a chosen point of a chosen write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Record, Send
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.core.types import Micros
from kmel_p2p.delta import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.site.modes.stored_ledger import open_ledger
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.learning import LAYOUT, LearningTrainer, State
from tests.testbed.ledger.site import Disk
from tests.testbed.network.host import Host


class PowerCut(Exception):
    """The process is gone in the middle of a write."""


class StoreDisk(Disk):
    """The daemon's store in place of the simulator's disk; only committed transactions survive.

    Attributes:
        points: kinds of records whose fault points were passed so far, over all lives ("" while opening).
        cuts: indices of the fault points to fail at.
        dead: whether the present life ended in a write.
    """

    def __init__(self, folder: Path, charter: Charter, key: SiteKey) -> None:
        self.points: list[str] = []
        self.cuts: frozenset[int] = frozenset()
        self.dead = False
        self._writing = ""
        self.writes = 0
        self._path = folder / STORE_NAME
        self._key = key
        parts = SimpleNamespace(
            charter=charter,
            layout=LAYOUT,
            constitution=Constitution(charter),
            identity=SimpleNamespace(key=key),
            initial_trunk=lambda: initial_trunk(LAYOUT, charter.model.seed),
        )
        self._site = cast(Site, parts)
        self._store = self._opened()

    @property
    def own_state(self) -> str | None:  # type: ignore[override]
        return self._store.own_state_file(self._key)

    @property
    def store(self) -> Store:
        return self._store

    def write(self, record: Record, durable_at: Micros) -> None:
        self.writes += 1
        if self.dead:
            return
        self._writing = type(record).__name__
        try:
            # As the store's own thread does it.
            with self._store.transaction("group"):
                work_of(record, self._site)(self._store)
        except PowerCut:
            self.dead = True
        self._writing = ""

    def settle(self, now: Micros) -> None:
        """A write is durable when it returns."""

    def crashed(self, now: Micros) -> None:
        self._store.close()
        self.dead = False
        self._store = self._opened()

    def restored(self, ledger: Ledger, charter: Charter) -> Ledger:
        return open_ledger(self._site, self._store)

    def reopened(self) -> Ledger:
        """What a further start would find."""
        return open_ledger(self._site, self._store)

    def _opened(self) -> Store:
        while True:
            try:
                return Store(self._path, fault=self._point)
            except PowerCut:
                continue

    def _point(self, name: str) -> None:
        self.points.append(self._writing)
        if len(self.points) - 1 in self.cuts:
            raise PowerCut(name)


class TidyTrainer(LearningTrainer):
    """Removes state files as the real one does, so that none is there by luck."""

    def resume(self, state_file: str | None) -> None:
        super().resume(state_file)
        self._keep(state_file)

    def commit(self, number: int) -> None:
        super().commit(number)
        self._keep(f"round-{number}")

    def abandon(self, number: int) -> None:
        super().abandon(number)
        self._files.pop(f"round-{number}", None)

    def _keep(self, state_file: str | None) -> None:
        kept: dict[str, State] = {name: state for name, state in self._files.items() if name == state_file}
        self._files.clear()
        self._files.update(kept)


class Overheard:
    """A watcher: every entry that ever left any site, by author and number."""

    def __init__(self) -> None:
        self.entries: dict[tuple[SiteKey, int], set[bytes]] = {}

    def stepped(self, host: Host, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        if isinstance(effect, Send) and isinstance(effect.message, Bodies):
            for encoded in effect.message.entries:
                entry = decode(encoded)
                self.entries.setdefault((entry.author, entry.number), set()).add(encoded)


def published_sum(codec: DeltaCodec, overheard: Overheard, author: SiteKey, head: int) -> np.ndarray:
    """Sum of everything an author sent, float64[d]; each number was sent once, in one form."""
    total = np.zeros(LAYOUT.size)
    for number in range(1, head + 1):
        (encoded,) = overheard.entries[author, number]
        total += codec.decode(decode(encoded).payload).dense(LAYOUT.size)
    return total


def crash_when_cut(federation: LedgerFederation, disk: StoreDisk, index: int, away: Micros) -> Callable[[], int]:
    """Let the site crash when its store does, and come back; returns how often that happened."""
    happened: list[bool] = []

    def on_write(site: object, record: Record) -> None:
        if disk.dead and federation.host(index).running:
            happened.append(True)
            federation.crash(index)
            federation.network.call_at(federation.network.now + away, lambda: federation.start(index))

    federation.on_write = on_write
    return lambda: len(happened)
