"""Keeps the head of the egress log in the store, so that lines cannot be cut off the log's end unseen.

Noted at once when a line was written, whether about one large message or a sum of small ones, and at shutdown. A head
is stored only after its line is durable: the store never names a line that a power loss took.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgpack

from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_record import EgressHead
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.state.store_writer import StoreWriter

HEAD_BLOB_NAME = "egress head"


class HeadKeeper:
    """See the module docstring.

    Args:
        log: whose head is kept.
        writer: the store.
        submit: hands work to the store without waiting; what fails is its owner's to tell.
    """

    def __init__(self, log: EgressLog, writer: StoreWriter, submit: Callable[[Callable[[Store], None]], None]) -> None:
        self._log = log
        self._writer = writer
        self._submit = submit
        self._waiting = False
        self._closed = False

    def note(self) -> None:
        """Have the newest head stored. Returns at once; lines that come meanwhile share one write."""
        if self._waiting or self._closed:
            return
        self._waiting = True
        self._submit(self._keep)

    async def close(self, now: float) -> None:
        """Write what is still summed up, note the last head, and close the log. The writer must still run.

        Raises:
            ConfigError: the disk is full or failing.
        """
        self._closed = True
        try:
            self._log.write_sums(now, all_of_them=True)
            await self._writer.call(self._keep)
        finally:
            self._log.close(now)

    def _keep(self, store: Store) -> None:
        """On the writer's thread, which may wait for the disk."""
        # From here on another line needs another write.
        self._waiting = False
        head = self._log.head
        self._log.sync()
        keep_head(store, head)


def keep_head(store: Store, head: EgressHead) -> None:
    """Note in the store a head whose line is durable."""
    store.put_blob(HEAD_BLOB_NAME, msgpack.packb([head.number, head.hash]))


def kept_head(state_dir: Path) -> EgressHead | None:
    """The head noted last; None when there is no store yet."""
    path = state_dir / STORE_NAME
    if not path.exists():
        return None
    store = Store(path, read_only=True)
    try:
        value = store.get_blob(HEAD_BLOB_NAME)
    finally:
        store.close()
    return None if value is None else EgressHead(*msgpack.unpackb(value))
