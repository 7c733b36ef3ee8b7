"""What a state machine asks its driver to do, and what the driver tells it.

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
    """Close every connection with a site, its own too. Nothing more is read of what came over them."""

    to: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the operator (log, status, metrics)."""

    event: Event


@dataclass(frozen=True, slots=True)
class Persist:
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


Effect: TypeAlias = Send | Dial | Hangup | Emit | Persist | Compute


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Control messages can now be exchanged with this site, whoever dialled."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The last connection with this site is gone, or a dial failed."""

    key: SiteKey
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A message for this site was not taken (control), or will not arrive (bulk)."""

    key: SiteKey
    lane: Lane = Lane.CONTROL
    label: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """The driver's event loop ran this late: this peer's judgement of others is worth less."""

    late_us: Micros


@dataclass(frozen=True, slots=True)
class StoodStill(Event):
    """This process was not run for so long: the machine slept, was paused, or the process was stopped.

    Told by the driver before anything that came in meanwhile, and to the operator.
    """

    for_us: Micros


@dataclass(frozen=True, slots=True)
class Persisted:
    """The record stored with this ticket is durable."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Computed:
    """The work of `Compute` with this ticket is done."""

    ticket: int
    result: bytes


LinkChange: TypeAlias = LinkUp | LinkDown | SendFailed
"""What a driver tells of its links. A machine that keeps no account of links takes and ignores it."""


class Machine(Protocol):
    """The contract of every state machine in `core`.

    `command` takes what the layer above decides, and what the driver tells: a `LinkChange`, `LoopLag`, `StoodStill`,
    `Persisted`, `Computed`.
    """

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None: ...
    def command(self, cmd: Any, now: Micros) -> None: ...
    def advance(self, now: Micros) -> None: ...
    def deadline(self) -> Micros | None: ...
    def poll(self) -> Effect | None: ...
