"""The few types every state machine shares."""

from __future__ import annotations

import enum
from collections.abc import Mapping, MutableSequence, Sequence
from typing import NewType, Protocol, TypeAlias, TypeVar

SiteKey = NewType("SiteKey", bytes)
"""Ed25519 public key of a site, 32 bytes: its only identity."""

Micros: TypeAlias = int
"""Monotonic time or duration in integer microseconds, handed in by the driver."""

SECOND: Micros = 1_000_000
MILLISECOND: Micros = 1_000

KEY_BYTES = 32
HASH_BYTES = 32
SIGNATURE_BYTES = 64

Vector: TypeAlias = Mapping[SiteKey, int]
"""Version vector: author -> highest contiguous sequence number. Authors at 0 are left out."""

T = TypeVar("T")


class Lane(enum.Enum):
    """Which of the two connections to a peer carries a message."""

    CONTROL = "control"
    BULK = "bulk"


class Randomness(Protocol):
    """The part of `random.Random` that state machines may use; a seeded one is handed in."""

    def random(self) -> float: ...
    def randrange(self, stop: int, /) -> int: ...
    def shuffle(self, x: MutableSequence[T], /) -> None: ...
    def sample(self, population: Sequence[T], k: int) -> list[T]: ...
    def choice(self, seq: Sequence[T], /) -> T: ...


def short(key: bytes) -> str:
    """First eight hex digits of a key or hash, for people and logs."""
    return key[:4].hex()
