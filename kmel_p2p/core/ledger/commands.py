"""What the driver asks of the ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ready:
    """The data are prepared: this site can train."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The trainer finished the open round."""

    seq: int
    payload: bytes
    steps: int
    own_state_file: str


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """The trainer could not finish the open round; another one opens when the site is `Ready` again."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Approve:
    """The operator lets the held entry go."""

    seq: int


@dataclass(frozen=True, slots=True)
class Reject:
    """The operator keeps the held entry back for good."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Persisted:
    """The record stored with this ticket is durable."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Listen:
    """Publish nothing more; keep relaying."""

    reason: str
