"""What the transport tells about its links: events as they happen, states on demand; and what a link tells it."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import LinkChange
from kmel_p2p.core.types import SECOND, Lane, Micros


@dataclass(frozen=True, slots=True)
class DialFailed:
    """One attempt to reach a site failed; the next one follows by itself after `retry_in_us`."""

    key: SiteKey
    address: str
    reason: str
    retry_in_us: Micros


@dataclass(frozen=True, slots=True)
class AuthRejected:
    """A site refused our key, or does not hold the key the roster gives it. `explanation` is for the operator."""

    key: SiteKey
    address: str
    explanation: str


@dataclass(frozen=True, slots=True)
class StrangerRefused:
    """Somebody whose key is not in the roster tried to connect (or something that does not speak our protocol).

    The same stranger is reported once a minute; `attempts` counts since the last report.
    """

    address: str
    curve_key: str
    attempts: int
    explanation: str


@dataclass(frozen=True, slots=True)
class PeerMisbehaved:
    """A roster site sent something the transport does not allow; told once a second, counted always.

    `cut` says whether its connection was.
    """

    key: SiteKey
    reason: str
    cut: bool


@dataclass(frozen=True, slots=True)
class BulkStuck:
    """Control messages reach a site, and bulk messages have not for a while: `reason` is for the operator."""

    key: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class BulkMoves:
    """What `BulkStuck` told is over: something got through, or the link is down altogether."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class LinkFault:
    """A defect of ours was caught and the part goes on working; each kind is told once a second, counted always."""

    where: str
    error: BaseException


LinkEvent: TypeAlias = (
    LinkChange | DialFailed | AuthRejected | StrangerRefused | PeerMisbehaved | BulkStuck | BulkMoves | LinkFault
)


@dataclass(frozen=True, slots=True)
class Egress:
    """One message that starts to leave for a site, told before its first byte does."""

    to: SiteKey
    lane: Lane
    label: str
    size_bytes: int
    digest: bytes
    """BLAKE2b-256 of the message."""


class LinkPhase(enum.Enum):
    """The state of a link."""

    IDLE = "idle"
    """Nobody asked for it, or it was hung up."""
    CONNECTING = "connecting"
    HANDSHAKING = "handshaking"
    UP = "up"
    WAITING = "waiting"
    """The last attempt failed; `next_dial_us` says when the next one is."""
    REFUSED = "refused"
    """As WAITING, after a refusal that only an operator can lift."""


@dataclass(slots=True)
class Traffic:
    """Exact sums of the frames handed to and taken from ZeroMQ, without its own and TCP's overhead.

    Chunks with their headers count as bulk, everything else as control.
    """

    bytes_out: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    bytes_in: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    messages_out: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    """Control messages handed over; bulk messages whose arrival was confirmed."""
    messages_in: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    refused_sends: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    """Messages `send` did not take."""
    misbehaviour: int = 0
    """Messages of the site that the transport did not allow."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """One link at one moment. Times are on the transport's clock."""

    phase: LinkPhase
    since_us: Micros
    outbound: bool
    """Our own connection works."""
    inbound: bool
    """The site's connection to us works."""
    address: str
    """The address of the present or last attempt; empty when never dialled."""
    attempts: int
    """Failed attempts since the link was last stable."""
    next_dial_us: Micros | None
    last_heard_us: Micros | None
    round_trip_us: Micros | None
    traffic: Traffic
    """A copy."""
    queue_bytes: int
    queue_messages: int
    last_error: str
    """For the operator; empty if there was none."""
    bulk_problem: str = ""
    """Why bulk messages do not get through although control messages do; empty while they do."""


class LinkHost(Protocol):
    """The transport, as a link sees it."""

    def deliver(self, key: SiteKey, data: bytes | memoryview, lane: Lane) -> None: ...
    def tell(self, event: LinkEvent) -> None: ...
    def egress(self, record: Egress) -> bool: ...


SUBJECTS_MAX = 512
"""Subjects remembered; beyond it the one told about longest ago is forgotten."""


class Throttle:
    """Lets one event per subject and interval pass."""

    def __init__(self, interval_us: Micros = SECOND) -> None:
        self._interval_us = interval_us
        self._told_us: OrderedDict[Hashable, Micros] = OrderedDict()

    def passes(self, subject: Hashable, now: Micros) -> bool:
        """Whether an event about `subject` may be told now; if so, it counts as told."""
        told_us = self._told_us.get(subject)
        if told_us is not None and now - told_us < self._interval_us:
            return False
        self._told_us[subject] = now
        self._told_us.move_to_end(subject)
        if len(self._told_us) > SUBJECTS_MAX:
            self._told_us.popitem(last=False)
        return True
