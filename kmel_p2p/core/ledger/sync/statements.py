"""What other peers say about logs, and what of it is proved: no site's word alone makes this one wait for long.

A vector in a `Have` or a `Compacted` says how far logs go without showing it. It counts at once, because nearly
always the entries follow. Where they do not, the sayer is asked for the signed header at the number that it named
(`Heads` with `ANY_HASH`). A site that cannot show it within `TRUSTED_FOR` is named to the operator, and its word about
that log counts for nothing until a header or the entries come.

An author can sign a header of its own log that no entries lead to: so even a proved number counts only while that log
moves here. The exception is this site's own log: only this site can have signed such a header, before it lost its
store.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.ledger.events import HeadShown, HeadUnproved
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.validity import check_origin
from kmel_p2p.core.ledger.sync.messages import ANY_HASH, Heads, LogHead
from kmel_p2p.core.types import SECOND, Micros, Vector

TRUSTED_FOR: Micros = 20 * SECOND
"""How long a number counts that nobody has proved. Many round trips; one liar costs a federation this much, once."""

ASK_AFTER: Micros = 4 * SECOND
"""Entries mostly arrive sooner than that; only then is a header asked for, and again after as long."""

ASK_AT_ONCE = 64
"""Where so many entries are said to be missing, the header is asked for at once: a snapshot may be the faster way."""

MOVES_WITHIN: Micros = 300 * SECOND
"""A proved number counts until its log has not moved here for so long: a slow link delivers an entry in that time."""

MAX_HEADS_ASKED = 64
"""Headers asked of one site at a time."""

UNKNOWN_AUTHORS = 64
"""Authors outside the roster (an amendment may be on its way) whose logs one site's word is kept about."""


@dataclass(slots=True)
class _Said:
    """A number that one site named of one log, and that nobody has proved."""

    number: int
    since_us: Micros
    lapsed: bool = False
    """It had its time: it counts for nothing."""


@dataclass(slots=True)
class _Shown:
    """The highest number of one log of which a signed header was seen."""

    number: int
    head: int
    moved_us: Micros
    """When the log last moved here, or the header was first seen."""
    stands_still: bool = False


class LogStatements:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(self, own: SiteKey, ledger: Ledger, outbox: deque[Effect]) -> None:
        self._own = own
        self._ledger = ledger
        self._outbox = outbox
        self._said: dict[SiteKey, dict[SiteKey, _Said]] = {}
        self._shown: dict[SiteKey, _Shown] = {}
        self._asked_us: dict[SiteKey, Micros] = {}
        """Author -> when a header of it was last asked for, of whomever."""
        self._turn = 0
        """Counts who was asked: the next is asked first the next time."""

    def said(self, sayer: SiteKey, vector: Vector, now: Micros) -> None:
        """`sayer` says that logs go this far."""
        said = self._said.setdefault(sayer, {})
        room = len(self._ledger.rules.roster) + UNKNOWN_AUTHORS
        for author, number in vector.items():
            # Kept when the sayer takes a number back: who alternates gets no new time.
            if author not in said and number > self._known(author) and len(said) < room:
                said[author] = _Said(number, now)

    def shown(self, header: SignedHeader, now: Micros) -> None:
        """A header came. It proves how far its author's log goes if the signature is good."""
        author, number = header.author, header.number
        if number <= self._known(author) or author not in self._asked_us:
            return
        if check_origin(header, self._ledger.rules) is not None:
            return
        shown = self._shown.get(author)
        if shown is None:
            self._shown[author] = _Shown(number, self._ledger.head(author), now)
        else:
            # The time runs on: only entries buy more.
            shown.number = number

    def proved(self, author: SiteKey) -> int:
        """How far the log of `author` goes for certain: entries here, or a signed header that still counts."""
        shown = self._shown.get(author)
        head = self._ledger.head(author)
        counts = shown is not None and (author == self._own or not shown.stands_still)
        return max(head, shown.number) if shown is not None and counts else head

    def proved_behind(self) -> int:
        """Entries that certainly exist and are missing here."""
        return sum(self.proved(author) - self._ledger.head(author) for author in self._shown)

    def credible(self, sayer: SiteKey, vector: Vector) -> dict[SiteKey, int]:
        """`vector` as far as `sayer` is to be believed: what it could not prove is cut to what is known."""
        said = self._said.get(sayer, {})
        numbers = {author: self._cut(said.get(author), author, number) for author, number in vector.items()}
        return {author: number for author, number in numbers.items() if number}

    def ask(self, sayer: SiteKey, now: Micros) -> bool:
        """Ask `sayer` for the headers that would prove what it said, where nobody was asked lately; whether it did."""
        asked: list[LogHead] = []
        for author, said in self._said.get(sayer, {}).items():
            if now >= self._asked_us.get(author, -ASK_AFTER) + ASK_AFTER and len(asked) < MAX_HEADS_ASKED:
                self._asked_us[author] = now
                asked.append(LogHead(author, said.number, ANY_HASH))
        if asked:
            self._outbox.append(Send(sayer, Heads(tuple(sorted(asked, key=lambda head: head.author)))))
        return bool(asked)

    def advance(self, alive: list[SiteKey], now: Micros) -> None:
        """Drop what is proved by now, ask for what is not, and stop believing what had its time."""
        for author, shown in self._shown.items():
            head = self._ledger.head(author)
            if head != shown.head:
                shown.head, shown.moved_us = head, now
            shown.stands_still = now >= shown.moved_us + MOVES_WITHIN
        self._shown = {author: shown for author, shown in self._shown.items() if shown.number > shown.head}
        for sayer, said in self._said.items():
            self._settle(sayer, said, now)
        # Each in turn: who says much and shows nothing must not be the only one that is ever asked.
        first = self._turn % len(alive) if alive else 0
        for sayer in (*alive[first:], *alive[:first]):
            if any(self._is_due(author, said, now) for author, said in self._said.get(sayer, {}).items()):
                self._turn += self.ask(sayer, now)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _is_due(self, author: SiteKey, said: _Said, now: Micros) -> bool:
        return now >= said.since_us + ASK_AFTER or said.number > self._ledger.head(author) + ASK_AT_ONCE

    def _known(self, author: SiteKey) -> int:
        shown = self._shown.get(author)
        return max(self._ledger.head(author), shown.number if shown is not None else 0)

    def _cut(self, said: _Said | None, author: SiteKey, number: int) -> int:
        known, proved = self._known(author), self.proved(author)
        if number <= known:
            return min(number, proved)
        if said is None:
            # There was no room for a stranger's log, or the log was cut here since.
            return number if author in self._ledger.rules.roster else proved
        return proved if said.lapsed else number

    def _settle(self, sayer: SiteKey, said: dict[SiteKey, _Said], now: Micros) -> None:
        known = [author for author, each in said.items() if self._known(author) >= each.number]
        lapsed_before = any(each.lapsed for each in said.values())
        for author in known:
            del said[author]
        for author, each in sorted(said.items()):
            if not each.lapsed and now >= each.since_us + TRUSTED_FOR:
                each.lapsed = True
                self._outbox.append(Emit(HeadUnproved(sayer, author, each.number)))
        if lapsed_before and not any(each.lapsed for each in said.values()):
            self._outbox.append(Emit(HeadShown(sayer)))
