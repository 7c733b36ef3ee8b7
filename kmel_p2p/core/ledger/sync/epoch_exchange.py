"""Spreads epochs of logs: whoever takes one in tells everybody, and sites that hold different ones exchange all."""

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
from kmel_p2p.core.types import Lane


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

    def on_epochs(self, sender: SiteKey, message: Epochs) -> None:
        """Take in what a site sends.

        Raises:
            WireError: one of them is no epoch, or not its author's.
        """
        rules, known = self._ledger.rules, self._ledger.accepted.epochs
        for encoded in message.epochs:
            epoch = decode(encoded)
            if known.get(epoch.author, epoch.number) == epoch:
                continue
            if epoch.author not in rules.roster or not epoch.is_signed(rules.charter_id):
                raise WireError(f"an epoch of {short(epoch.author)} that its author did not sign")
            self.begin(sender, epoch)

    def begin(self, sender: SiteKey, epoch: Epoch) -> None:
        """Take in an epoch whose signature is good, and tell everybody else."""
        outcome = self._ledger.begin_epoch(epoch)
        if outcome.verdict is Verdict.APPLIED:
            self._statements.forget(epoch.author)
            self._outbox += epoch_changes(epoch, outcome)
            for site in sorted(set(self._alive()) - {sender}):
                self._outbox.append(Send(site, Epochs((epoch.encode(),)), Lane.BULK))
        self._take(sender, outcome)

    def compare(self, site: SiteKey, held: Holdings) -> None:
        """A site tells what it holds: if those are not the epochs here, it gets all of them."""
        epochs = self._ledger.accepted.epochs
        if held.epochs != epochs.hash:
            self.show(site, epochs)

    def show(self, site: SiteKey, epochs: Iterable[Epoch]) -> None:
        """Send these epochs to a site."""
        encoded = [epoch.encode() for epoch in epochs]
        for start in range(0, len(encoded), MAX_EPOCHS):
            self._outbox.append(Send(site, Epochs(tuple(encoded[start : start + MAX_EPOCHS])), Lane.BULK))
