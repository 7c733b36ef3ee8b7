"""Everything between this peer and one other: our two connections to it, its connections to us, and what they carry.

Whoever can be dialled is sent to over our own connections. Whoever cannot is answered over the connections it opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import zmq

from kmel_p2p.agreement.errors import ProtocolError, WireError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.effects import LinkDown, LinkUp, SendFailed
from kmel_p2p.core.types import SECOND, Lane, Micros
from kmel_p2p.net.bulk import Bulk
from kmel_p2p.net.bulk_health import BulkHealth
from kmel_p2p.net.connection import Connection
from kmel_p2p.net.connection_failure import NEEDS_OPERATOR, ConnectionFailure
from kmel_p2p.net.dialler import Dialler
from kmel_p2p.net.frames import (
    GREETING_BYTES,
    Chunk,
    Done,
    Frame,
    Grant,
    Greeting,
    HeldAnswer,
    HeldQuery,
    Hello,
    Keepalive,
    KeepaliveAnswer,
    Open,
    Payload,
    Refuse,
    VersionError,
    Welcome,
    encode,
    read,
)
from kmel_p2p.net.inbox import Budget
from kmel_p2p.net.link_events import (
    AuthRejected,
    DialFailed,
    Egress,
    LinkHost,
    LinkPhase,
    LinkState,
    PeerMisbehaved,
    Throttle,
    Traffic,
)
from kmel_p2p.net.outbox import BulkTransfer, TransferFailure
from kmel_p2p.net.port import InboundRoute
from kmel_p2p.net.routes import Routes
from kmel_p2p.net.wiring import Route, Wiring

MISBEHAVIOUR_PER_CUT = 32
"""A connection is cut at every so many messages that are not allowed; its owner has to dial again."""


class Link:
    """The state of one remote site. Satisfies `DiallerOwner` and `BulkHost`."""

    def __init__(
        self,
        wiring: Wiring,
        host: LinkHost,
        key: SiteKey,
        server_key: bytes,
        boot: bytes,
        dials: Iterator[int],
        ids: Iterator[bytes],
        budget: Budget,
        *,
        audited: bool,
    ) -> None:
        self.key = key
        self.traffic = Traffic()
        self.audited = audited
        self._wiring = wiring
        self._host = host
        self.routes = Routes(wiring, key, server_key, boot, dials, self)
        self.transfers = Bulk(wiring, self, budget, ids, audited=audited)
        self._throttle = Throttle()
        self._bulk_health = BulkHealth(key)
        self._control_seen: Route | None = None
        self._up = False
        self._round_trip_us: Micros | None = None
        self._heard_us: Micros | None = None
        self._open_asked_us: Micros | None = None

    # -- wishes ----------------------------------------------------------------------------------

    def dial(self, addresses: tuple[str, ...]) -> None:
        """Keep our own connections to one of `addresses`."""
        self.routes.control.want(addresses)

    def hang_up(self, reason: str) -> None:
        """Close our own connections; the site may still reach us over its own."""
        for dialler in (self.routes.control, self.routes.bulk):
            if (connection := dialler.hang_up()) is not None:
                self._session_over(connection.session)
        self._review(reason)

    def cut(self, reason: str) -> None:
        """Close every connection, the site's own too; what came over them and was not read yet never is."""
        for route in self.routes.inbound:
            route.cut()
            self.routes.inbound.remove(route)
            self.routes.inbound.read_no_more(route)
            self._session_over(route.session)
        self.hang_up(reason)

    async def close(self, reason: str, linger_ms: int) -> None:
        """Free all resources. `linger_ms`: how long control messages already handed over may take to leave."""
        await self.transfers.close(reason)
        await self.routes.close(linger_ms)

    # -- routes ----------------------------------------------------------------------------------

    def control_route(self) -> Route | None:
        """See `BulkHost`."""
        return self.routes.best(Lane.CONTROL)

    def bulk_route(self) -> Route | None:
        """See `BulkHost`."""
        return self.routes.best(Lane.BULK)

    def need_bulk(self) -> None:
        """Open our bulk connection where control got through; ask the site for its own where we cannot dial."""
        if self.routes.want_bulk():
            return
        now = self._wiring.clock()
        asked_us, again_us = self._open_asked_us, self._wiring.settings.backoff_first_us
        if (asked_us is None or now - asked_us >= again_us) and self.send_frame(Open()):
            self._open_asked_us = now

    def renew_bulk(self) -> None:
        """Replace a bulk connection that makes no progress."""
        if (route := self.routes.renew_bulk()) is not None:
            self._inbound_gone(route, "its bulk connection made no progress")

    def _session_over(self, session: bytes) -> None:
        self.routes.ended(session)
        self.transfers.session_ended(session)

    def _review(self, reason: str) -> None:
        """After any change of routes: tell whether the link is up, and where bulk goes now."""
        bulk = self.bulk_route()
        self.transfers.route_changed(bulk.session if bulk else None, self.routes.window(bulk) if bulk else 0)
        control = self.control_route()
        if control is not self._control_seen:
            self._control_seen = control
            self.transfers.control_changed()
        up = control is not None
        if up != self._up:
            self._up = up
            self._host.tell(LinkUp(self.key) if up else LinkDown(self.key, reason))

    # -- sending ---------------------------------------------------------------------------------

    def send_control(self, data: bytes, label: str, data_digest: bytes | None) -> bool:
        """Send a control message now, or not at all."""
        route = self.control_route()
        if route is None or (self.audited and isinstance(route, Connection) and not route.writable()):
            return False
        if self.audited:
            record = Egress(self.key, Lane.CONTROL, label, len(data), data_digest or digest(data))
            if not self._host.egress(record):
                return False
        if not self._send(route, encode(Payload(data))):
            return False
        self.traffic.messages_out[Lane.CONTROL] += 1
        return True

    def send_bulk(self, data: bytes, label: str, data_digest: bytes | None) -> bool:
        """Queue a bulk message."""
        return self._up and self.transfers.put(data, label, data_digest)

    def send_frame(self, frame: Frame) -> bool:
        """See `BulkHost`."""
        route = self.control_route()
        return route is not None and self._send(route, encode(frame))

    def send_chunk(self, route: Route, header: bytes, data: memoryview) -> bool:
        """See `BulkHost`."""
        return self._send(route, header, data)

    def _send(self, route: Route, header: bytes, data: memoryview | None = None) -> bool:
        if not route.send(header, data):
            if isinstance(route, InboundRoute) and route.gone:
                self._inbound_gone(route, "the site closed its connection")
            return False
        if data is None:
            self.traffic.bytes_out[Lane.CONTROL] += len(header)
        else:
            self.traffic.bytes_out[Lane.BULK] += len(header) + len(data)
        return True

    def doubt(self, descriptor: int) -> None:
        """A connection to our port ended: find out whether it was one of this site's."""
        self.routes.inbound.doubt(descriptor)
        self._probe_doubtful()

    def _probe_doubtful(self) -> None:
        # A ping over a connection that has ended is refused at once; over a living one it does no harm.
        for route in self.routes.inbound.doubtful():
            self._send(route, encode(Keepalive(0)))

    def _inbound_gone(self, route: InboundRoute, reason: str) -> None:
        if self.routes.inbound.remove(route):
            self._session_over(route.session)
            self._review(reason)

    # -- receiving -------------------------------------------------------------------------------

    def receive(self, route: Connection | InboundRoute, parts: list[zmq.Frame], overflow: bool) -> None:
        """Take one message from a connection authenticated as this site's. Never raises for what is in it."""
        if isinstance(route, InboundRoute) and self.routes.inbound.is_cut(route):
            return
        self.traffic.bytes_in[Lane.BULK if len(parts) > 1 else Lane.CONTROL] += sum(map(len, parts))
        try:
            if overflow:
                raise ProtocolError("a message of too many frames")
            frame, data = read(parts)
            self._heard_us = self._wiring.clock()
            self._handle(route, frame, data)
        except VersionError as error:
            self._other_version(route, error)
        except (WireError, ProtocolError) as error:
            self._misbehaved(route, str(error), cut=overflow)

    def _handle(self, route: Connection | InboundRoute, frame: Frame, data: memoryview | None) -> None:
        if isinstance(route, InboundRoute):
            route = self.routes.inbound.recognise(route)
        match frame:
            case Payload(message):
                self.traffic.messages_in[Lane.CONTROL] += 1
                self._host.deliver(self.key, message, Lane.CONTROL)
            case Chunk() if data is not None:
                self.transfers.chunk(frame, data)
            case Grant():
                self.transfers.granted(frame)
            case Done():
                self.transfers.done(frame)
            case HeldQuery():
                self.transfers.asked(frame)
            case HeldAnswer():
                self.transfers.have(frame)
            case Refuse():
                self.transfers.refused(frame)
            case Keepalive(token):
                self._send(route, encode(KeepaliveAnswer(token)))
            case KeepaliveAnswer(token):
                self._answered(route, token)
            case Hello(greeting) if isinstance(route, InboundRoute):
                self._hello(route, greeting)
            case Welcome(greeting) if isinstance(route, Connection):
                self._welcome(route, greeting)
            case Open():
                self.routes.want_bulk()
            case _:
                raise ProtocolError(f"{type(frame).__name__} in the wrong direction")

    def _hello(self, route: InboundRoute, greeting: Greeting) -> None:
        replaced = self.routes.inbound.get(greeting.lane)
        old_session = replaced.session if replaced is not None else None
        if not self.routes.inbound.greet(route, greeting):
            return
        if old_session is not None:
            self._session_over(old_session)
        self._greeted(greeting)
        self._send(route, encode(Welcome(self.routes.answer(greeting))))
        self.routes.control.encourage()
        self._review("")

    def _welcome(self, connection: Connection, greeting: Greeting) -> None:
        if greeting.session != connection.session or greeting.lane is not connection.lane:
            raise ProtocolError("a welcome for another connection")
        if connection.up or not self.routes.dialler(connection.lane).welcomed(connection):
            return
        self.traffic.bytes_out[Lane.CONTROL] += GREETING_BYTES  # of the hello the connection sent by itself
        self._greeted(greeting)
        self._review("")

    def _greeted(self, greeting: Greeting) -> None:
        self.routes.greeted(greeting)
        if greeting.lane is Lane.BULK:
            self.transfers.inbox.open(greeting.session)

    def _answered(self, route: Connection | InboundRoute, token: int) -> None:
        if isinstance(route, Connection) and route.ping_us == token:
            self._round_trip_us = self._wiring.clock() - token
            route.ping_us = None

    def _other_version(self, route: Connection | InboundRoute, error: VersionError) -> None:
        if isinstance(route, InboundRoute):
            self._misbehaved(route, str(error), cut=False)
            self._send(route, encode(Welcome(self.routes.refusal())))
        else:
            self.routes.dialler(route.lane).detail = str(error)
            route.end(ConnectionFailure.OTHER_VERSION)

    def _misbehaved(self, route: Connection | InboundRoute, reason: str, *, cut: bool) -> None:
        self.traffic.misbehaviour += 1
        cut = cut or self.traffic.misbehaviour % MISBEHAVIOUR_PER_CUT == 0
        if self._throttle.passes(cut, self._wiring.clock()):
            self._host.tell(PeerMisbehaved(self.key, reason, cut))
        if cut:
            if isinstance(route, Connection):
                self.routes.dialler(route.lane).detail = reason
            route.cut()

    # -- what the diallers tell ------------------------------------------------------------------

    def dialler_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None:
        """See `DiallerOwner`."""
        self.receive(connection, parts, overflow)

    def dialler_writable(self, connection: Connection) -> None:
        """See `DiallerOwner`."""
        if connection.lane is Lane.BULK:
            self.transfers.pump()

    def dialler_lost(self, dialler: Dialler, connection: Connection, reason: str) -> None:
        """See `DiallerOwner`."""
        self._session_over(connection.session)
        if dialler.lane is Lane.BULK and not self.transfers.outbox and self.routes.control.connection is not None:
            dialler.hang_up()  # no longer needed
        self._review(reason)

    def dialler_failed(self, dialler: Dialler, failure: ConnectionFailure, reason: str, retry_in_us: Micros) -> None:
        """See `DiallerOwner`."""
        if dialler.lane is Lane.BULK:
            return
        if failure in NEEDS_OPERATOR:
            self._host.tell(AuthRejected(self.key, dialler.address, reason))
        self._host.tell(DialFailed(self.key, dialler.address, reason, retry_in_us))

    # -- what the transfers tell -----------------------------------------------------------------

    def deliver(self, message: memoryview) -> None:
        """See `BulkHost`."""
        self.traffic.messages_in[Lane.BULK] += 1
        self._host.deliver(self.key, message, Lane.BULK)

    def may_leave(self, transfer: BulkTransfer, data_digest: bytes) -> bool:
        """See `BulkHost`."""
        return self._host.egress(Egress(self.key, Lane.BULK, transfer.label, len(transfer.data), data_digest))

    def transfer_done(self, transfer: BulkTransfer) -> None:
        """See `BulkHost`."""
        self.traffic.messages_out[Lane.BULK] += 1

    def transfer_failed(self, failure: TransferFailure) -> None:
        """See `BulkHost`."""
        self._host.tell(SendFailed(self.key, Lane.BULK, failure.transfer.label, failure.reason))

    # -- time ------------------------------------------------------------------------------------

    def tick(self, now: Micros) -> None:
        """Keepalive, notice silence, give up what does not move, close what is idle."""
        settings = self._wiring.settings
        self._probe_doubtful()
        control = self.routes.control.connection
        if control is not None:
            if now - control.heard_us >= settings.silence_us:
                control.end(ConnectionFailure.STUCK_PROGRAM)
            elif now - control.pinged_us >= settings.keepalive_us:
                control.ping_us = control.pinged_us = now
                self._send(control, encode(Keepalive(now)))
        for silent in self.routes.inbound.silent(now - settings.silence_us):
            self._inbound_gone(silent, f"nothing heard for {settings.silence_us // SECOND} s on its connection")
        unused = not self.transfers.outbox and self.routes.control.connection is not None
        if unused and (session := self.routes.idle_bulk(now)) is not None:
            self._session_over(session)
            self._review("")
        self.transfers.tick(now)
        if news := self._bulk_health.look(now, self._up, self.transfers.outbox, *self.routes.bulk_state()):
            self._host.tell(news)

    def state(self) -> LinkState:
        """The state of the link, for `status`."""
        control = self.routes.control
        outbound, inbound = control.connection is not None, self.routes.inbound.get(Lane.CONTROL) is not None
        return LinkState(
            phase=LinkPhase.UP if outbound or inbound else control.shown_phase,
            since_us=control.since_us,
            outbound=outbound,
            inbound=inbound,
            address=control.address,
            attempts=control.failures,
            next_dial_us=control.next_dial_us,
            last_heard_us=self._heard_us,
            round_trip_us=self._round_trip_us,
            traffic=deepcopy(self.traffic),
            queue_bytes=self.transfers.outbox.queued_bytes,
            queue_messages=len(self.transfers.outbox),
            last_error=control.last_error,
            bulk_problem=self._bulk_health.problem,
        )
