"""One author's log as this site holds it: entries that follow each other, and headers of those that were compacted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Entry, SignedHeader
from kmel_p2p.core.ledger.log.kept_headers import KEPT_HEADERS


class Log:
    """One author's entries `first..head`, contiguous and chained; those below are in the snapshot."""

    __slots__ = ("_entries", "_headers", "first")

    def __init__(self, headers: Iterable[SignedHeader] = (), kept: int = KEPT_HEADERS) -> None:
        """Start after `headers`, which are contiguous and chained (none: at the first entry); keep so many of them."""
        self._headers: deque[SignedHeader] = deque(headers, maxlen=kept)
        self._entries: list[Entry] = []
        self.first = self._headers[-1].number + 1 if self._headers else 1

    @property
    def head(self) -> int:
        """Number of the newest entry; 0 before the first."""
        return self.first + len(self._entries) - 1

    @property
    def oldest(self) -> int:
        """Number of the oldest entry whose header is held; that of the next entry when there is none."""
        return self.first - len(self._headers)

    @property
    def newest(self) -> SignedHeader | None:
        """The header of the newest entry, held or compacted."""
        if self._entries:
            return self._entries[-1]
        return self._headers[-1] if self._headers else None

    @property
    def head_hash(self) -> bytes:
        """The `previous` that the next entry must have."""
        newest = self.newest
        return newest.hash if newest else NO_PREVIOUS

    def get(self, number: int) -> Entry | None:
        """The entry at `number`; None where it is compacted or not here yet."""
        index = number - self.first
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def header(self, number: int) -> SignedHeader | None:
        """The header at `number`; None where it is too old or not here yet."""
        held = self.get(number)
        if held is not None:
            return held
        index = number - self.first + len(self._headers)
        return self._headers[index] if 0 <= index < len(self._headers) else None

    def headers(self) -> Iterator[SignedHeader]:
        """Every header that is held, oldest first."""
        yield from self._headers
        yield from self._entries

    def keep(self, kept: int) -> None:
        """Keep so many headers of compacted entries from now on."""
        if kept != self._headers.maxlen:
            self._headers = deque(self._headers, maxlen=kept)

    def append(self, entry: Entry) -> None:
        """Add the next entry.

        Raises:
            Bug: it does not follow the newest entry; callers check before.
        """
        if entry.number != self.head + 1 or entry.previous != self.head_hash:
            raise Bug(f"{entry} does not follow {self.head}")
        self._entries.append(entry)

    def after(self, number: int) -> Iterator[Entry]:
        """Held entries numbered above `number`, oldest first."""
        yield from self._entries[max(0, number - self.first + 1) :]

    def truncate(self, number: int) -> list[Entry]:
        """Take back every held entry from `number` on; returns them, newest first."""
        index = max(0, number - self.first)
        taken = self._entries[index:]
        del self._entries[index:]
        return taken[::-1]

    def compact(self, until: int) -> list[SignedHeader]:
        """Drop the payloads up to and including `until`; returns the headers that remain of them, oldest first."""
        count = min(max(0, until - self.first + 1), len(self._entries))
        compacted = [entry.without_payload() for entry in self._entries[:count]]
        del self._entries[:count]
        self._headers.extend(compacted)
        self.first += count
        return compacted
