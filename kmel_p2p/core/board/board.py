"""Spreads notices among the sites: pushed to a few when they are new, and compared with one site now and then.

    BoardDigest -> BoardIndex, where the digests differ -> Notices of the authors that differ, both ways

What is taken in is bounded by the roster and the slots of each author, how fast one author's notices are taken and how
much one site is sent by budgets. Nothing here depends on rounds: a board works where nobody trains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import content_in, kind_of
from kmel_p2p.core.board.book import NoticeBook
from kmel_p2p.core.board.messages import (
    MAX_NOTICES,
    MAX_NOTICES_BYTES,
    BoardDigest,
    BoardIndex,
    NoticePosted,
    NoticeRecord,
    NoticeRefused,
    Notices,
    NoticeUnread,
)
from kmel_p2p.core.board.notice import CLOCKS_APART, MAX_DAYS, MAX_SLOTS, Notice, decode
from kmel_p2p.core.effects import Effect, Emit, Message, Persist, Send
from kmel_p2p.core.types import SECOND, Micros, Randomness

INTERVAL: Micros = 10 * SECOND
"""Between two digests sent."""

GATHERED: Micros = SECOND // 2
"""News are passed on together after so long."""

FANOUT = 2
"""Sites that news are passed on to."""

REFUSED_AT_ONCE = 4
"""After so many notices that are none the rest of a message is not looked at."""

AUTHOR_BURST, AUTHOR_EVERY = 2 * MAX_SLOTS, 5 * SECOND
"""Notices of one author taken at once, and the time after which it may have one more."""

ANSWER_BURST, ANSWER_RATE = 256 * 1024, 16 * 1024
"""Bytes of notices that one site is sent at once for its questions, and per second after that."""

ASKED_EVERY: Micros = SECOND
"""A site's digest or index is answered no more often."""


@dataclass(frozen=True, slots=True)
class Today:
    """A command of the driver: which day it is, in days since 1970-01-01."""

    day: int


@dataclass(frozen=True, slots=True)
class Post:
    """A command of the driver: put up an own notice, whose version is above that in its slot."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A command of the driver: who is on the roster now."""

    sites: frozenset[SiteKey]


COMMANDS = (Today, Post, RosterChanged)


class SiteBudget:
    """Tokens that refill over time, of each site."""

    def __init__(self, burst: int, per_token: float) -> None:
        """`per_token`: microseconds until one more."""
        self._burst, self._per_token = burst, per_token
        self._left: dict[SiteKey, tuple[float, Micros]] = {}

    def take(self, site: SiteKey, tokens: int, now: Micros) -> bool:
        """Whether a site may have so many more; then they are taken."""
        left, since = self._left.get(site, (float(self._burst), now))
        left = min(self._burst, left + (now - since) / self._per_token)
        enough = left >= tokens
        self._left[site] = (left - tokens if enough else left, now)
        return enough


