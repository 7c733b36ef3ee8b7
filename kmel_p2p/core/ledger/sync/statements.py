"""What other peers say about logs, and what of it is proved: no site's word alone makes this one wait.

A vector in `Holdings` or `Compacted` says how far logs go. A number in it counts for nothing without the signed header
that it rests on, or the entries. Honest sites send those headers along as far as they fit into a message. For others
the sayer is asked (`Heads` with `ANY_HASH`), and a site that cannot show one within `SHOWN_WITHIN`, while it is
reachable, is named to the operator.

An author can sign a header of its own log that no entries lead to: so even a proved number is waited for only while
that log moves here. It is still asked for (`offered`): after a long interruption nothing else would make it move. The
exception is this site's own log: only this site can have signed such a header, before it lost its store.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.ledger.events import HeadShown, HeadUnproved
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.validity import check_origin
from kmel_p2p.core.ledger.sync.messages import ANY_HASH, Heads, LogHead
from kmel_p2p.core.types import SECOND, Micros, Vector

SHOWN_WITHIN: Micros = 20 * SECOND
"""How long a site that can be asked may take to show the header that its word rests on. Many round trips."""

STEP_MOST: Micros = 4 * SECOND
"""Most that one look adds to the time in which a header could have been shown: a machine that slept gave nobody one."""

ASK_AFTER: Micros = 4 * SECOND
"""Entries mostly arrive sooner than that; only then is a header asked for, and again after as long."""

ASK_AT_ONCE = 16
"""Where so many entries are said to be missing, the header is asked for at once: a snapshot may be the faster way."""

MOVES_WITHIN: Micros = 300 * SECOND
"""A proved number counts until its log has not moved here for so long: a slow link delivers an entry in that time."""

MAX_HEADS_ASKED = 64
"""Headers asked of one site at a time."""


@dataclass(slots=True)
class _Said:
    """A number that one site named of one log, and that nobody has proved."""

    number: int
    since_us: Micros
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
        self._said: dict[SiteKey, dict[SiteKey, _Said]] = {}
        self._shown: dict[SiteKey, _Shown] = {}
        self._asked_us: dict[SiteKey, Micros] = {}
        """Author -> when a header of it was last asked for, of whomever."""
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
                said[author] = _Said(number, now, number)

    def shown(self, header: SignedHeader, now: Micros) -> None:
        """A header came. It proves how far its author's log goes if the signature is good; raises WireError if not."""
        author, number = header.author, header.number
        if number <= self.known(author) or self._ledger.accepted.epochs.disowns(header):
            return
        if self._ledger.amended_rules.voids(header.basis):
            return
        refusal = check_origin(header, self._ledger.rules)
        if refusal is not None:
            raise WireError(f"a header that it showed proves nothing: {refusal.value}")
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

    def was_asked(self, author: SiteKey) -> bool:
        """Whether anybody was asked for a header of this log."""
        return author in self._asked_us

    def may_show(self, sayer: SiteKey, author: SiteKey) -> bool:
        """Whether `sayer` says that a log goes further than is known here, and still has time to show it."""
        said = self._said.get(sayer, {}).get(author)
        return said is not None and not said.told and max(said.number, said.latest) > self.known(author)

    def credible(self, vector: Vector) -> dict[SiteKey, int]:
        """`vector` as far as it is to be believed: cut to what is proved."""
        numbers = {author: min(number, self.proved(author)) for author, number in vector.items()}
        return {author: number for author, number in numbers.items() if number}

    def offered(self, vector: Vector) -> dict[SiteKey, int]:
        """What who said `vector` may be asked for: also what is proved though its log stands still here."""
        numbers = {author: min(number, self.known(author)) for author, number in vector.items()}
        return {author: number for author, number in numbers.items() if number}

    def forget(self, author: SiteKey) -> None:
        """A log goes on in another epoch: what was shown of it may have been of the branch that is disowned."""
        self._shown.pop(author, None)

    def unsay(self) -> None:
        """Other amendments are in force: nothing that was said or shown counts any longer."""
        self._said.clear()
        self._shown.clear()

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
        """Drop what is proved by now, ask for what is not, and name who did not show it in time.

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
        return now >= said.since_us + ASK_AFTER or said.number > self._ledger.head(author) + ASK_AT_ONCE

    def _settle(self, sayer: SiteKey, said: dict[SiteKey, _Said], step_us: Micros, now: Micros) -> None:
        told_before = any(each.told for each in said.values())
        # Nobody can show an entry that everybody took back because its log has ended.
        is_ended = self._ledger.accepted.is_ended
        for author in [a for a, each in said.items() if self.known(a) >= each.number or is_ended(a, each.number)]:
            latest = said.pop(author).latest
            if latest > self.known(author) and not is_ended(author, latest):
                said[author] = _Said(latest, now, latest)
        for author, each in sorted(said.items()):
            each.counted_us += step_us
            if not each.told and each.counted_us >= SHOWN_WITHIN:
                each.told = True
                self._outbox.append(Emit(HeadUnproved(sayer, author, each.number)))
        if told_before and not any(each.told for each in said.values()):
            self._outbox.append(Emit(HeadShown(sayer)))
