"""What every part of one transport shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.sockets import CurveKeys


@dataclass(frozen=True, slots=True)
class Wiring:
    """Loop, context, keys, settings, clock and randomness of one transport."""

    loop: asyncio.AbstractEventLoop
    context: zmq.Context[Any]
    own_key: SiteKey
    keys: CurveKeys
    settings: TransportSettings
    clock: Callable[[], Micros]
    rng: Randomness
    entropy: Callable[[int], bytes]
    """Unguessable bytes: routing ids, sessions and the boot number are made of them."""
    fault: Callable[[str, BaseException], None]
    """Takes the name of a part and what went wrong in it."""

    def later(self, delay_us: Micros, where: str, work: Callable[[], None]) -> asyncio.TimerHandle:
        """Call `work` after `delay_us`; what it raises becomes a fault instead of an entry in the loop's log."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self.fault(where, error)

        return self.loop.call_later(delay_us / SECOND, guarded)


class Route(Protocol):
    """A way to send frames to one site: our connection to it, or its connection to us."""

    lane: Lane
    session: bytes
    signals_room: bool
    """Whether it tells when it takes messages again after a refusal."""

    def send(self, header: bytes, data: memoryview | None = None) -> bool:
        """Hand over one message; False when it cannot be taken now."""
        ...

    def cut(self) -> None:
        """End the connection at once."""
        ...
