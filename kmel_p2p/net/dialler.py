"""Keeps one wanted connection: dials, waits longer after each failure, dials for ever.

Names are resolved here and not by ZeroMQ, whose I/O thread would stop for all peers during a slow look-up.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable
from typing import Protocol

import zmq

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness
from kmel_p2p.net.address import Address, parse_address
from kmel_p2p.net.connection import Connection
from kmel_p2p.net.connection_failure import NEEDS_OPERATOR, ConnectionFailure, explain
from kmel_p2p.net.frames import Greeting
from kmel_p2p.net.link_events import LinkPhase
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.socks import ProxyError, Tunnel, open_tunnel
from kmel_p2p.net.wiring import Wiring

JITTER = 0.25
"""Part of the pause that is random, so that a federation does not dial in step after a common outage."""

NAMES_MAX = 16
"""Answers of a name look-up that are tried."""


def pause(failures: int, settings: TransportSettings, rng: Randomness) -> Micros:
    """Time until the next dial after so many failures in a row: doubled each time, capped, jittered upwards."""
    doublings = min(max(failures - 1, 0), 40)
    base = min(settings.backoff_first_us << doublings, settings.backoff_cap_us)
    return int(base * (1.0 + JITTER * rng.random()))


class DiallerOwner(Protocol):
    """The link a connection belongs to."""

    def dialler_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None: ...
    def dialler_writable(self, connection: Connection) -> None: ...
    def dialler_lost(self, dialler: Dialler, connection: Connection, reason: str) -> None: ...
    def dialler_failed(
        self, dialler: Dialler, failure: ConnectionFailure, reason: str, retry_in_us: Micros
    ) -> None: ...


class Dialler:
    """One connection to one site on one lane, wanted or not."""

    def __init__(
        self,
        wiring: Wiring,
        key: SiteKey,
        server_key: bytes,
        lane: Lane,
        greet: Callable[[Lane], Greeting],
        owner: DiallerOwner,
    ) -> None:
        self.lane = lane
        self.phase = LinkPhase.IDLE
        self.since_us: Micros = wiring.clock()
        self.address = ""
        self.failures = 0
        self.next_dial_us: Micros | None = None
        self.last_error = ""
        self.detail = ""
        """What the text of the coming failure should mention."""
        self._wiring = wiring
        self._key = key
        self._server_key = server_key
        self._greet = greet
        self._owner = owner
        self._addresses: tuple[str, ...] = ()
        self._attempt = 0
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lookup: asyncio.Task[None] | None = None
        """A look-up of a name, or the way through the proxy that is being made."""
        self._tunnel: Tunnel | None = None

    @property
    def reached(self) -> str:
        """The address that led to the site: numeric, unless a proxy looks up the names."""
        if self._connection is None or self._wiring.settings.proxy:
            return self.address
        return self._connection.numeric_address

    @property
    def connection(self) -> Connection | None:
        """The connection if it is usable."""
        return self._connection if self._connection is not None and self._connection.up else None

    @property
    def shown_phase(self) -> LinkPhase:
        """The phase as an operator sees it: once TCP stands, connecting is handshaking."""
        if self.phase is LinkPhase.CONNECTING and self._connection is not None and self._connection.connected:
            return LinkPhase.HANDSHAKING
        return self.phase

    # -- wishes ----------------------------------------------------------------------------------

    def want(self, addresses: tuple[str, ...]) -> None:
        """Have a connection to one of `addresses`.

        One that works is kept, whatever its address. New addresses end the pause after failures, and an attempt at an
        address that is not among them.
        """
        changed = addresses != self._addresses
        self._addresses = addresses
        outdated = self.phase is LinkPhase.CONNECTING and self.address not in addresses
        if self.phase is LinkPhase.IDLE or (changed and (outdated or self._pausing())):
            self._dial()

    def encourage(self) -> None:
        """The site was just heard from: it is worth trying now, unless it needs its operator first."""
        waited = self._wiring.clock() - self.since_us
        if self.phase is LinkPhase.WAITING and waited >= self._wiring.settings.backoff_first_us:
            self._dial()

    def hang_up(self, linger_ms: int = 0) -> Connection | None:
        """Have no connection. Returns the one that was closed if it was usable."""
        self._addresses = ()
        was = self.connection
        self._stop_attempt(linger_ms)
        self._set(LinkPhase.IDLE)
        self.failures = 0
        return was

    def _pausing(self) -> bool:
        return self.phase in (LinkPhase.WAITING, LinkPhase.REFUSED)

    # -- one attempt -----------------------------------------------------------------------------

    def _dial(self) -> None:
        self._stop_attempt()
        self.address = self._addresses[self._attempt % len(self._addresses)]
        self._attempt += 1
        self.detail = ""
        self._set(LinkPhase.CONNECTING)
        try:
            address = parse_address(self.address)
        except LocalError as error:
            self._failed(ConnectionFailure.LOCAL, str(error))
            return
        if self._wiring.settings.proxy:
            self._lookup = self._wiring.loop.create_task(self._go_round(address), name=f"proxy to {address.host}")
        elif _numeric(address.host):
            self._connect(address)
        else:
            self._lookup = self._wiring.loop.create_task(self._resolve(address), name=f"resolve {address.host}")

    async def _go_round(self, address: Address) -> None:
        """Through the proxy."""
        proxy, patience_us = self._wiring.settings.proxy, self._wiring.settings.dial_timeout_us
        try:
            async with asyncio.timeout(patience_us / SECOND):
                self._tunnel = await open_tunnel(proxy, address)
        except (ProxyError, TimeoutError) as error:
            self._lookup = None
            self._failed(ConnectionFailure.PROXY, str(error) or f"{proxy}: no answer within {patience_us // SECOND} s")
            return
        self._lookup = None
        self._connect(self._tunnel.address)

    async def _resolve(self, address: Address) -> None:
        try:
            async with asyncio.timeout(self._wiring.settings.dial_timeout_us / SECOND):
                found = await self._wiring.loop.getaddrinfo(
                    address.host, address.port, type=sockets.SOCK_STREAM, proto=sockets.IPPROTO_TCP
                )
        except (OSError, UnicodeError, TimeoutError) as error:
            self._lookup = None
            self._failed(ConnectionFailure.NO_NAME, str(error) or "no answer from the name server")
            return
        self._lookup = None
        hosts = [str(entry[4][0]) for entry in found[:NAMES_MAX]]
        turn = (self._attempt - 1) // len(self._addresses)
        self._connect(Address(hosts[turn % len(hosts)], address.port))

    def _connect(self, address: Address) -> None:
        try:
            self._connection = Connection(
                self._wiring, self._key, self._server_key, self._greet(self.lane), str(address), self
            )
        except zmq.ZMQError as error:
            self._failed(ConnectionFailure.LOCAL, error.strerror or str(error))
        except Exception as error:  # a defect of ours must not end the dialling
            self._wiring.fault("dialler", error)
            self._failed(ConnectionFailure.LOCAL, str(error))

    def welcomed(self, connection: Connection) -> bool:
        """The peer welcomed this connection. False when it is not ours any more."""
        if connection is not self._connection:
            return False
        connection.welcomed()
        self._set(LinkPhase.UP)
        return True

    # -- what the connection tells ---------------------------------------------------------------

    def connection_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None:
        """See `ConnectionOwner`."""
        self._owner.dialler_parts(connection, parts, overflow)

    def connection_writable(self, connection: Connection) -> None:
        """See `ConnectionOwner`."""
        self._owner.dialler_writable(connection)

    def connection_ended(self, connection: Connection, failure: ConnectionFailure) -> None:
        """See `ConnectionOwner`."""
        if connection is self._connection:
            self._connection_gone(failure)

    def _connection_gone(self, failure: ConnectionFailure) -> None:
        connection = self._connection
        was_up = self.phase is LinkPhase.UP
        self._connection = None
        if connection is None or not was_up:
            self._failed(failure, self.detail)
            return
        now = self._wiring.clock()
        silent_us = now - connection.heard_us
        reason = self._explain(failure, self.detail, silent_us)
        if now - self.since_us >= self._wiring.settings.stable_after_us:
            self.failures = 0
        self._wait(failure, reason)
        self._owner.dialler_lost(self, connection, reason)

    def _failed(self, failure: ConnectionFailure, detail: str) -> None:
        reason = self._explain(failure, detail, 0)
        retry_in_us = self._wait(failure, reason)
        self._owner.dialler_failed(self, failure, reason, retry_in_us)

    def _wait(self, failure: ConnectionFailure, reason: str) -> Micros:
        self.last_error = reason
        self.failures += 1
        self._set(LinkPhase.REFUSED if failure in NEEDS_OPERATOR else LinkPhase.WAITING)
        retry_in_us = pause(self.failures, self._wiring.settings, self._wiring.rng)
        self.next_dial_us = self._wiring.clock() + retry_in_us
        self._timer = self._wiring.later(retry_in_us, "dialler", self._dial)
        return retry_in_us

    def _explain(self, failure: ConnectionFailure, detail: str, silent_us: Micros) -> str:
        return explain(failure, self._key, self.address, self._wiring.own_key, silent_us, detail)

    def _set(self, phase: LinkPhase) -> None:
        self.phase = phase
        self.since_us = self._wiring.clock()
        self.next_dial_us = None

    def _stop_attempt(self, linger_ms: int = 0) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lookup is not None:
            self._lookup.cancel()
            self._lookup = None
        if self._connection is not None:
            self._connection.close(linger_ms)
            self._connection = None

    async def close(self, linger_ms: int) -> None:
        """Hang up and wait for a name look-up to end."""
        lookup = self._lookup
        self.hang_up(linger_ms)
        if lookup is not None:
            await asyncio.wait([lookup])
        if self._tunnel is not None:
            await self._tunnel.close(linger_ms / 1000)


def _numeric(host: str) -> bool:
    try:
        sockets.getaddrinfo(host, None, flags=sockets.AI_NUMERICHOST)
    except OSError:
        return False
    return True
