"""What this site held lately, by the digest that a `Have` names it with.

Most of the time the others hold what this site holds, or held a moment ago: their digest is then one of ours, and says
how much of each log they hold although no vector was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.ledger.log.epoch import NO_EPOCHS
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.messages import STATE_BYTES
from kmel_p2p.core.roster_vector import RosterVector

KEPT = 256
"""States remembered: those of the last seconds in a large federation."""


@dataclass(frozen=True, slots=True)
class HeldState:
    """One state: how much of each log, the hash of the headers there, and that of all epochs."""

    vector: RosterVector
    chains: bytes
    epochs: bytes


def state_digest(
    amendment: bytes, vector: RosterVector, chains: bytes, ended: Mapping[int, int], epochs: bytes = NO_EPOCHS
) -> bytes:
    """The digest of what a site holds.

    Args:
        amendment: hash of the newest amendment.
        vector: how much of each log.
        chains: hash of the headers there.
        ended: logs that have ended, or began another epoch: place -> first number not accepted, or disowned.
        epochs: hash of all epochs; left out where there is none.
    """
    ends = b"".join(place.to_bytes(2, "big") + number.to_bytes(8, "big") for place, number in sorted(ended.items()))
    more = b"" if epochs == NO_EPOCHS else epochs
    return digest(b"kmel state 1", amendment, chains, ends, vector.packed, more)[:STATE_BYTES]


class OwnStates:
    """See the module docstring."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[bytes, HeldState] = {}
        self._noted: RosterVector | None = None
        """The vector object that `_now` is of; another object, even an equal one, means that the ledger changed."""
        self._noted_besides: tuple[object, ...] = ()
        self._now = b""

    @property
    def ended(self) -> dict[int, int]:
        """Logs that have ended, or began another epoch: place -> first number not accepted, or disowned, by place."""
        accepted = self._ledger.accepted
        return dict(sorted((accepted.order.place(key), number) for key, number in accepted.cuts.items()))

    def now(self) -> bytes:
        """The digest of what is held now."""
        accepted = self._ledger.accepted
        ended = self.ended if accepted.faults or accepted.retired or accepted.epochs else {}
        besides = accepted.amendment_hash, tuple(ended.items()), accepted.epochs.hash
        if accepted.held is not self._noted or besides != self._noted_besides:
            chains = accepted.chains(accepted.held)
            assert chains is not None, "the newest header of every log is held"
            self._noted, self._noted_besides = accepted.held, besides
            self._now = state_digest(accepted.amendment_hash, accepted.held, chains, ended, accepted.epochs.hash)
            self._known.pop(self._now, None)
            self._known[self._now] = HeldState(accepted.held, chains, accepted.epochs.hash)
            if len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return self._now

    def forget(self) -> None:
        """Other amendments are in force: the places in what was held stand for other sites now."""
        self._known.clear()
        self._noted = None

    def get(self, state: bytes) -> HeldState | None:
        """What was held here under this digest, now or lately."""
        return self._known.get(state)
