"""The transport of one site: one port, links to the other sites, and the gate that decides who gets in.

Guarantees: `on_message` gets nothing but whole messages from roster sites, with the key CURVE authenticated; `send`
never blocks; nothing a remote peer does raises here. Not guaranteed: that a message arrives, or arrives once.
Everything runs on one event loop, and every callback is called on it.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import zmq

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros, Randomness
from kmel_p2p.net.admission import AdmittedSites, Gate, Strangers, prove_strangers_are_refused, stranger_keys
from kmel_p2p.net.desk import DESK_USER, Desk
from kmel_p2p.net.frames import BOOT_BYTES
from kmel_p2p.net.inbox import Budget
from kmel_p2p.net.link import Link
from kmel_p2p.net.link_events import Egress, LinkEvent, LinkFault, LinkState, PeerMisbehaved, Throttle
from kmel_p2p.net.port import InboundRoute, Port
from kmel_p2p.net.settings import CONTROL_BYTES_MAX, TransportSettings
from kmel_p2p.net.sockets import CurveKeys, make_context
from kmel_p2p.net.wiring import Wiring

TICK_MAX = 250 * MILLISECOND
"""Longest time between two looks at clocks; a roster change cuts sessions within it."""

NOT_ADMITTED = "the site is blocked here, or not in the roster any more"

CLOSE_MAX_MS = 1_500
"""Longest linger at the end."""


class Transport:
    """Encrypted, authenticated messages between this site and the others of its roster.

    Args:
        identity: ours.
        roster: the keys admitted now, read again at every tick; our own key in it is ignored.
        bind: address to listen on, port 0 for any; empty for a peer that only dials out.
        settings: limits and times.
        on_message: sender, message, lane. Bulk messages come as read-only memory without a copy.
        on_link: what happens to links.
        clock: monotonic microseconds.
        rng: jitter of the pauses between dials.
        on_egress: told of each message before its first byte leaves, and asked whether it may: while the answer is
            no, a bulk message waits and a control message is not sent. Hashing costs a pass over each message.
        blocked: sites of the roster that are not admitted all the same, because the operator says so.
        entropy: unguessable bytes.
        desk: takes the guests that it admits; they reach nothing else.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Callable[[], Collection[SiteKey]],
        bind: str,
        *,
        settings: TransportSettings,
        on_message: Callable[[SiteKey, bytes | memoryview, Lane], None],
        on_link: Callable[[LinkEvent], None],
        clock: Callable[[], Micros],
        rng: Randomness,
        on_egress: Callable[[Egress], bool] | None = None,
        blocked: Callable[[], Collection[SiteKey]] = tuple,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        desk: Desk | None = None,
    ) -> None:
        self._identity = identity
        self._bind = bind
        self._settings = settings
        self._on_message = on_message
        self._on_link = on_link
        self._on_egress = on_egress
        self._clock = clock
        self._rng = rng
        self._entropy = entropy
        self._desk = desk
        self._roster = AdmittedSites(roster, identity.key, clock, blocked)
        self._strangers = Strangers(self.tell, clock)
        self._links: dict[SiteKey, Link] = {}
        self._budget = Budget(settings.reassembly)
        self._boot = entropy(BOOT_BYTES)
        self._dials = itertools.count(1)
        self._ids = self._message_ids()
        self._wiring: Wiring | None = None
        self._closed = False
        self._wishes: dict[SiteKey, tuple[str, ...]] = {}
        self._port: Port | None = None
        self._gate: Gate | None = None
        self._self_test_key = b""
        self._ticker: asyncio.TimerHandle | None = None
        self._ticked_us: Micros = 0
        self._dropping: set[asyncio.Task[None]] = set()
        self._throttle = Throttle()
        self.faults = 0
        """Defects of ours that were caught."""

    def _message_ids(self) -> Iterator[bytes]:
        for number in itertools.count(1):
            yield self._boot + number.to_bytes(8, "big")

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Bind, prove that strangers are refused, and begin.

        Returns:
            The bound address with its port; empty for a peer that only dials out.

        Raises:
            ConfigError: the address cannot be bound, or the self-test failed. Nothing is left open.
            LocalError: it was started before.
        """
        if self._wiring is not None or self._closed:
            raise LocalError("the transport was started before")
        loop = asyncio.get_running_loop()
        context = make_context(self._settings)
        keys = CurveKeys(*self._identity.curve_pair())
        own, settings = self._identity.key, self._settings
        wiring = Wiring(loop, context, own, keys, settings, self._clock, self._rng, self._entropy, self._fault)
        self._wiring = wiring
        self._roster.refresh()
        try:
            bound = await self._listen(wiring) if self._bind else ""
        except BaseException:
            await self.close(0)
            raise
        wishes, self._wishes = self._wishes, {}
        for key, addresses in wishes.items():
            self._guarded(functools.partial(self.dial, key, addresses))
        self._ticked_us = self._clock()
        self._ticker = loop.call_later(self._tick_period() / SECOND, self._tick)
        return bound

    async def _listen(self, wiring: Wiring) -> str:
        self._gate = Gate(wiring.context, wiring.loop, self._decide, lambda error: self._fault("gate", error))
        self._port = Port(wiring, self._received, self._strange_handshake, self._disconnected, self._cut)
        bound = self._port.bind(self._bind)
        stranger = stranger_keys(wiring)
        self._self_test_key = stranger.public
        await prove_strangers_are_refused(wiring, stranger, bound)
        self._self_test_key = b""
        return bound

    async def close(self, linger_ms: int = 0) -> None:
        """End everything: unsent bulk messages fail, links go down without events.

        Args:
            linger_ms: how long control messages already handed over may take to leave; at most 1.5 s.
        """
        self._closed = True
        wiring, self._wiring = self._wiring, None
        if wiring is None:
            return
        if self._ticker is not None:
            self._ticker.cancel()
        linger = min(max(linger_ms, 0), CLOSE_MAX_MS)
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.close("this peer is shutting down", linger)
        if self._dropping:
            await asyncio.wait(self._dropping)
        if self._port is not None:
            self._port.close(linger)
        if self._gate is not None:
            self._gate.close()
        # Terminating waits for lingering messages: beside the loop, whose other work goes on.
        ended = asyncio.ensure_future(asyncio.to_thread(wiring.context.term))
        await asyncio.wait({ended}, timeout=CLOSE_MAX_MS / 1000 + 0.3)

    # -- requests --------------------------------------------------------------------------------

    def dial(self, to: SiteKey, addresses: tuple[str, ...]) -> None:
        """Keep connections to `to` at one of `addresses`, for ever. Without addresses: do nothing, it may dial us.

        Before the start the wish is kept until then; after the end nothing happens.

        Raises:
            LocalError: the site is not in the roster, or is ourselves.
        """
        if not addresses or self._closed:
            return
        if self._wiring is None:
            self._wishes[to] = addresses
        else:
            self._link(to).dial(addresses)

    def hangup(self, to: SiteKey, reason: str) -> None:
        """Close every connection with `to`, read nothing more of what came over them, and dial no more."""
        link = self._links.get(to)
        if link is not None:
            link.cut(reason)

    def send(self, to: SiteKey, data: bytes, lane: Lane, *, label: str = "", digest: bytes | None = None) -> bool:
        """Hand over a message. Never blocks.

        Args:
            to: a roster site.
            data: the message; immutable, because it is sent without a copy.
            lane: control messages go now or not at all, bulk messages are queued.
            label: what it is, for the egress audit.
            digest: BLAKE2b-256 of `data` if the caller has it already.

        Returns:
            False when there is no link or the queue is full (counted).

        Raises:
            LocalError: not bytes, empty, or larger than the lane allows.
        """
        if type(data) is not bytes:
            raise LocalError(
                f"a message must be bytes, which cannot change while they leave, not {type(data).__name__}"
            )
        limit = CONTROL_BYTES_MAX if lane is Lane.CONTROL else self._settings.max_message
        if not 0 < len(data) <= limit:
            raise LocalError(f"a {lane.value} message has 1 to {limit} bytes, not {len(data)}")
        link = self._links.get(to)
        if link is None:
            return False
        try:
            sent = (link.send_control if lane is Lane.CONTROL else link.send_bulk)(data, label, digest)
        except Exception as error:
            self._fault("send", error)
            sent = False
        if not sent:
            link.traffic.refused_sends[lane] += 1
        return sent

    def links(self) -> Mapping[SiteKey, LinkState]:
        """The state of the link to each site that was dialled or heard from."""
        return {key: link.state() for key, link in self._links.items()}

    @property
    def strangers_refused(self) -> int:
        """Connections turned away since the start."""
        return self._strangers.refused

    def revoke(self, key: SiteKey) -> None:
        """Refuse a site from now on and cut its connections at once."""
        self._roster.revoke(key)
        self._drop(key)

    def _drop(self, key: SiteKey) -> None:
        link = self._links.pop(key, None)
        if link is None or self._wiring is None:
            return
        link.cut(NOT_ADMITTED)
        task = self._wiring.loop.create_task(link.close(NOT_ADMITTED, 0), name="drop link")
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    def _link(self, key: SiteKey) -> Link:
        link = self._links.get(key)
        if link is not None:
            return link
        if self._wiring is None:
            raise LocalError("the transport is not running")
        curve = self._roster.curve(key)
        if curve is None:
            self._roster.refresh()
            curve = self._roster.curve(key)
        if curve is None:
            raise LocalError(f"site {key.hex()} is not in the roster")
        link = self._links[key] = Link(
            self._wiring,
            self,
            key,
            curve,
            self._boot,
            self._dials,
            self._ids,
            self._budget,
            audited=self._on_egress is not None,
        )
        return link

    # -- what comes in ---------------------------------------------------------------------------

    def _decide(self, curve_key: bytes, address: str) -> str | None:
        site = self._roster.site(curve_key)
        if site is not None:
            if self._port is not None:
                self._port.admitted(address.removeprefix("::ffff:"), site.hex())
            return site.hex()
        if self._desk is not None and (guest := self._desk.admits(curve_key)) is not None:
            return guest
        if self._roster.is_blocked(curve_key):
            self._strangers.refused += 1  # the operator knows; telling it once a minute would bury what is new
        elif curve_key != self._self_test_key:
            self._strangers.note(
                address.removeprefix("::ffff:"),
                curve_key.hex(),
                "its key is not in the roster; if it should be, amend the charter",
            )
        return None

    def _strange_handshake(self) -> None:
        if not self._self_test_key:
            self._strangers.broke_off()

    def _received(self, user_id: str, route: InboundRoute, parts: list[zmq.Frame], overflow: bool) -> None:
        if self._desk is not None and user_id.startswith(DESK_USER):
            self._desk.receive(user_id, route, parts, overflow)
            return
        key = SiteKey(bytes.fromhex(user_id))
        if key not in self._roster:
            route.cut()  # admitted once, not any more
            return
        self._link(key).receive(route, parts, overflow)

    def _disconnected(self, descriptor: int) -> None:
        for link in list(self._links.values()):
            link.doubt(descriptor)

    def _cut(self, host: str, site: str, reason: str) -> None:
        if not site or site.startswith(DESK_USER):
            self._strangers.cut(host, reason)
            return
        key = SiteKey(bytes.fromhex(site))
        if key in self._links:
            self._links[key].traffic.misbehaviour += 1
        if self._throttle.passes((key, reason), self._clock()):
            self.tell(PeerMisbehaved(key, reason, cut=True))

    # -- what links tell (LinkHost) --------------------------------------------------------------

    def deliver(self, key: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        """Hand a message up; whatever happens there, the transport goes on."""
        try:
            self._on_message(key, data, lane)
        except Exception as error:
            self._fault("on_message", error)

    def tell(self, event: LinkEvent) -> None:
        """Tell an event; whatever happens there, the transport goes on."""
        if self._wiring is None:
            return
        try:
            self._on_link(event)
        except Exception as error:
            if isinstance(event, LinkFault):
                self.faults += 1
            else:
                self._fault("on_link", error)

    def egress(self, record: Egress) -> bool:
        """Whether a message may leave, by the audit: nothing leaves without a record. An exception from it means no."""
        return self._on_egress is None or self._on_egress(record)

    def _fault(self, where: str, error: BaseException) -> None:
        self.faults += 1
        if self._throttle.passes((where, type(error)), self._clock()):
            self.tell(LinkFault(where, error))

    # -- time ------------------------------------------------------------------------------------

    def _tick_period(self) -> Micros:
        shortest = min(self._settings.keepalive_us, self._settings.silence_us, self._settings.stall_us)
        return max(10 * MILLISECOND, min(TICK_MAX, shortest // 4))

    def _tick(self) -> None:
        wiring = self._wiring
        if wiring is None:
            return
        self._ticker = wiring.loop.call_later(self._tick_period() / SECOND, self._tick)
        now = self._clock()
        overslept = now - self._ticked_us > self._settings.silence_us // 2
        self._ticked_us = now
        self._guarded(self._check_roster)
        for link in list(self._links.values()):
            if overslept:
                link.routes.forgive(now)
            self._guarded(link.routes.poke)
            self._guarded(functools.partial(link.tick, now))
        for part in (self._port, self._gate):
            if part is not None:
                self._guarded(part.poke)

    def _check_roster(self) -> None:
        for key in self._roster.refresh():
            self._drop(key)

    def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            self._fault("tick", error)
