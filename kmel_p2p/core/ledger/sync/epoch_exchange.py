"""Spreads epochs of logs: an author tells everybody, and sites that hold different ones send each other all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.epoch import MAX_EPOCHS, Epoch, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict, epoch_changes
from kmel_p2p.core.ledger.sync.messages import Epochs, Holdings
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.types import SECOND, Lane, Micros

APART: Micros = 2 * SECOND
"""A site gets all epochs no sooner after the last time: its question is small, the answer is not."""


class EpochExchange:
    """See the module docstring. Effects go to the shared `outbox`.

    Args:
        take: stores and tells what an outcome changed; its arguments are the sender and the outcome.
    """

    def __init__(
        self,
        ledger: Ledger,
        statements: LogStatements,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        take: Callable[[SiteKey, Outcome], None],
    ) -> None:
        self._ledger = ledger
        self._statements = statements
        self._alive = alive
        self._outbox = outbox
        self._take = take
        self._shown_us: dict[SiteKey, Micros] = {}

    def on_epochs(self, sender: SiteKey, message: Epochs) -> None:
        """Take in what a site sends.

        Raises:
            WireError: one of them is no epoch, or not its author's, or the charter has none.
        """
        rules, known = self._ledger.rules, self._ledger.accepted.epochs
        if not rules.epochs:
            raise WireError("an epoch of a log, in a federation whose charter has none")
        for encoded in message.epochs:
            epoch = decode(encoded)
            if known.get(epoch.author, epoch.number) == epoch or epoch.author not in rules.roster:
                # Of a site that an amendment adds which is not here yet, it comes again.
                continue
            if not epoch.is_signed(rules.charter_id):
                raise WireError(f"an epoch of {short(epoch.author)} that its author did not sign")
            self._take_in(sender, epoch)

    def begin(self, own: SiteKey, epoch: Epoch) -> None:
        """Take in an epoch of this site, and tell everybody."""
        self._take_in(own, epoch)
        for site in sorted(self._alive()):
            self._outbox.append(Send(site, Epochs((epoch.encode(),)), Lane.BULK))

    def compare(self, site: SiteKey, held: Holdings, now: Micros) -> None:
        """A site tells what it holds: if those are not the epochs here, it gets all of them."""
        if held.epochs != self._ledger.accepted.epochs.hash:
            self.show(site, now)

    def show(self, site: SiteKey, now: Micros) -> None:
        """Send all epochs to a site, if it did not get them just now."""
        if now < self._shown_us.get(site, -APART) + APART:
            return
        self._shown_us[site] = now
        encoded = [epoch.encode() for epoch in self._ledger.accepted.epochs]
        for start in range(0, len(encoded), MAX_EPOCHS):
            self._outbox.append(Send(site, Epochs(tuple(encoded[start : start + MAX_EPOCHS])), Lane.BULK))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _take_in(self, sender: SiteKey, epoch: Epoch) -> None:
        outcome = self._ledger.begin_epoch(epoch)
        if outcome.verdict is Verdict.APPLIED:
            self._statements.forget(epoch.author)
            self._outbox += epoch_changes(epoch, outcome)
        self._take(sender, outcome)
