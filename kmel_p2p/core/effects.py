"""What a state machine asks its driver to do.

Every machine in `core` has the same five calls: `receive(sender, message, now)`, `command(cmd, now)`,
`advance(now)`, `deadline() -> Micros | None` and `poll() -> Effect | None`. A driver feeds one of the first three,
then drains `poll()` until None, then re-arms its single timer with `deadline()`. Effects are executed in the order
they are polled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Lane, Micros


class Event:
    """Marker base of everything told to the operator. Subclasses are frozen, slotted dataclasses."""

    __slots__ = ()


class Message:
    """Marker base of everything sent to a remote peer. Subclasses are frozen, slotted dataclasses."""

    __slots__ = ()


class Record:
    """Marker base of everything the store must keep. Subclasses are frozen, slotted dataclasses."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Hand `message` to the transport. Delivery is not promised."""

    to: SiteKey
    message: Message
    lane: Lane = Lane.CONTROL


@dataclass(frozen=True, slots=True)
class Dial:
    """Open (or re-open) our connections to a site at one of its addresses, newest knowledge first."""

    to: SiteKey
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close our connections to a site."""

    to: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the operator (log, status, metrics)."""

    event: Event


@dataclass(frozen=True, slots=True)
class Store:
    """Persist `record`. When `ticket` is set, the driver answers `Persisted(ticket)` once it is durable."""

    record: Record
    ticket: int | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """Run `work` off the event loop; the driver answers `Computed(ticket, result)`.

    `work` owns everything it touches (copies, immutable objects), so that it may run in a thread. It must not raise.
    """

    ticket: int
    work: Callable[[], bytes]


Effect: TypeAlias = Send | Dial | Hangup | Emit | Store | Compute


class Machine(Protocol):
    """The contract of every state machine in `core`."""

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None: ...
    def command(self, cmd: Any, now: Micros) -> None: ...
    def advance(self, now: Micros) -> None: ...
    def deadline(self) -> Micros | None: ...
    def poll(self) -> Effect | None: ...
