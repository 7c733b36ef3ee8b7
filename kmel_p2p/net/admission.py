"""Who may connect: the roster as CURVE keys, the gate that asks it, who was turned away, and the proof of all that.

ZeroMQ asks the gate (our side of ZAP, RFC 27) once per connection, before any message passes. The answer depends on
the roster alone. Whatever happens in here, the gate goes on answering: one that stopped would leave this peer deaf
without anybody noticing. If the event loop is too busy to answer, nobody gets in; it fails closed.

CURVE without a working ZAP handler admits any key, silently. So each start dials its own port with a throw-away key
and goes on only when that key was turned away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import nacl.bindings
import zmq

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import KEY_BYTES, SiteKey, curve_public
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from kmel_p2p.net.address import Address, parse_address
from kmel_p2p.net.connection import Connection
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.frames import SESSION_BYTES, Greeting
from kmel_p2p.net.link_events import StrangerRefused
from kmel_p2p.net.sockets import NOWAIT, READABLE, ZAP_DOMAIN, CurveKeys, Pump, readiness
from kmel_p2p.net.wiring import Wiring

STRANGERS_MAX = 256
"""Strangers remembered; beyond it the one seen longest ago is forgotten."""

REPORT_EVERY = 60 * SECOND
"""One stranger is told about this often."""

REPORTS_PER_MINUTE = 20
"""All strangers together are told about this often; the rest are only counted."""

CUT_TOLD_WITHIN = 5 * SECOND
"""So long after a cut at most ZeroMQ tells that the handshake broke off."""

CUTS_MAX = 4096
"""Cuts remembered that were not told yet."""

REREAD_EVERY = 10 * MILLISECOND
"""A stranger makes us look at the roster again at most this often."""


class AdmittedSites:
    """The sites admitted now: the roster without blocked ones. A change of either needs no restart."""

    def __init__(
        self,
        source: Callable[[], Collection[SiteKey]],
        own_key: SiteKey,
        clock: Callable[[], Micros],
        blocked: Callable[[], Collection[SiteKey]] = tuple,
    ) -> None:
        self._source = source
        self._blocked = blocked
        self._blocked_curves: dict[SiteKey, bytes] = {}
        self._own_key = own_key
        self._clock = clock
        self._curve_of: dict[SiteKey, bytes] = {}
        self._site_of: dict[bytes, SiteKey] = {}
        self._revoked: set[SiteKey] = set()
        self._read_us: Micros | None = None
        self.invalid: set[SiteKey] = set()
        """Roster keys that are not points of the curve: nobody can hold them."""

    def refresh(self) -> list[SiteKey]:
        """Read the roster again. Returns the sites that are not in it any more."""
        self._read_us = self._clock()
        listed, blocked = set(self._source()) - {self._own_key}, set(self._blocked())
        wanted = listed - blocked
        self._blocked_curves = {key: self._curve_of_blocked(key) for key in listed & blocked}
        self._revoked &= wanted  # a revocation is void once the roster agrees
        wanted -= self._revoked
        gone = [key for key in self._curve_of if key not in wanted]
        for key in gone:
            del self._site_of[self._curve_of.pop(key)]
        for key in sorted(wanted - self._curve_of.keys() - self.invalid):
            try:
                curve = curve_public(key)
            except LocalError:
                self.invalid.add(key)
                continue
            self._curve_of[key] = curve
            self._site_of[curve] = key
        return gone

    def revoke(self, key: SiteKey) -> None:
        """Refuse a site at once, before the roster that says so is in force."""
        self._revoked.add(key)
        curve = self._curve_of.pop(key, None)
        if curve is not None:
            del self._site_of[curve]

    def is_blocked(self, curve_key: bytes) -> bool:
        """Whether this is the CURVE key of a site that the operator has blocked."""
        return curve_key in self._blocked_curves.values()

    def _curve_of_blocked(self, key: SiteKey) -> bytes:
        known = self._blocked_curves.get(key) or self._curve_of.get(key)
        if known is not None:
            return known
        try:
            return curve_public(key)
        except LocalError:
            return b""

    def __contains__(self, key: object) -> bool:
        return key in self._curve_of

    def curve(self, key: SiteKey) -> bytes | None:
        """The CURVE key of an admitted site."""
        return self._curve_of.get(key)

    def site(self, curve_key: bytes) -> SiteKey | None:
        """The admitted site with this CURVE key; the roster is read again for one not known yet."""
        known = self._site_of.get(curve_key)
        if known is None and (self._read_us is None or self._clock() - self._read_us >= REREAD_EVERY):
            self.refresh()
            known = self._site_of.get(curve_key)
        return known


@dataclass(slots=True)
class _Stranger:
    address: str
    attempts: int
    told_us: Micros | None


class Strangers:
    """Counts refused connections, each once, and reports each stranger once a minute however often it tries."""

    def __init__(self, tell: Callable[[StrangerRefused], None], clock: Callable[[], Micros]) -> None:
        self._tell = tell
        self._clock = clock
        self._seen: OrderedDict[str, _Stranger] = OrderedDict()
        self._cut_us: deque[Micros] = deque(maxlen=CUTS_MAX)
        """When connections were cut whose broken handshake has not been told yet."""
        self._minute_began_us: Micros = clock()
        self._told_this_minute = 0
        self.refused = 0

    def cut(self, address: str, explanation: str) -> None:
        """We ended a connection before it said who it is. That its handshake broke off will be told, too."""
        self._cut_us.append(self._clock())
        self.note(address, "", explanation)

    def broke_off(self) -> None:
        """A handshake ended before a key was seen."""
        now = self._clock()
        while self._cut_us and now - self._cut_us[0] > CUT_TOLD_WITHIN:
            self._cut_us.popleft()
        if self._cut_us:
            self._cut_us.popleft()  # counted when it was cut
            return
        self.note(
            "",
            "",
            "a connection to our port broke off in the handshake: a port scanner, a program without CURVE, or a site "
            "that has a wrong key for us",
        )

    def note(self, address: str, curve_key: str, explanation: str) -> None:
        """A connection was refused. `curve_key` is empty when none was shown."""
        self.refused += 1
        now = self._clock()
        who = curve_key or address
        stranger = self._seen.pop(who, None) or _Stranger(address, 0, None)
        self._seen[who] = stranger
        while len(self._seen) > STRANGERS_MAX:
            self._seen.popitem(last=False)
        stranger.attempts += 1
        stranger.address = address
        if stranger.told_us is not None and now - stranger.told_us < REPORT_EVERY:
            return
        if now - self._minute_began_us >= 60 * SECOND:
            self._minute_began_us, self._told_this_minute = now, 0
        if self._told_this_minute < REPORTS_PER_MINUTE:
            self._told_this_minute += 1
            self._tell(StrangerRefused(address, curve_key, stranger.attempts, explanation))
            stranger.told_us = now
            stranger.attempts = 0


ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
ZAP_PARTS = 9
"""Routing id, empty frame, version, request id, domain, address, identity, mechanism, one credential."""

ZAP_PARTS_MAX = 32
TURN_REQUESTS = 64
"""Requests answered before the rest of the loop has its chance; each takes microseconds."""


class Gate:
    """Answers ZAP requests of one context.

    Args:
        context: the one whose server sockets are guarded.
        loop: answers are given on it.
        decide: the User-Id for a CURVE key asking from an address, or None to refuse.
        on_fault: told of every exception; the gate goes on.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        decide: Callable[[bytes, str], str | None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._context = context
        self._loop = loop
        self._decide = decide
        self._on_fault = on_fault
        self.restarts = 0
        self._open()

    def _open(self) -> None:
        # A ROUTER instead of the usual REP: no lock-step that one failed answer could leave in the wrong state.
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ADDRESS)
        self._pump = Pump(self._loop, self._socket, self._turn, self._on_fault)

    def _turn(self) -> bool:
        for _ in range(TURN_REQUESTS):
            try:
                if not readiness(self._socket) & READABLE:
                    return False
                request = self._socket.recv_multipart(NOWAIT)
            except zmq.ZMQError as error:
                self._restart(error)
                return False
            answer = self._answer(request)
            if answer is not None:
                try:
                    self._socket.send_multipart(answer, NOWAIT)
                except zmq.ZMQError as error:  # the connection that asked is gone
                    self._on_fault(error)
        return True

    def _answer(self, request: list[bytes]) -> list[bytes] | None:
        """The reply to one request; a refusal whenever anything is odd. None when there is nobody to answer."""
        if not 4 <= len(request) <= ZAP_PARTS_MAX:
            return None
        user_id: str | None = None
        try:
            if len(request) == ZAP_PARTS and self._well_formed(request):
                address = request[5].decode("ascii", "replace")
                user_id = self._decide(request[8], address)
        except Exception as error:
            self._on_fault(error)
        status, text = (b"200", b"OK") if user_id else (b"400", b"not in the roster")
        return [request[0], b"", ZAP_VERSION, request[3], status, text, (user_id or "").encode(), b""]

    @staticmethod
    def _well_formed(request: list[bytes]) -> bool:
        return (
            request[2] == ZAP_VERSION
            and request[4] == ZAP_DOMAIN
            and request[7] == b"CURVE"
            and len(request[8]) == KEY_BYTES
        )

    def _restart(self, error: zmq.ZMQError) -> None:
        """Replace a socket that cannot be read any more."""
        self._on_fault(error)
        self.close()
        if error.errno != zmq.ETERM:
            self.restarts += 1
            self._open()

    def poke(self) -> None:
        """Look for requests even if no edge was seen."""
        self._pump.nudge()

    def close(self) -> None:
        """Stop answering: from now on every connection is refused."""
        self._pump.close()
        self._socket.close(0)


