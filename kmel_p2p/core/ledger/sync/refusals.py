"""How much invalid stuff of one site is looked at: finding out that something is forged costs a signature.

Whoever sends more is not listened to for some seconds, as far as that costs anything: its digests and questions are
still taken. An honest site sends nothing invalid, but for what an amendment that is on its way will explain, and what
was left out comes again by digest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message
from kmel_p2p.core.ledger.events import EntryRefused, VoteRefused
from kmel_p2p.core.ledger.sync.messages import Bodies, Claim, Epochs, Holdings, Proofs, Stubs, Votes
from kmel_p2p.core.types import SECOND, Micros

AT_ONCE = 64
"""Refusals of what one site sent before the rest is left out."""

APART: Micros = SECOND // 4
"""One refusal is forgiven in so long."""

LEFT_OUT = "so much of what it sent was refused that more is left out for some seconds"

COSTLY: tuple[type[Message], ...] = (Bodies, Holdings, Proofs, Stubs, Epochs, Claim, Votes)
"""Messages with signatures to check."""


class Refusals:
    """See the module docstring.

    Args:
        outbox: where refusals are told.
        hear: takes sender, message and time.
    """

    def __init__(self, outbox: deque[Effect], hear: Callable[[SiteKey, Message, Micros], None]) -> None:
        self._outbox = outbox
        self._hear = hear
        self._paid_us: dict[SiteKey, Micros] = {}
        """Site -> when all its refusals are forgiven."""
        self._left_out: set[SiteKey] = set()

    def take(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Hand a message on, unless its sender had its share."""
        if sender in self._left_out and isinstance(message, COSTLY):
            if self._owed(sender, now) > AT_ONCE // 2:
                return
            self._left_out.discard(sender)
        before = len(self._outbox)
        self._hear(sender, message, now)
        refused = sum(_is_refusal(effect, sender) for effect in islice(self._outbox, before, None))
        if not refused:
            return
        self._paid_us[sender] = max(self._paid_us.get(sender, now), now) + refused * APART
        if self._owed(sender, now) >= AT_ONCE and sender not in self._left_out:
            self._left_out.add(sender)
            self._outbox.append(Emit(EntryRefused(sender, None, LEFT_OUT)))

    def _owed(self, sender: SiteKey, now: Micros) -> int:
        return (self._paid_us.get(sender, now) - now) // APART


def _is_refusal(effect: Effect, sender: SiteKey) -> bool:
    event = effect.event if isinstance(effect, Emit) else None
    return isinstance(event, (EntryRefused, VoteRefused)) and event.sender == sender
