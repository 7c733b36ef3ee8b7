"""One simulated computer: a machine, its clock, and what keeps it from running."""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Machine
from kmel_p2p.core.types import Micros

Boot: TypeAlias = Callable[[Micros], Machine]
"""Makes a fresh machine; called with the host's own clock at every start."""

MAX_WAITING = 4096
"""Messages kept for a host that is paused: about what kernel buffers hold. Newer ones are lost."""


class Power(enum.Enum):
    """Whether a host runs."""

    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"


class Host:
    """State of one host. Only the network changes it."""

    __slots__ = (
        "addresses",
        "boot",
        "clock_offset_us",
        "due_us",
        "inbox",
        "index",
        "interface_up",
        "key",
        "linked_to",
        "machine",
        "name",
        "outbound_only",
        "paused_at_us",
        "pending_wake_us",
        "place",
        "power",
        "receive_delay_us",
        "rng",
        "starts",
        "work_free_us",
        "work_us",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        key: SiteKey,
        name: str,
        boot: Boot,
        addresses: tuple[str, ...],
        rng: random.Random,
        place: SiteKey | None = None,
    ) -> None:
        self.index = index
        self.key = key
        self.place = key if place is None else place
        """Tells the computers of one key apart: a copied machine has the key of the first one."""
        self.name = name
        self.boot = boot
        self.addresses = addresses
        self.rng = rng
        self.machine: Machine | None = None
        self.power = Power.OFF
        self.clock_offset_us: Micros = 0
        """Local clock minus virtual time."""
        self.paused_at_us: Micros = 0
        self.due_us: Micros | None = None
        """The machine's last deadline, by its own clock."""
        self.pending_wake_us: Micros | None = None
        """Virtual time of the earliest timer event queued for this host."""
        self.inbox: deque[Any] = deque()
        self.receive_delay_us: tuple[Micros, Micros] = (0, 0)
        """A starved host handles each message this much late (uniform), though its timers are on time."""
        self.work_us: Micros = 0
        """Processing time of one message; messages queue for it."""
        self.work_free_us: Micros = 0
        self.interface_up = True
        self.outbound_only = False
        self.linked_to: dict[SiteKey, None] = {}
        self.starts = 0

    @property
    def running(self) -> bool:
        return self.power is Power.RUNNING

    def local(self, now: Micros) -> Micros:
        """The host's own monotonic clock."""
        return now + self.clock_offset_us
