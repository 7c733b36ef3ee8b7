"""A site's append-only, hash-chained list of entries, and the headers of those that are folded away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Entry, SignedHeader

KEPT_HEADERS = 1024
"""Headers kept below the entries of one author: what later entries may still be judged by."""


class Log:
    """Entries `first..head` of one author, contiguous and chained; what lies below `first` is in the snapshot."""

    __slots__ = ("_entries", "_headers", "first")

    def __init__(self, headers: Iterable[SignedHeader] = ()) -> None:
        """Begin after `headers`, which are contiguous and chained (none: at the first entry)."""
        self._headers: deque[SignedHeader] = deque(headers, maxlen=KEPT_HEADERS)
        self._entries: list[Entry] = []
        self.first = self._headers[-1].number + 1 if self._headers else 1

    @property
    def head(self) -> int:
        """Sequence number of the newest entry; 0 when there never was one."""
        return self.first + len(self._entries) - 1

    @property
    def newest(self) -> SignedHeader | None:
        """The header of the newest entry, held or folded away."""
        if self._entries:
            return self._entries[-1]
        return self._headers[-1] if self._headers else None

    @property
    def head_hash(self) -> bytes:
        """What the next entry's `previous` must be."""
        newest = self.newest
        return newest.hash if newest else NO_PREVIOUS

    def get(self, number: int) -> Entry | None:
        """The entry at `number`, or None where it is folded away or not here yet."""
        index = number - self.first
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def header(self, number: int) -> SignedHeader | None:
        """The header at `number`, or None where it is too old or not here yet."""
        held = self.get(number)
        if held is not None:
            return held
        index = number - self.first + len(self._headers)
        return self._headers[index] if 0 <= index < len(self._headers) else None

    def headers(self) -> Iterator[SignedHeader]:
        """Every header that is held, oldest first."""
        yield from self._headers
        yield from self._entries

    def append(self, entry: Entry) -> None:
        """Add the next entry.

        Raises:
            Bug: not the next one; callers check before.
        """
        if entry.number != self.head + 1 or entry.previous != self.head_hash:
            raise Bug(f"{entry} does not follow {self.head}")
        self._entries.append(entry)

    def after(self, number: int) -> Iterator[Entry]:
        """Held entries with a sequence number above `number`, oldest first."""
        yield from self._entries[max(0, number - self.first + 1) :]

    def truncate(self, number: int) -> list[Entry]:
        """Take back every held entry from `number` on; returns them, newest first."""
        index = max(0, number - self.first)
        taken = self._entries[index:]
        del self._entries[index:]
        return taken[::-1]

    def fold(self, until: int) -> list[Entry]:
        """Let go of the payloads up to and including `until`; returns the entries, oldest first."""
        count = min(max(0, until - self.first + 1), len(self._entries))
        folded = self._entries[:count]
        del self._entries[:count]
        self._headers.extend(entry.without_payload() for entry in folded)
        self.first += count
        return folded
