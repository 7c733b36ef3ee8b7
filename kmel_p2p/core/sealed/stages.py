"""Where a site is in a sealed round, and the moves between."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Stage(enum.Enum):
    """Of the present round."""

    IDLE = "gathering"
    OPENED = "opened"
    TRAINING = "training"
    STORED = "storing what it sealed"
    SEALED = "sealed"
    CLOSED = "voted"
    REVEALED = "revealed"
    COMMITTED = "committed"
    ABORTED = "void"


S = Stage
_ANYTIME = frozenset({S.OPENED, S.CLOSED, S.REVEALED, S.COMMITTED, S.ABORTED})
MOVES: Mapping[Stage, frozenset[Stage]] = {
    S.IDLE: _ANYTIME,
    S.OPENED: _ANYTIME | {S.TRAINING, S.STORED, S.SEALED},
    S.TRAINING: _ANYTIME | {S.STORED},
    S.STORED: _ANYTIME | {S.SEALED},
    S.SEALED: _ANYTIME,
    S.CLOSED: _ANYTIME,
    S.REVEALED: _ANYTIME,
    S.COMMITTED: frozenset({S.IDLE}),
    S.ABORTED: frozenset({S.IDLE}),
}
"""What the roster votes for may reach a site at any stage, and so may the outcome. A site that is no member neither
trains nor seals. Back to `OPENED`: a better Open, or one that a quorum voted for, took the place of the first."""
