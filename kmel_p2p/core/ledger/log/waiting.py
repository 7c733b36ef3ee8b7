"""Entries that cannot be judged yet: their base, or a proof or amendment that they name, is not here. Bounded."""

from __future__ import annotations

from collections.abc import Iterator

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.rules import Rules

MAX_WAITING = 1024
"""Entries held back in all. A pull asks for at most `MAX_BODIES` at a time, so this is room for the answers of several
peers; an entry beyond it is dropped and asked for again later."""

MAX_WAITING_OF_AUTHOR = 128
"""Entries held back of one author, so that no author crowds out the others."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Payload bytes held back in all."""


class WaitingRoom:
    """Held entries by author and number."""

    def __init__(self) -> None:
        self._held: dict[SiteKey, dict[int, Entry]] = {}
        self._alone: dict[bytes, Rules] = {}
        """Hash of a held entry -> the rules under which it was checked alone."""
        self._bytes = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for author in self.authors():
            yield from self.of(author)

    def get(self, author: SiteKey, number: int) -> Entry | None:
        """The held entry, if any."""
        return self._held.get(author, {}).get(number)

    def authors(self) -> list[SiteKey]:
        """Authors of held entries, in key order."""
        return sorted(self._held)

    def of(self, author: SiteKey) -> Iterator[Entry]:
        """Held entries of one author, by number."""
        held = self._held.get(author, {})
        yield from (held[number] for number in sorted(held))

    def checked_alone(self, entry: Entry) -> Rules | None:
        """The rules under which a held entry was checked alone when it came, if it was."""
        return self._alone.get(entry.hash)

    def hold(self, entry: Entry, always: bool = False, alone: Rules | None = None) -> bool:
        """Hold an entry back; False when there is no room. A lower number replaces the author's highest.

        Args:
            entry: what to hold.
            always: there is room in any case. For the next entry of a log, so that a full room stops no log.
            alone: the rules under which it was checked alone.
        """
        held = self._held.get(entry.author, {})
        if len(held) >= MAX_WAITING_OF_AUTHOR:
            highest = max(held)
            if highest < entry.number:
                return False
            self.release(entry.author, highest)
        full = self._count >= MAX_WAITING or self._bytes + len(entry.payload) > MAX_WAITING_BYTES
        if full and not always:
            return False
        self._held.setdefault(entry.author, {})[entry.number] = entry
        if alone is not None:
            self._alone[entry.hash] = alone
        self._bytes += len(entry.payload)
        self._count += 1
        return True

    def release(self, author: SiteKey, number: int) -> None:
        """Drop a held entry."""
        held = self._held[author]
        entry = held.pop(number)
        self._alone.pop(entry.hash, None)
        self._bytes -= len(entry.payload)
        self._count -= 1
        if not held:
            del self._held[author]

    def release_from(self, author: SiteKey, number: int) -> None:
        """Drop the entries of an author from `number` on."""
        for number in [n for n in self._held.get(author, {}) if n >= number]:
            self.release(author, number)

    def release_until(self, author: SiteKey, number: int) -> None:
        """Drop the entries of an author up to and including `number`."""
        for number in [n for n in self._held.get(author, {}) if n <= number]:
            self.release(author, number)
