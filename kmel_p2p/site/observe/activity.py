"""What happened at this peer since it started: counts, ages and alarms for status and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kmel_p2p.site.observe.status import Ages, Alarm

HELD = "entry held"
"""The alarm that stands while one waits for approval."""

MAX_ALARMS = 100
"""Alarms kept at most; a new one then replaces the oldest."""


@dataclass(slots=True)
class Activity:
    """Written by the daemon as things happen. Times are monotonic seconds."""

    clock: Callable[[], float]
    started_at: float = 0.0
    published_at: float | None = None
    applied_at: float | None = None
    trained_at: float | None = None
    sent_at: float | None = None
    received_at: float | None = None
    published: int = 0
    """Own entries made durable in this run."""
    refused: int = 0
    entry_bytes: int = 0
    """Bytes of own entries, or of the shares sent, in this run."""
    shares_sent: int = 0
    """Where sites exchange shares: those handed to the transport for the first time."""
    shares_received: int = 0
    steps: int = 0
    loss: float | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data: dict[str, int] = field(default_factory=dict)
    last_error: str = ""
    stopping: bool = False
    fatal: str = ""
    """Why the peer cannot go on."""
    held: int = 0
    """Number of the entry that waits for approval; 0: none does."""
    trained_payload: bytes = b""
    """Of the newest round: what waits for approval where one does."""
    _held_at: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    """How often each kind of event was told, for metrics."""
    _alarms: dict[str, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def hold(self, number: int) -> None:
        """An own entry waits for approval."""
        self.held, self._held_at = number, self.clock()
        text = f"entry {number} waits for approval: kmel-peer held show says what would leave"
        self.alarm(HELD, text)

    @property
    def held_age_s(self) -> float:
        """For how long the entry has waited."""
        return self.clock() - self._held_at

    def not_held(self) -> None:
        """Nothing waits for approval any more."""
        self.held = 0
        self.clear(HELD)

    def alarm(self, what: str, text: str) -> None:
        """Raise or refresh an alarm; one line per kind."""
        if what not in self._alarms and len(self._alarms) >= MAX_ALARMS:
            del self._alarms[next(iter(self._alarms))]
        self._alarms[what] = (text, self.clock())

    def stands(self, what: str) -> bool:
        """Whether this alarm is raised."""
        return what in self._alarms

    def clear(self, what: str) -> None:
        """The cause of an alarm is gone."""
        self._alarms.pop(what, None)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Standing alarms with their ages."""
        now = self.clock()
        return tuple(Alarm(what, text, now - at) for what, (text, at) in self._alarms.items())

    @property
    def ages(self) -> Ages:
        """Seconds since each last happened."""
        now = self.clock()

        def age(at: float | None) -> float | None:
            return None if at is None else now - at

        return Ages(
            published_s=age(self.published_at),
            applied_s=age(self.applied_at),
            trained_s=age(self.trained_at),
            sent_s=age(self.sent_at),
            received_s=age(self.received_at),
        )
