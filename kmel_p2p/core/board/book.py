"""The notices that are kept: of each author and slot the one of highest rank.

Whatever order they came in, equal sets of notices give equal books.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.board.notice import Notice

DIGEST_BYTES = 16
"""Nothing rests on it but which notices are sent."""

AUTHOR_DIGEST_BYTES = 8


class NoticeBook:
    """See the module docstring. Bounded by the slots that each author has."""

    def __init__(self) -> None:
        self._kept: dict[SiteKey, dict[int, Notice]] = {}
        self._digest: bytes | None = None
        self._authors: dict[SiteKey, bytes] = {}

    def __len__(self) -> int:
        return sum(len(slots) for slots in self._kept.values())

    def __iter__(self) -> Iterator[Notice]:
        """In the order of authors and slots."""
        for author in sorted(self._kept):
            slots = self._kept[author]
            yield from (slots[slot] for slot in sorted(slots))

    def get(self, author: SiteKey, slot: int) -> Notice | None:
        """What is kept there, withdrawn and ended notices included."""
        return self._kept.get(author, {}).get(slot)

    def of(self, author: SiteKey) -> list[Notice]:
        """An author's, in the order of slots."""
        slots = self._kept.get(author, {})
        return [slots[slot] for slot in sorted(slots)]

    def is_news(self, notice: Notice) -> bool:
        """Whether `add` would change anything."""
        before = self.get(*notice.place)
        return before is None or notice.rank > before.rank

    def add(self, notice: Notice) -> bool:
        """Take a notice in whose signature was checked; whether it changed anything."""
        if not self.is_news(notice):
            return False
        self._kept.setdefault(notice.author, {})[notice.slot] = notice
        self._changed(notice.author)
        return True

    def drop(self, over: Callable[[Notice], bool]) -> list[Notice]:
        """Forget those that are over; returns them."""
        gone = [notice for notice in self if over(notice)]
        for notice in gone:
            slots = self._kept[notice.author]
            del slots[notice.slot]
            if not slots:
                del self._kept[notice.author]
            self._changed(notice.author)
        return gone

    @property
    def digest(self) -> bytes:
        """Of all that are kept, 16 bytes: equal books have equal ones."""
        if self._digest is None:
            h = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for author, part in self.by_author().items():
                h.update(author + part)
            self._digest = h.digest()
        return self._digest

    def by_author(self) -> Mapping[SiteKey, bytes]:
        """Author -> digest of its notices, 8 bytes, in the order of authors."""
        for author in self._kept:
            if author not in self._authors:
                h = hashlib.blake2b(digest_size=AUTHOR_DIGEST_BYTES)
                for notice in self.of(author):
                    h.update(notice.hash)
                self._authors[author] = h.digest()
        return {author: self._authors[author] for author in sorted(self._kept)}

    def _changed(self, author: SiteKey) -> None:
        self._digest = None
        self._authors.pop(author, None)
