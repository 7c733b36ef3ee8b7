"""The few types every state machine shares."""

from __future__ import annotations

import enum
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Protocol, TypeAlias, TypeVar

from kmel_p2p.agreement.identity import SiteKey

Micros: TypeAlias = int
"""Monotonic time or duration in integer microseconds, handed in by the driver."""

SECOND: Micros = 1_000_000
MILLISECOND: Micros = 1_000

Vector: TypeAlias = Mapping[SiteKey, int]
"""Version vector: author -> highest contiguous number. Authors at 0 are left out."""

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
    def choice(self, options: Sequence[T], /) -> T: ...
