"""The sum of a site's own entries that its store no longer holds one by one, so that they can still be taken out.

    "kmos" | site key, 32 bytes | number, 8 bytes big-endian | hash of that entry, 32 bytes | BLAKE2b-256, 32 bytes
    | sum, int64 little-endian, 8 bytes per value

An own entry is counted before the store lets go of it: own sum and stored own entries together are always complete.
Number and hash say which entries are in the sum, whatever a crash leaves: nothing is counted twice, and a file of
another log is not taken for one of this. Out of reach are own entries that this store never held: then the sum is not
known, and nothing depends on it but what the site learns from the others' trunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Entry, decode
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.files import write_whole
from kmel_p2p.site.state.store import Store

log = structlog.get_logger()

FILE_NAME = "own-sum.kmls"
MAGIC = b"kmos"
_KEY_AT = len(MAGIC)
_NUMBER_AT = _KEY_AT + 32
_HASH_AT = _NUMBER_AT + 8
_DIGEST_AT = _HASH_AT + HASH_BYTES
PREFIX_BYTES = _DIGEST_AT + HASH_BYTES


class OwnSum:
    """Weighted sum of the entries 1 to `number` of one log; `hash` is that of the last (zeros before the first)."""

    def __init__(self, key: SiteKey, number: int, hash_: bytes, total: Accumulator) -> None:
        self.key, self.number, self.hash, self.total = key, number, hash_, total

    @classmethod
    def empty(cls, key: SiteKey, size: int) -> OwnSum:
        """Before the first entry; `size`: values of the trunk."""
        return cls(key, 0, NO_PREVIOUS, Accumulator(np.zeros(size, np.int64)))

    @classmethod
    def read(cls, path: Path, key: SiteKey, size: int) -> OwnSum | None:
        """The sum in a file; None where there is no file.

        Raises:
            OSError: the file cannot be read.
            WireError: it is damaged, cut off, or of another site or trunk.
        """
        try:
            with path.open("rb") as file:
                prefix = file.read(PREFIX_BYTES)
                found = os.fstat(file.fileno()).st_size - PREFIX_BYTES
                if found != 8 * size:
                    raise WireError(f"it has {found} bytes of values where {8 * size} are needed")
                values = np.fromfile(file, "<i8")
        except FileNotFoundError:
            return None
        if prefix[:_KEY_AT] != MAGIC or prefix[_KEY_AT:_NUMBER_AT] != key:
            raise WireError("it is not the sum of this site's entries")
        number, hash_ = int.from_bytes(prefix[_NUMBER_AT:_HASH_AT], "big"), prefix[_HASH_AT:_DIGEST_AT]
        own = cls(key, number, hash_, Accumulator(values.astype(np.int64, copy=False)))
        if own._digest() != prefix[_DIGEST_AT:]:
            raise WireError("it is damaged")
        return own

    def write(self, path: Path) -> None:
        """Replace the file durably.

        Raises:
            ConfigError: it cannot be written; names it and the reason.
        """
        write_whole(path, self._head(), self._digest(), self.total.raw())

    def extend(self, entries: Iterable[Entry], codec: Decoder) -> None:
        """Count the entries that follow; stops before the first that does not."""
        for entry in entries:
            if entry.number != self.number + 1 or entry.previous != self.hash:
                return
            self.total.add(codec.decode(entry.payload), entry.weight, entry.head_weights)
            self.number, self.hash = entry.number, entry.hash

    def _head(self) -> bytes:
        return MAGIC + self.key + self.number.to_bytes(8, "big") + self.hash

    def _digest(self) -> bytes:
        return self.total.digest(self._head())


def keep_own_sum(store: Store, key: SiteKey, size: int, until: int, codec: Decoder) -> None:
    """Count own entries up to `until` before the store lets go of them.

    Args:
        store: whose thread this runs in.
        key: this site's.
        size: values of the trunk.
        codec: decodes payloads.

    Raises:
        ConfigError: the file cannot be written.
    """
    going = {stored.number: stored.hash for stored in store.load_entries(of=key) if stored.number <= until}
    if not going:
        return
    last = max(going)
    path = store.path.parent / FILE_NAME
    kept = _kept(path, key, size)
    if kept is not None and kept.number >= last and _is_stored(store, kept):
        return  # counted before a crash
    own = _counted(store, kept, key, size, (last, going[last]), codec)
    if own is None:
        log.warning("own entries are not all here", until=last, lost="the others' trunk, which needs their sum")
    else:
        own.write(path)


def own_sum(path: Path, key: SiteKey, size: int, newest: tuple[int, bytes], codec: Decoder) -> OwnSum | None:
    """Sum of all own entries up to the newest; None where it cannot be known. For any thread.

    Args:
        path: of the store, which may be in use.
        newest: number and hash of that entry; (0, zeros) before the first.
    """
    store = Store(path, read_only=True)
    try:
        while True:
            file = path.parent / FILE_NAME
            before = _version(file)
            own = _counted(store, _kept(file, key, size), key, size, newest, codec)
            # Entries may have moved from the store into the sum between the two looks.
            if own is not None or _version(file) == before:
                return own
    finally:
        store.close()


def others_trunk(
    total: Accumulator, path: Path, key: SiteKey, newest: tuple[int, bytes], codec: Decoder
) -> Callable[[], NDArray[np.float32] | None]:
    """Work for another thread: the trunk without this site's own entries, float32[d], bit for bit as if they had never
    been; None where their sum cannot be known.

    Args:
        total: the ledger's sum; it is changed.
        path, newest: as in `own_sum`.
    """

    def work() -> NDArray[np.float32] | None:
        own = own_sum(path, key, len(total), newest, codec)
        if own is None:
            log.warning("the others' trunk is not known", reason="the sum of this site's own entries is not complete")
            return None
        total.remove(own.total)
        return total.trunk()

    return work


def _counted(
    store: Store, kept: OwnSum | None, key: SiteKey, size: int, newest: tuple[int, bytes], codec: Decoder
) -> OwnSum | None:
    """What was kept, or else nothing, continued by stored entries up to the newest; None where neither leads there."""
    for own in (kept, OwnSum.empty(key, size)):
        if own is None or own.number > newest[0]:
            continue
        stored = store.load_entries(of=key, above=own.number)
        own.extend((decode(entry.encoded) for entry in stored if entry.number <= newest[0]), codec)
        if (own.number, own.hash) == newest:
            return own
    return None


def _kept(path: Path, key: SiteKey, size: int) -> OwnSum | None:
    try:
        return OwnSum.read(path, key, size)
    except (OSError, WireError) as error:
        log.warning("the sum of own entries cannot be used", file=str(path), reason=str(error))
        return None


def _is_stored(store: Store, kept: OwnSum) -> bool:
    """Whether the last entry counted is still in the store, so that the sum is of the same log."""
    newest = next(iter(store.load_entries(of=kept.key, above=kept.number - 1)), None)
    return newest is not None and (newest.number, newest.hash) == (kept.number, kept.hash)


def _version(path: Path) -> tuple[int, int] | None:
    """Tells one file in this place from the next."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
