"""What peers say to each other in pushsum mode."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.core.effects import Message
from kmel_p2p.core.pushsum.holding import MAX_MASS
from kmel_p2p.core.wire import Schema, blob, flag, listing, uint

MAX_PAYLOAD_BYTES = 128 * 1024 * 1024
MAX_NUMBER = 2**40
MAX_ROUNDS = 2**33
MAX_STATEMENT_BYTES = 256
LIFE_BYTES = 8
"""Size of a `life`: drawn when a site's store is made, so that a store that was replaced is told from it."""


class TransferVerdict(enum.IntEnum):
    """What became of a transfer at its receiver."""

    APPLIED = 0
    REFUSED = 1
    """Durably not applied, now and ever: the sender takes the mass back."""
    MISSING = 2
    """Not here so far: send it again."""


class Hop(enum.IntEnum):
    """Where a message stands in an exchange of statements, so that exchanges end."""

    NOTICE = 0
    """Asks for nothing."""
    OFFER = 1
    """Answer with an `ANSWER` if you know other things."""
    ANSWER = 2
    """Answer with a `NOTICE` if you still know other things."""


@dataclass(frozen=True, slots=True)
class Statements(Message):
    """Where sites stand: the sender itself, and what else is news since it last told the receiver."""

    statements: tuple[bytes, ...]
    """As `statement.Statement.encoded`."""
    digest: int
    """Of all that the sender knows: equal ones need no further words."""
    hop: Hop


@dataclass(frozen=True, slots=True)
class ProgressReport(Message):
    """How far the sender has come. Sent to its watchers after every round."""

    rounds: int
    step_us: int
    """Time it needs per optimiser step, microseconds; 0 before its first round."""


@dataclass(frozen=True, slots=True)
class MassTransfer(Message):
    """Mass on its way. Numbers rise per (life of the sender, receiver) and one is under way at a time."""

    number: int
    sender_life: bytes
    receiver_life: bytes
    mass: int
    age: int
    """Round up to which work of others is mixed into it."""
    trains: bool
    """The sender goes on training: a receiver that does not sends a share back. Said here, because two sites that hold
    each other for training, until the news is round, would hand a share back and forth."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Inquiry(Message):
    """Asks what became of a transfer whose receipt did not come."""

    number: int
    sender_life: bytes
    receiver_life: bytes


@dataclass(frozen=True, slots=True)
class Receipt(Message):
    """What became of a transfer. `life` is that of the transfer's sender, to whom this goes."""

    number: int
    life: bytes
    verdict: TransferVerdict


@dataclass(frozen=True, slots=True)
class ShareRequest(Message):
    """The sender's trunk is too old to train from: please send some mass."""


_LIFE = blob(LIFE_BYTES, LIFE_BYTES)
_NUMBER = uint(MAX_NUMBER)
_ROUND = uint(MAX_ROUNDS)

SCHEMAS = (
    Schema(
        40,
        Statements,
        {"statements": listing(blob(MAX_STATEMENT_BYTES), MAX_SITES), "digest": uint(2**64 - 1), "hop": uint(2)},
    ),
    Schema(
        41,
        MassTransfer,
        {
            "number": _NUMBER,
            "sender_life": _LIFE,
            "receiver_life": _LIFE,
            "mass": uint(MAX_MASS),
            "age": _ROUND,
            "trains": flag(),
            "payload": blob(MAX_PAYLOAD_BYTES),
        },
    ),
    Schema(42, Inquiry, {"number": _NUMBER, "sender_life": _LIFE, "receiver_life": _LIFE}),
    Schema(43, Receipt, {"number": _NUMBER, "life": _LIFE, "verdict": uint(2)}),
    Schema(44, ShareRequest, {}),
    Schema(45, ProgressReport, {"rounds": _ROUND, "step_us": uint(2**40)}),
)
