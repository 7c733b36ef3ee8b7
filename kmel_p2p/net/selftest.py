"""Proof, at every start, that a stranger is refused.

CURVE without a working ZAP handler admits any key, silently. So each start dials its own port with a throw-away key
and goes on only when that key was turned away.
"""

from __future__ import annotations

import asyncio

import nacl.bindings
import zmq

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Lane
from kmel_p2p.net.address import Address, parse_address
from kmel_p2p.net.connection import Connection
from kmel_p2p.net.explain import Loss
from kmel_p2p.net.frames import SESSION_BYTES, Greeting
from kmel_p2p.net.sockets import CurveKeys
from kmel_p2p.net.wiring import Wiring


class _Stranger:
    """Dials once and remembers what came of it."""

    def __init__(self, outcome: asyncio.Future[Loss | None]) -> None:
        self._outcome = outcome

    def connection_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None:
        """Anything received means that we were let in."""
        self._settle(None)

    def connection_writable(self, connection: Connection) -> None:
        """Never: only a welcomed connection is writable."""
        self._settle(None)

    def connection_ended(self, connection: Connection, loss: Loss) -> None:
        """The expected end, unless it came after we had been let in."""
        self._settle(None if connection.authenticated else loss)

    def _settle(self, loss: Loss | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(loss)


def stranger_keys(wiring: Wiring) -> CurveKeys:
    """A key pair that no roster lists."""
    public, secret = nacl.bindings.crypto_box_seed_keypair(wiring.entropy(32))
    return CurveKeys(public, secret)


async def prove_strangers_are_refused(wiring: Wiring, stranger: CurveKeys, bound: str) -> None:
    """Dial ourselves with a key outside the roster.

    Args:
        wiring: of the transport that was bound.
        stranger: the throw-away pair.
        bound: address it listens on.

    Raises:
        ConfigError: the key was let in, or the refusal never came; this peer must not run.
    """
    outcome: asyncio.Future[Loss | None] = wiring.loop.create_future()
    greeting = Greeting(Lane.CONTROL, bytes(8), 0, bytes(SESSION_BYTES), 0)
    as_stranger = Wiring(
        wiring.loop,
        wiring.context,
        SiteKey(stranger.public),
        stranger,
        wiring.settings,
        wiring.clock,
        wiring.rng,
        wiring.entropy,
        wiring.fault,
    )
    target = str(_reachable(parse_address(bound, bindable=True)))
    connection = Connection(as_stranger, wiring.own_key, wiring.keys.public, greeting, target, _Stranger(outcome))
    try:
        async with asyncio.timeout(wiring.settings.dial_timeout / SECOND):
            loss = await outcome
    except TimeoutError:
        loss = Loss.NO_ANSWER
    finally:
        connection.close()
    if loss is None:
        raise ConfigError(
            f"self-test failed: a key outside the roster was let in at {bound}; this peer does not start. "
            "The ZeroMQ library does not enforce authentication here; reinstall pyzmq from its wheel"
        )
    if loss is not Loss.NOT_ADMITTED:
        raise ConfigError(
            f"self-test failed: dialling our own port at {target} ended with {loss.value!r} instead of a refusal; "
            "this peer does not start. If a local firewall blocks that address, allow it for this program"
        )


def _reachable(bound: Address) -> Address:
    """Where this machine reaches what it bound."""
    if not bound.wildcard:
        return bound
    return Address("::1" if bound.host == "::" else "127.0.0.1", bound.port)
