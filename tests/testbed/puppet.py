"""A site without trainer and disk, over real sockets: shipped protocol and transport, made-up training.

It keeps the rules. Benchmarks use it where they need more sites than the machine has processors for, or a site that
publishes at an even pace; `tests.testbed.hostile` makes a liar of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Machine, Record
from kmel_p2p.core.membership import commands
from kmel_p2p.core.peer import Peer, make_wire
from kmel_p2p.core.rounds import Ready, RoundOpened, RoundTrained
from kmel_p2p.core.types import Micros
from kmel_p2p.net.driver import Driver
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.modes.stored_ledger import codec_of, fresh_ledger
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site

SIZE_CLASS = 8


class Puppet:
    """See the module docstring.

    Args:
        config: settings of the site.
        seed: of its randomness and its made-up deltas.
        period_s: time that a round takes; None: it never trains.
        size_class: what it says about its measurements.
        transport: makes the transport.
        driven: what the driver drives: the peer, or something around it.
        on_fault: told of defects.
    """

    def __init__(
        self,
        config: Path,
        seed: int,
        *,
        period_s: float | None,
        size_class: int = SIZE_CLASS,
        transport: Callable[..., Transport] = Transport,
        driven: Callable[[Peer], Machine] = lambda peer: peer,
        on_fault: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.site: Site = load_site(load_config(config))
        self._period_s = period_s
        self._size_class = size_class
        self._rng = np.random.default_rng(seed)
        rng = random.Random(seed)
        self.peer = make_peer(self.site, fresh_history(self.site), 1, self.site.rule.addresses, rng, now_us())
        self.wire = make_wire(self.site.charter.id, mode_of(self.site.charter).messages)
        self.driver = Driver(
            driven(self.peer),
            self.wire,
            clock=now_us,
            on_emit=self._on_event,
            store=_keep_nothing,
            on_fault=on_fault or _fault,
        )
        self.transport = transport(
            self.site.identity,
            self._roster,
            self.site.config.network.bind,
            settings=TransportSettings(),
            on_message=self.driver.message,
            on_link=self.driver.link,
            clock=now_us,
            rng=random.Random(seed + 1),
        )

    @property
    def others(self) -> tuple[SiteKey, ...]:
        """The other sites of the charter."""
        return tuple(key for key in sorted(self.site.charter.roster) if key != self.site.identity.key)

    async def start(self) -> None:
        """Join, and begin to train if it trains."""
        self.driver.start(self.transport)
        await self.transport.start()
        self.driver.command(commands.DescribeSelf(size_class=self._size_class))
        if self._period_s is not None:
            self.driver.command(Ready())

    def _roster(self) -> Collection[SiteKey]:
        return self.site.charter.roster.keys()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RoundOpened) and self._period_s is not None:
            training_us = round(self._period_s * 1e6)
            answer = RoundTrained(event.number, self._payload(), event.steps, training_us, f"round-{event.number}")
            asyncio.get_running_loop().call_later(self._period_s, self.driver.command, answer)

    def _payload(self) -> bytes:
        """A delta as small as those of training, another one in each round: a repeated one ends a log."""
        drift = self._rng.standard_normal(self.site.layout.size, np.float32) * np.float32(1e-4)
        return codec_of(self.site).encode(drift, 1.0) if mode_of(self.site.charter).keeps_entries else drift.tobytes()


def fresh_history(site: Site) -> Any:
    """What averaging begins from at a site that has no store."""
    if mode_of(site.charter).keeps_entries:
        return fresh_ledger(site)
    from kmel_p2p.core.pushsum.state import PushSumState

    return PushSumState.fresh(site.initial_trunk(), bytes(8))


def now_us() -> Micros:
    """Monotonic time in microseconds."""
    return time.monotonic_ns() // 1000


async def _keep_nothing(record: Record) -> None:
    await asyncio.sleep(0)


def _fault(where: str, error: BaseException) -> None:
    raise SystemExit(f"{where}: {error!r}") from error
