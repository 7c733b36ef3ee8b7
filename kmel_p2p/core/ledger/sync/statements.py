"""What other peers say about logs, and what of it is proved: no site's word alone makes this one wait for long.

A vector in a `Have` or a `Compacted` says how far logs go without showing it. It counts at once, because nearly
always the entries follow. Where they do not, the sayer is asked for the signed header at the number that it named
(`Heads` with `ANY_HASH`). A site that cannot show it within `TRUSTED_FOR`, while it is reachable, is named to the
operator, and its word about that log counts for nothing until a header or the entries come. For `DISTRUSTED_FOR` from
then on, whatever else it says needs proof before it counts: a liar that names one entry more each time its last lie has
come true would otherwise be believed anew each time.

An author can sign a header of its own log that no entries lead to: so even a proved number is waited for only while
that log moves here. It is still asked for (`offered`): after a long interruption nothing else would make it move. The
exception is this site's own log: only this site can have signed such a header, before it lost its store.
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
"""How long a number counts that nobody has proved, while its sayer can be asked. Many round trips."""

DISTRUSTED_FOR: Micros = 3600 * SECOND
"""How long a site is believed nothing without proof after a word of it lapsed."""

STEP_MOST: Micros = 4 * SECOND
"""Most that one look adds to the time that a word has counted: a loop or a machine that slept gave nobody a chance."""

WAITED_FOR: Micros = 3 * SECOND
"""How long of that an own round waits for it: a header comes in a round trip. One liar costs a federation this much,
once in `DISTRUSTED_FOR`."""

ASK_AFTER: Micros = 4 * SECOND
"""Entries mostly arrive sooner than that; only then is a header asked for, and again after as long."""

ASK_AT_ONCE = 16
"""Where so many entries are said to be missing, the header is asked for at once: this site may wait for them, or a
snapshot may be the faster way. For entries of this site itself it is asked for at once, however few they are."""

MOVES_WITHIN: Micros = 300 * SECOND
"""A proved number counts until its log has not moved here for so long: a slow link delivers an entry in that time."""

MAX_HEADS_ASKED = 64
"""Headers asked of one site at a time."""


@dataclass(slots=True)
class _Said:
    """A number that one site named of one log, and that nobody has proved."""

    number: int
    since_us: Micros
    lapsed: bool = False
    """It counts for nothing: it had its time, or its sayer is distrusted."""
    latest: int = 0
    """What it named last: said anew once `number` is proved, although nothing more may come from this site."""
    counted_us: Micros = 0
    """How long its sayer could have proved it."""
    told: bool = False
    """The operator knows that it is unproved."""


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
        self.has_published = False
        """Whether this site published since its start. Before that it may have lost its store, and takes its time."""
        self._said: dict[SiteKey, dict[SiteKey, _Said]] = {}
        self._shown: dict[SiteKey, _Shown] = {}
        self._asked_us: dict[SiteKey, Micros] = {}
        """Author -> when a header of it was last asked for, of whomever."""
        self._lapsed_us: dict[SiteKey, Micros] = {}
        """Sayer -> when a word of it last lapsed."""
        self._advanced_us: Micros | None = None
        self._turn = 0
        """Counts who was asked: the next is asked first the next time."""

    def said(self, sayer: SiteKey, vector: Vector, now: Micros) -> None:
        """`sayer` says that logs go this far."""
        said = self._said.setdefault(sayer, {})
        for author, number in vector.items():
            if author in said:
                # Kept when the sayer takes a number back: who alternates gets no new time.
                said[author].latest = number
            elif number > self.known(author):
                said[author] = self._word(sayer, number, now)

    def shown(self, header: SignedHeader, now: Micros) -> None:
        """A header came. It proves how far its author's log goes if the signature is good."""
        author, number = header.author, header.number
        if number <= self.known(author) or author not in self._asked_us:
            return
        if check_origin(header, self._ledger.rules) is not None:
            return
        shown = self._shown.get(author)
        if shown is None:
            self._shown[author] = _Shown(number, self._ledger.head(author), now)
        else:
            # The time runs on: only entries buy more.
            shown.number = number

    def known(self, author: SiteKey) -> int:
        """How far the log of `author` goes by the entries here, or by any signed header that was seen."""
        shown = self._shown.get(author)
        return max(self._ledger.head(author), shown.number if shown is not None else 0)

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

    def awaited(self, sayer: SiteKey, author: SiteKey, number: int) -> int:
        """The same of one log, as far as an own round waits for it."""
        said = self._said.get(sayer, {}).get(author)
        sure = author != self._own or self.has_published
        if said is not None and sure and said.counted_us >= WAITED_FOR:
            number = min(number, self.known(author))
        return self._cut(said, author, number)

    def offered(self, sayer: SiteKey, vector: Vector) -> dict[SiteKey, int]:
        """What `sayer` may be asked for: what is credible, and what is proved though its log stands still here."""
        credible = self.credible(sayer, vector)
        numbers = {a: max(credible.get(a, 0), min(number, self.known(a))) for a, number in vector.items()}
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

    def advance(self, alive: list[SiteKey], now: Micros, *, comes: bool = True) -> None:
        """Drop what is proved by now, ask for what is not, and stop believing what had its time.

        Args:
            alive: sites that can be asked.
            now: monotonic time.
            comes: entries are asked for; not while a snapshot is fetched, when no log can move here.
        """
        step_us = min(now - self._advanced_us, STEP_MOST) if self._advanced_us is not None else 0
        self._advanced_us = now
        for author, shown in self._shown.items():
            head = self._ledger.head(author)
            if head != shown.head:
                shown.head, shown.moved_us = head, now
            elif not comes:
                shown.moved_us += step_us
            shown.stands_still = now >= shown.moved_us + MOVES_WITHIN
        self._shown = {author: shown for author, shown in self._shown.items() if shown.number > shown.head}
        reachable = set(alive)
        for sayer, said in self._said.items():
            self._settle(sayer, said, step_us if sayer in reachable else 0, now)
        # Each in turn: who says much and shows nothing must not be the only one that is ever asked.
        first = self._turn % len(alive) if alive else 0
        for sayer in (*alive[first:], *alive[:first]):
            if any(self._is_due(author, said, now) for author, said in self._said.get(sayer, {}).items()):
                self._turn += self.ask(sayer, now)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _is_due(self, author: SiteKey, said: _Said, now: Micros) -> bool:
        at_once = author == self._own or said.number > self._ledger.head(author) + ASK_AT_ONCE
        return at_once or now >= said.since_us + ASK_AFTER

    def _word(self, sayer: SiteKey, number: int, now: Micros) -> _Said:
        """A number that nobody has proved; of a sayer that is distrusted it counts for nothing from the start."""
        lapsed_us = self._lapsed_us.get(sayer)
        return _Said(number, now, lapsed_us is not None and now < lapsed_us + DISTRUSTED_FOR, number)

    def _cut(self, said: _Said | None, author: SiteKey, number: int) -> int:
        known, proved = self.known(author), self.proved(author)
        if number <= known:
            return min(number, proved)
        if said is None:
            # The log was cut here since.
            return number
        return proved if said.lapsed else number

    def _settle(self, sayer: SiteKey, said: dict[SiteKey, _Said], step_us: Micros, now: Micros) -> None:
        told_before = any(each.told for each in said.values())
        # Nobody can show an entry that everybody took back because its log has ended.
        is_ended = self._ledger.accepted.is_ended
        for author in [a for a, each in said.items() if self.known(a) >= each.number or is_ended(a, each.number)]:
            latest = said.pop(author).latest
            if latest > self.known(author) and not is_ended(author, latest):
                said[author] = self._word(sayer, latest, now)
        for author, each in sorted(said.items()):
            each.counted_us += step_us
            if not each.told and each.counted_us >= TRUSTED_FOR:
                each.lapsed = each.told = True
                self._lapsed_us[sayer] = now
                self._outbox.append(Emit(HeadUnproved(sayer, author, each.number)))
        if told_before and not any(each.told for each in said.values()):
            self._outbox.append(Emit(HeadShown(sayer)))
