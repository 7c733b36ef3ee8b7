"""Boards of several sites in virtual time, over links that lose nothing: bytes are counted as they are encoded."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterable

from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.agreement.notice import Need, encode_content
from kmel_p2p.core.board.board import Board
from kmel_p2p.core.board.messages import SCHEMAS
from kmel_p2p.core.board.notice import Notice, sign
from kmel_p2p.core.effects import Emit, Event, Message, Persist, Record, Send
from kmel_p2p.core.types import MILLISECOND, Micros
from kmel_p2p.core.wire import Wire

CHARTER_ID = b"c" * 32
TODAY = 20_000


def identities(count: int) -> list[Identity]:
    return [Identity(bytes([n // 256, n % 256]) + bytes(30)) for n in range(1, count + 1)]


def need(name: str = "logD", text: str = "") -> bytes:
    return encode_content(Need(assay_endpoint=name, unit="log", stage="discovery", size_class=9, text=text))


def posted(who: Identity, slot: int = 0, version: int = 1, body: bytes | None = None, until: int = TODAY) -> Notice:
    return sign(who, CHARTER_ID, slot, version, until, need() if body is None else body)


class BoardMesh:
    """`sites` boards; `away` sites get and send nothing."""

    def __init__(self, sites: int, seed: int = 0, latency_us: Micros = 50 * MILLISECOND) -> None:
        self.who = identities(sites)
        self.wire = Wire(CHARTER_ID, SCHEMAS)
        self.now: Micros = 0
        self.sent: Counter[SiteKey] = Counter()
        """Bytes by sender."""
        self.events: dict[SiteKey, list[Event]] = {site.key: [] for site in self.who}
        self.records: dict[SiteKey, list[Record]] = {site.key: [] for site in self.who}
        self.away: set[SiteKey] = set()
        self._latency_us = latency_us
        self._rng = random.Random(seed)
        self._count = itertools.count()
        self._due: list[tuple[Micros, int, SiteKey, SiteKey, Message]] = []
        self.boards = {site.key: self.board(site) for site in self.who}

    def board(self, site: Identity, notices: Iterable[Notice] = ()) -> Board:
        """A fresh board of a site."""
        keys = frozenset(each.key for each in self.who)
        return Board(
            site.key, CHARTER_ID, lambda: keys - {site.key} - self.away, keys, random.Random(self._rng.random()),
            notices, TODAY, self.now,
        )  # fmt: skip

    def deliver(self, to: SiteKey, sender: SiteKey, message: Message) -> None:
        self.boards[to].receive(sender, message, self.now)
        self.drain(to)

    def drain(self, site: SiteKey) -> None:
        while (effect := self.boards[site].poll()) is not None:
            match effect:
                case Send(to, message):
                    data = self.wire.encode(message)
                    self.sent[site] += len(data)
                    if site not in self.away and to not in self.away:
                        due = self.now + self._latency_us
                        heapq.heappush(self._due, (due, next(self._count), site, to, self.wire.decode(data)))
                case Emit(event):
                    self.events[site].append(event)
                case Persist(record):
                    self.records[site].append(record)

    def run(self, for_us: Micros) -> None:
        """Let so much time pass."""
        end = self.now + for_us
        while True:
            timers = [(due, key) for key, board in self.boards.items() if (due := board.deadline()) is not None]
            timer = min(timers, default=(end + 1, self.who[0].key))
            message = self._due[0][0] if self._due else end + 1
            if min(timer[0], message) > end:
                break
            if message <= timer[0]:
                self.now = max(self.now, message)
                _, _, sender, to, body = heapq.heappop(self._due)
                self.deliver(to, sender, body)
            else:
                self.now = max(self.now, timer[0])
                self.boards[timer[1]].advance(self.now)
                self.drain(timer[1])
        self.now = end

    def agreed(self) -> bool:
        """Whether all boards are equal."""
        return len({board.book.digest for key, board in self.boards.items() if key not in self.away}) == 1
