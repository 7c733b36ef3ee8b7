"""The egress log's head, noted in the store, so that records cannot be cut off the log's end unseen."""

from __future__ import annotations

from pathlib import Path

import msgpack

from kmel_p2p.site.observe.egress import Head
from kmel_p2p.site.state.store import STORE_NAME, Store

BLOB_NAME = "egress head"


def keep_head(store: Store, head: Head) -> None:
    """Note a head that `EgressLog.flush` made durable."""
    store.put_blob(BLOB_NAME, msgpack.packb([head.number, head.hash]))


def kept_head(state_dir: Path) -> Head | None:
    """The head noted last; None when there is no store yet."""
    path = state_dir / STORE_NAME
    if not path.exists():
        return None
    store = Store(path, read_only=True)
    try:
        value = store.get_blob(BLOB_NAME)
    finally:
        store.close()
    return None if value is None else Head(*msgpack.unpackb(value))
