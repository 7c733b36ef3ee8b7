"""Bulk transfer with one remote peer: joins outbox and inbox to routes, and hashes beside the event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterator
from typing import Protocol

from kmel_p2p.agreement.identity import HASH_BYTES, digest
from kmel_p2p.core.types import MILLISECOND, Micros
from kmel_p2p.net.frames import Chunk, Done, Frame, Grant, HeldAnswer, HeldQuery, Refuse, encode
from kmel_p2p.net.inbox import Budget, Inbox
from kmel_p2p.net.outbox import BulkTransfer, Outbox, TransferFailure
from kmel_p2p.net.wiring import Route, Wiring

HASH_INLINE_MAX = 1024 * 1024
"""Hashing this much takes about a millisecond; more goes to a thread."""

CHUNKS_PER_TURN = 32
"""Chunks handed to ZeroMQ before the rest of the loop has its chance. Each costs about 30 microseconds."""

RETRY_AFTER = 5 * MILLISECOND
"""A ROUTER does not signal that one of its connections has room again: look again after this."""


class BulkHost(Protocol):
    """The link the transfers belong to."""

    def bulk_route(self) -> Route | None:
        """Where chunks can go now."""
        ...

    def need_bulk(self) -> None:
        """Get a route: something waits."""
        ...

    def send_frame(self, frame: Frame) -> bool:
        """Send one of our own frames on the control lane."""
        ...

    def send_chunk(self, route: Route, header: bytes, data: memoryview) -> bool:
        """Send a chunk, counted."""
        ...

    def deliver(self, message: memoryview) -> None:
        """A whole message came."""
        ...

    def may_leave(self, transfer: BulkTransfer, data_digest: bytes) -> bool:
        """Whether the first byte of a message may leave (asked only when egress is audited)."""
        ...

    def transfer_done(self, transfer: BulkTransfer) -> None:
        """The receiver has a message."""
        ...

    def transfer_failed(self, failure: TransferFailure) -> None:
        """A message will not arrive."""
        ...

    def renew_bulk(self) -> None:
        """The bulk connection makes no progress: replace it."""
        ...


class Bulk:
    """Both directions of bulk transfer with one peer."""

    def __init__(
        self,
        wiring: Wiring,
        host: BulkHost,
        budget: Budget,
        ids: Iterator[bytes],
        *,
        audited: bool,
    ) -> None:
        now = wiring.clock()
        self.outbox = Outbox(wiring.settings, ids, now)
        self.inbox = Inbox(wiring.settings, budget)
        self._wiring = wiring
        self._host = host
        self._audited = audited
        self._digests: dict[bytes, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.Handle | None = None
        self._unsent: dict[tuple[type[Frame], bytes], Frame] = {}
        self._answering = False
        self._closed = False

    # -- sending ---------------------------------------------------------------------------------

    def put(self, data: bytes, label: str, data_digest: bytes | None) -> bool:
        """Queue a message; False when the queue is full."""
        inline = not self._audited or data_digest is not None or len(data) <= HASH_INLINE_MAX
        transfer = self.outbox.put(data, label, self._wiring.clock(), held=not inline)
        if transfer is None:
            return False
        if self._audited:
            if inline:
                self._digests[transfer.id] = data_digest if data_digest is not None else digest(data)
            else:
                self._spawn(self._hash_then_release(transfer), "hash for egress")
        self.pump()
        return True

    async def _hash_then_release(self, transfer: BulkTransfer) -> None:
        self._digests[transfer.id] = await asyncio.to_thread(digest, transfer.data)
        self.outbox.release(transfer)
        self.pump()

    def pump(self) -> None:
        """Hand over as many chunks as credits and ZeroMQ's queue take."""
        if self._closed or not self.outbox:
            return
        route = self._host.bulk_route()
        if route is None:
            self._host.need_bulk()
            return
        self._send_asks()
        for _ in range(CHUNKS_PER_TURN):
            part = self.outbox.peek()
            if part is None:
                return
            if self._audited and not part.transfer.begun:
                if not self._host.may_leave(part.transfer, self._digests.get(part.transfer.id, bytes(HASH_BYTES))):
                    return  # asked again at the next tick
                self._digests.pop(part.transfer.id, None)
            # Marked before: from here on bytes of it may be outside, whatever the socket says.
            part.transfer.begun = True
            if not self._host.send_chunk(route, encode(part.header), part.data):
                if not route.signals_room and self._retry is None:
                    self._retry = self._wiring.later(RETRY_AFTER, "bulk", self._try_again)
                return
            self.outbox.commit(part)
        if self._retry is None:
            self._retry = self._wiring.later(0, "bulk", self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.pump()

    def _send_asks(self) -> None:
        for ask in self.outbox.asks(self._wiring.clock()):
            self._queue_frame(ask, ask.id)
        self._send_queued()

    # -- what the peer says about our messages ---------------------------------------------------

    def granted(self, grant: Grant) -> None:
        """More may go."""
        self.outbox.granted(grant.session, grant.limit, self._wiring.clock())
        self.pump()

    def done(self, done: Done) -> None:
        """One message arrived."""
        transfer = self.outbox.done(done.id, self._wiring.clock())
        if transfer is not None:
            self._digests.pop(done.id, None)
            self._host.transfer_done(transfer)
        self.pump()

    def refused(self, refuse: Refuse) -> None:
        """One message was not taken."""
        failure = self.outbox.refused(refuse.id, refuse.reason, self._wiring.clock())
        if failure is not None:
            self._failed(failure)
        self.pump()

    def have(self, have: HeldAnswer) -> None:
        """How much of an interrupted message the peer holds.

        Raises:
            ProtocolError: more than there is.
        """
        undecided = self.outbox.held(have, self._wiring.clock())
        if undecided is None:
            self.pump()
        else:
            self._spawn(self._compare_then_resume(*undecided, have), "compare resumed bytes")

    async def _compare_then_resume(self, transfer: BulkTransfer, prefix: memoryview, have: HeldAnswer) -> None:
        ours = await asyncio.to_thread(_digest_of, prefix)
        self.outbox.compared(transfer, have.offset, same=ours == have.digest)
        self.pump()

    # -- receiving -------------------------------------------------------------------------------

    def chunk(self, header: Chunk, data: memoryview) -> None:
        """Take a chunk.

        Raises:
            ProtocolError: it breaks the credit rules.
        """
        intake = self.inbox.chunk(header, data, self._wiring.clock())
        for reply in intake.replies:
            self._reply(reply)
        if intake.message is not None:
            self._host.deliver(intake.message)

    def asked(self, ask: HeldQuery) -> None:
        """Answer what is held of a message.

        Raises:
            ProtocolError: the question contradicts an earlier chunk.
        """
        for grant in self.inbox.grants():
            self._reply(grant)
        if self._answering:
            return  # one hash at a time per peer; whoever still needs an answer asks again
        answer = self.inbox.asked(ask)
        if isinstance(answer, memoryview):
            self._answering = True
            self._spawn(self._hash_then_answer(ask.id, answer), "hash held bytes")
        else:
            self._reply(answer)

    async def _hash_then_answer(self, message_id: bytes, held: memoryview) -> None:
        try:
            self._reply(HeldAnswer(message_id, len(held), await asyncio.to_thread(_digest_of, held)))
        finally:
            self._answering = False

    def _reply(self, frame: Frame) -> None:
        """Send an answer, now or when the control lane has room: a lost GRANT would stop the peer for good."""
        match frame:
            case Grant(session, _):
                self._queue_frame(frame, session)
            case Done(message_id) | HeldAnswer(message_id, _, _) | Refuse(message_id, _):
                self._queue_frame(frame, message_id)
            case _:
                return
        self._send_queued()

    def _queue_frame(self, frame: Frame, about: bytes) -> None:
        # One per kind and message: a newer grant replaces an older one, so this stays as small as what it is about.
        self._unsent[type(frame), about] = frame

    def _send_queued(self) -> None:
        while self._unsent:
            what = next(iter(self._unsent))
            if not self._host.send_frame(self._unsent[what]):
                return
            del self._unsent[what]

    # -- sessions and time -----------------------------------------------------------------------

    def route_changed(self, session: bytes | None, window: int) -> None:
        """Chunks now go over another bulk connection, or over none."""
        now = self._wiring.clock()
        if session == self.outbox.session:
            return
        if session is None:
            self.outbox.close(now)
        else:
            self.outbox.open(session, window, now)
            self.pump()

    def control_changed(self) -> None:
        """Control messages now go over another connection: what was under way on the old one may be lost."""
        if self.outbox.session is not None:
            for ask in self.outbox.probes(self._wiring.clock()):
                self._queue_frame(ask, ask.id)
        for grant in self.inbox.grants():
            self._queue_frame(grant, grant.session)
        self._send_queued()

    def session_ended(self, session: bytes) -> None:
        """A bulk connection is gone: frames queued for it are dropped."""
        self.inbox.close(session)
        self._unsent.pop((Grant, session), None)

    def tick(self, now: Micros) -> None:
        """Repeat what was not answered, give up what does not move."""
        self.inbox.expire(now)
        expiry = self.outbox.expire(now)
        for failure in expiry.failures:
            self._failed(failure)
        if expiry.renew:
            self._host.renew_bulk()
        self._send_queued()
        self.pump()

    def _failed(self, failure: TransferFailure) -> None:
        self._digests.pop(failure.transfer.id, None)
        self._host.transfer_failed(failure)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._wiring.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._wiring.fault("bulk", error)

    async def close(self, reason: str) -> None:
        """Give everything up and wait for hashing to end."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        for failure in self.outbox.clear(reason):
            self._failed(failure)
        self.inbox.drop()
        self._unsent.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _digest_of(data: memoryview) -> bytes:
    # hashlib lets other threads run while it hashes a large buffer
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()