class Board:
    """See the module docstring. Implements `effects.Machine`.

    Args:
        alive: the other sites that are reachable now.
        roster: the current sites; nobody else's notices are taken.
        notices: what the store kept, checked when it was taken in.
        today: in days since 1970-01-01.
    """

    messages: tuple[type[Message], ...] = (BoardDigest, BoardIndex, Notices)

    def __init__(
        self,
        own: SiteKey,
        charter_id: bytes,
        alive: Callable[[], Iterable[SiteKey]],
        roster: frozenset[SiteKey],
        rng: Randomness,
        notices: Iterable[Notice],
        today: int,
        now: Micros,
    ) -> None:
        self.book = NoticeBook()
        self.today = today
        self._own = own
        self._charter_id = charter_id
        self._alive = alive
        self._roster = roster
        self._rng = rng
        self._outbox: deque[Effect] = deque()
        self._news: dict[tuple[SiteKey, int], tuple[Notice, SiteKey]] = {}
        """What is to be passed on, and whom it came from."""
        self._flush_us: Micros | None = None
        self._authors = SiteBudget(AUTHOR_BURST, AUTHOR_EVERY)
        self._answers = SiteBudget(ANSWER_BURST, SECOND / ANSWER_RATE)
        self._asked_us: dict[tuple[SiteKey, type[Message]], Micros] = {}
        self._next_us = now + self._jittered()
        for notice in notices:
            self.book.add(notice)
        self._forget()

    def standing(self) -> Iterator[Notice]:
        """What people see today, in the order of authors and slots: neither withdrawn nor ended."""
        return (notice for notice in self.book if notice.stands(self.today))

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed one of `messages`."""
        match message:
            case BoardDigest(digest):
                if digest != self.book.digest and self._may_ask(sender, message, now):
                    self._outbox.append(Send(sender, BoardIndex(dict(self.book.by_author()), reply=True)))
            case BoardIndex():
                if self._may_ask(sender, message, now):
                    self._answer(sender, message, now)
            case Notices(notices):
                self._take(sender, notices, now)

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed one of `COMMANDS`."""
        match cmd:
            case Today(day):
                self.today = day
                self._forget()
            case RosterChanged(sites):
                self._roster = sites
                self._forget()
            case Post(notice):
                if self.book.add(notice):
                    self._added(notice, self._own, now)

    def advance(self, now: Micros) -> None:
        """Pass news on, and tell one site which notices are here, where that is due."""
        if self._flush_us is not None and now >= self._flush_us:
            self._flush()
        if now >= self._next_us:
            self._next_us = now + self._jittered()
            alive = sorted(self._alive())
            if alive and len(self.book):
                self._outbox.append(Send(self._rng.choice(alive), BoardDigest(self.book.digest)))

    def deadline(self) -> Micros | None:
        """When `advance` has something to do; None while the board is empty."""
        if not len(self.book):
            return None
        return self._next_us if self._flush_us is None else min(self._next_us, self._flush_us)

    def poll(self) -> Effect | None:
        """The next effect, or None."""
        return self._outbox.popleft() if self._outbox else None

    def greet(self, site: SiteKey) -> None:
        """A site came up: tell it which notices are here, if there are any."""
        if len(self.book):
            self._outbox.append(Send(site, BoardDigest(self.book.digest)))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        return INTERVAL // 2 + self._rng.randrange(INTERVAL)

    def _may_ask(self, sender: SiteKey, message: Message, now: Micros) -> bool:
        place = (sender, type(message))
        if now < self._asked_us.get(place, now - ASKED_EVERY) + ASKED_EVERY:
            return False
        self._asked_us[place] = now
        return True

    def _answer(self, sender: SiteKey, index: BoardIndex, now: Micros) -> None:
        """Send what the sender lacks, as far as its budget goes, and have it send what is lacking here."""
        mine = self.book.by_author()
        differing = [author for author, part in mine.items() if index.authors.get(author) != part]
        # In another order each time: where not all fits, all get there all the same.
        self._rng.shuffle(differing)
        for batch in _batches(notice.encode() for author in differing for notice in self.book.of(author)):
            if not self._answers.take(sender, sum(map(len, batch)), now):
                break
            self._outbox.append(Send(sender, Notices(batch)))
        theirs = index.authors.items()
        lacking = any(mine.get(author) != part for author, part in theirs if author in self._roster)
        if index.reply and lacking:
            self._outbox.append(Send(sender, BoardIndex(dict(mine), reply=False)))

    def _take(self, sender: SiteKey, notices: Sequence[bytes], now: Micros) -> None:
        refused = 0
        for encoded in notices:
            try:
                notice = decode(encoded)
                if notice.until > self.today + MAX_DAYS + CLOCKS_APART:
                    raise WireError(f"it would stand for more than {MAX_DAYS} days")
                # Of a site that an amendment added which is not here yet; over, where clocks differ; known.
                if notice.author not in self._roster or notice.kept_until < self.today or not self.book.is_news(notice):
                    continue
                if not self._authors.take(notice.author, 1, now):
                    raise WireError("its author posts too often; it is taken later")
                if not notice.is_signed(self._charter_id):
                    raise WireError("its author did not sign it under this charter")
            except WireError as error:
                self._outbox.append(Emit(NoticeRefused(sender, str(error))))
                refused += 1
                if refused == REFUSED_AT_ONCE:
                    return
                continue
            self.book.add(notice)
            self._added(notice, sender, now)

    def _added(self, notice: Notice, sender: SiteKey, now: Micros) -> None:
        self._outbox.append(Persist(NoticeRecord(notice.author, notice.slot, notice.encode())))
        self._outbox.append(Emit(NoticePosted(notice.author, notice.slot, notice.version, notice.withdrawn)))
        if not notice.withdrawn and content_in(notice.body) is None:
            self._outbox.append(Emit(NoticeUnread(notice.author, notice.slot, kind_of(notice.body))))
        self._news[notice.place] = (notice, sender)
        if self._flush_us is None:
            self._flush_us = now + GATHERED

    def _flush(self) -> None:
        alive = sorted(self._alive())
        for site in self._rng.sample(alive, min(FANOUT, len(alive))):
            news = [notice.encode() for notice, sender in self._news.values() if site not in (sender, notice.author)]
            self._outbox.extend(Send(site, Notices(batch)) for batch in _batches(news))
        self._news, self._flush_us = {}, None

    def _forget(self) -> None:
        """Drop what is over, and notices of sites that are no longer on the roster."""
        for notice in self.book.drop(lambda each: each.kept_until < self.today or each.author not in self._roster):
            self._news.pop(notice.place, None)
            self._outbox.append(Persist(NoticeRecord(notice.author, notice.slot, b"")))


def _batches(notices: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    """As many to a message as fit."""
    batch: list[bytes] = []
    size = 0
    for encoded in notices:
        if batch and (len(batch) == MAX_NOTICES or size + len(encoded) + 8 > MAX_NOTICES_BYTES - 64):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(encoded)
        size += len(encoded) + 8
    if batch:
        yield tuple(batch)
