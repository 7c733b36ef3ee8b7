"""The states of a site's round, the moves between them, and what may stand in the way of the next round."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Micros


class RoundState(enum.Enum):
    """Where this site's next round is."""

    IDLE = "idle"
    TRAINING = "training"
    HELD = "held for approval"
    STORING = "storing"


class Move(enum.Enum):
    """What happens to a round."""

    OPEN = enum.auto()
    FAIL = enum.auto()
    HOLD = enum.auto()
    REJECT = enum.auto()
    APPROVE = enum.auto()
    STORE = enum.auto()
    REFUSE = enum.auto()
    """What was trained cannot be stored."""
    COMMIT = enum.auto()


TRANSITIONS: Mapping[Move, tuple[RoundState, RoundState]] = {
    Move.OPEN: (RoundState.IDLE, RoundState.TRAINING),
    Move.FAIL: (RoundState.TRAINING, RoundState.IDLE),
    Move.HOLD: (RoundState.TRAINING, RoundState.HELD),
    Move.REJECT: (RoundState.HELD, RoundState.IDLE),
    Move.APPROVE: (RoundState.HELD, RoundState.STORING),
    Move.STORE: (RoundState.TRAINING, RoundState.STORING),
    Move.REFUSE: (RoundState.STORING, RoundState.IDLE),
    Move.COMMIT: (RoundState.STORING, RoundState.IDLE),
}
"""Each move: the state that it is possible in, and the one it leads to."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No round now.

    Attributes:
        reason: why, in words for the operator (empty for a moment that needs none).
        sites: for whom; empty when it is for nobody in particular.
        until_us: when the wait ends if nothing changes; None: only when what is awaited comes.
        kind: the same as long as it is one wait, although the reason's numbers change; the reason if empty.
        until_begin: whether an operator may end it with `Begin`.
    """

    reason: str
    sites: tuple[SiteKey, ...] = ()
    until_us: Micros | None = None
    kind: str = ""
    until_begin: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """No round any more: this site listens from now on.

    Attributes:
        may_go_on: whether it trains again when more entries are allowed.
    """

    reason: str
    may_go_on: bool = True