class _SelfTestDial:
    """Dials once and remembers what came of it."""

    def __init__(self, outcome: asyncio.Future[ConnectionFailure | None]) -> None:
        self._outcome = outcome

    def connection_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None:
        """Anything received means that we were let in."""
        self._settle(None)

    def connection_writable(self, connection: Connection) -> None:
        """Never: only a welcomed connection is writable."""
        self._settle(None)

    def connection_ended(self, connection: Connection, failure: ConnectionFailure) -> None:
        """The expected end, unless it came after we had been let in."""
        self._settle(None if connection.authenticated else failure)

    def _settle(self, failure: ConnectionFailure | None) -> None:
        if not self._outcome.done():
            self._outcome.set_result(failure)


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
    outcome: asyncio.Future[ConnectionFailure | None] = wiring.loop.create_future()
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
    connection = Connection(as_stranger, wiring.own_key, wiring.keys.public, greeting, target, _SelfTestDial(outcome))
    try:
        async with asyncio.timeout(wiring.settings.dial_timeout_us / SECOND):
            failure = await outcome
    except TimeoutError:
        failure = ConnectionFailure.NO_ANSWER
    finally:
        connection.close()
    if failure is None:
        raise ConfigError(
            f"self-test failed: a key outside the roster was let in at {bound}; this peer does not start. "
            "The ZeroMQ library does not enforce authentication here; reinstall pyzmq from its wheel"
        )
    if failure is not ConnectionFailure.NOT_ADMITTED:
        raise ConfigError(
            f"self-test failed: dialling our own port at {target} ended with {failure.value!r} instead of a refusal; "
            "this peer does not start. If a local firewall blocks that address, allow it for this program"
        )


def _reachable(bound: Address) -> Address:
    """Where this machine reaches what it bound."""
    if not bound.wildcard:
        return bound
    return Address("::1" if bound.host == "::" else "127.0.0.1", bound.port)
