"""Whether the store is the one that this state directory was last run with, or was put back from a copy.

A store put back from a backup cannot tell that it is old. But a copied file does not have the change time of the
original, and seldom its place on the disk: so each start writes a small file beside the store, and its change time and
the store's inode into the store. Whatever does not fit at the next start was copied: put back from a backup, or moved
to another disk. A whole disk put back as an image fits; only other sites can tell that.
"""

from __future__ import annotations

from pathlib import Path

from kmel_p2p.files import write_whole
from kmel_p2p.site.state.store import Store

INSTANCE_NAME = "instance"
INSTANCE_BLOB = "instance"
TEXT = b"Written at every start: its change time tells a state directory that was put back from a copy. Keep it.\n"


def was_put_back(store: Store) -> bool:
    """Whether the store was copied here since it was last run; notes this start."""
    path = store.path.parent / INSTANCE_NAME
    kept = store.get_blob(INSTANCE_BLOB)
    put_back = kept is not None and kept != mark_of(store.path, path)
    write_whole(path, TEXT)
    store.put_blob(INSTANCE_BLOB, mark_of(store.path, path))
    return put_back


def mark_of(store: Path, instance: Path) -> bytes:
    """What tells the store at its place from a copy, with the change time of the file beside it."""
    try:
        return f"{store.stat().st_ino} {instance.stat().st_ctime_ns}".encode()
    except FileNotFoundError:
        return b""
