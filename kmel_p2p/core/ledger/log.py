"""A site's append-only, hash-chained list of entries."""

from __future__ import annotations

from collections.abc import Iterator

from kmel_p2p.core.errors import Bug
from kmel_p2p.core.ledger.entry import NO_PREVIOUS, Entry


class Log:
    """Entries `first..head` of one author, contiguous and chained; what lies below `first` is in the snapshot."""

    __slots__ = ("_entries", "_floor_hash", "first")

    def __init__(self, first: int = 1, floor_hash: bytes = NO_PREVIOUS) -> None:
        self.first = first
        self._floor_hash = floor_hash
        self._entries: list[Entry] = []

    @property
    def head(self) -> int:
        """Sequence number of the newest entry; 0 when there never was one."""
        return self.first + len(self._entries) - 1

    @property
    def head_hash(self) -> bytes:
        """What the next entry's `previous` must be."""
        return self._entries[-1].hash if self._entries else self._floor_hash

    @property
    def newest(self) -> Entry | None:
        """The newest entry still held."""
        return self._entries[-1] if self._entries else None

    def get(self, seq: int) -> Entry | None:
        """The entry at `seq`, or None where it is folded away or not here yet."""
        index = seq - self.first
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def append(self, entry: Entry) -> None:
        """Add the next entry.

        Raises:
            Bug: not the next one; callers check before.
        """
        if entry.seq != self.head + 1 or entry.previous != self.head_hash:
            raise Bug(f"{entry} does not follow {self.head}")
        self._entries.append(entry)

    def after(self, seq: int) -> Iterator[Entry]:
        """Entries with a sequence number above `seq`, oldest first."""
        yield from self._entries[max(0, seq - self.first + 1) :]

    def truncate(self, seq: int) -> list[Entry]:
        """Take back every entry from `seq` on; returns them, newest first."""
        index = max(0, seq - self.first)
        taken = self._entries[index:]
        del self._entries[index:]
        return taken[::-1]

    def drop_until(self, seq: int) -> list[Entry]:
        """Forget entries up to and including `seq` (they are folded into a snapshot); returns them."""
        count = min(max(0, seq - self.first + 1), len(self._entries))
        if count:
            self._floor_hash = self._entries[count - 1].hash
            self.first += count
        dropped = self._entries[:count]
        del self._entries[:count]
        return dropped
