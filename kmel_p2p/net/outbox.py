"""The sending half of bulk transfer, for one remote peer. No sockets, no clock.

Messages leave in order, cut into chunks, under the bytes the receiver granted. A message stays here until the receiver
says DONE. When the connection breaks, each message already begun is asked about on the next one; the receiver answers
how many bytes it holds, and sending goes on from there. If it holds them from an earlier run of this peer it adds their
BLAKE2b-256, and sending starts anew unless our bytes have the same hash. Only a lack of progress ends a transfer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.net.frames import NO_DIGEST, Chunk, HeldAnswer, HeldQuery, Reason
from kmel_p2p.net.settings import CHUNK_BYTES, CHUNK_CHARGE_MIN, TransportSettings

PROBE_AFTER = 3 * SECOND
"""So long without progress, and we ask: GRANT, DONE or REFUSE may have been lost with a control connection."""

PROBES_MAX = 16
"""Messages asked about at once for safety; the oldest ones."""

ASK_AGAIN = 2 * SECOND
"""An ASK or its answer may be lost with a connection."""

BUSY_PAUSE = 1 * SECOND
"""Pause after the receiver had no room."""

MISPLACED_MAX = 8
"""Times a receiver may say that a chunk does not continue what it holds before the transfer fails."""


def charge(length: int) -> int:
    """The credit a chunk of so many bytes costs, at both ends."""
    return max(length, CHUNK_CHARGE_MIN)


class TransferStage(enum.Enum):
    """The state of one message."""

    HELD = "held"
    """Not released by the caller yet (its digest is being computed)."""
    SENDING = "sending"
    SENT = "sent"
    """Every byte handed over; waits for DONE."""
    ASK = "ask"
    """Interrupted: what the receiver holds must be asked."""
    ASKED = "asked"
    CHECKING = "checking"
    """The answer's hash is being compared."""


@dataclass(slots=True)
class BulkTransfer:
    """One message on its way."""

    id: bytes
    data: bytes
    label: str
    stage: TransferStage
    sent: int = 0
    acknowledged: int = 0
    """The most bytes the receiver said it holds."""
    begun: bool = False
    ask_us: Micros = 0
    misplaced: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """The next chunk to hand over; call `Outbox.commit` once the socket took it."""

    transfer: BulkTransfer
    header: Chunk
    data: memoryview


@dataclass(frozen=True, slots=True)
class TransferFailure:
    """A transfer that was given up."""

    transfer: BulkTransfer
    reason: str


@dataclass(frozen=True, slots=True)
class Expiry:
    """What a lack of progress calls for."""

    failures: list[TransferFailure] = field(default_factory=list)
    renew: bool = False
    """Replace the bulk connection: it may have lost something without breaking."""


class Outbox:
    """Bulk messages waiting for, or on their way to, one remote peer."""

    def __init__(self, settings: TransportSettings, ids: Iterator[bytes], now: Micros) -> None:
        self._settings = settings
        self._ids = ids
        self._queue: dict[bytes, BulkTransfer] = {}  # in the order they were put
        self._session: bytes | None = None
        self._limit = 0
        self._session_sent = 0
        self._progress_us = now
        self._probed_us = now
        self._renewed = False
        self._first = True
        self._moved_us = now
        """When something last got through, or the first message was put after that."""
        self._gave_up = False
        """Whether a message was given up since."""
        self.queued_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def session(self) -> bytes | None:
        """The connection chunks go out on, if there is one."""
        return self._session

    def put(self, data: bytes, label: str, now: Micros, *, held: bool = False) -> BulkTransfer | None:
        """Queue a message; None when the queue is full."""
        full = self.queued_bytes + len(data) > self._settings.queue
        if full or len(self._queue) >= self._settings.queue_messages:
            return None
        if not self._queue:
            self._progress_us = now
            self._moved_us = self._moved_us if self._gave_up else now
        transfer = BulkTransfer(next(self._ids), data, label, TransferStage.HELD)
        if not held:
            self.release(transfer)
        self._queue[transfer.id] = transfer
        self.queued_bytes += len(data)
        return transfer

    def release(self, transfer: BulkTransfer) -> None:
        """A held message may go.

        The first large one after a start is asked about first: an earlier run of this peer may have sent a part of it.
        """
        if transfer.stage is TransferStage.HELD:
            ask = self._first and len(transfer.data) > CHUNK_BYTES
            transfer.stage = TransferStage.ASK if ask else TransferStage.SENDING
            self._first = self._first and not ask

    def open(self, session: bytes, window: int, now: Micros) -> None:
        """A bulk connection is usable; the receiver lets `window` bytes through before its first grant."""
        self._session = session
        self._limit = window
        self._session_sent = 0
        self._progress_us = now
        for transfer in self._queue.values():
            if transfer.begun:
                transfer.stage = TransferStage.ASK
                transfer.ask_us = now

    def close(self, now: Micros) -> None:
        """The bulk connection is gone; what was under way on it may be lost."""
        self._session = None
        self._progress_us = now

    def peek(self) -> Part | None:
        """The next chunk that may go now. Order is kept: an interrupted message holds back the ones behind it."""
        transfer = self._next()
        if self._session is None or transfer is None or not self._has_credit(transfer):
            return None
        length = self._next_length(transfer)
        header = Chunk(self._session, transfer.id, len(transfer.data), transfer.sent)
        return Part(transfer, header, memoryview(transfer.data)[transfer.sent : transfer.sent + length])

    def wants_credit(self) -> bool:
        """Whether there is a connection and a chunk, and the receiver has granted no room for it."""
        transfer = self._next()
        return self._session is not None and transfer is not None and not self._has_credit(transfer)

    def _next(self) -> BulkTransfer | None:
        for transfer in self._queue.values():
            if transfer.stage is not TransferStage.SENT:
                return transfer if transfer.stage is TransferStage.SENDING else None
        return None

    @staticmethod
    def _next_length(transfer: BulkTransfer) -> int:
        return min(CHUNK_BYTES, len(transfer.data) - transfer.sent)

    def _has_credit(self, transfer: BulkTransfer) -> bool:
        return self._session_sent + charge(self._next_length(transfer)) <= self._limit

    def commit(self, part: Part) -> None:
        """The socket took `part`."""
        transfer = part.transfer
        transfer.begun = True
        transfer.sent += len(part.data)
        self._session_sent += charge(len(part.data))
        if transfer.sent == len(transfer.data):
            transfer.stage = TransferStage.SENT

    def asks(self, now: Micros) -> list[HeldQuery]:
        """The questions due now. Each is repeated until answered."""
        if self._session is None:
            return []
        if self._queue and now - max(self._progress_us, self._probed_us) >= PROBE_AFTER:
            return self._due(now) + self.probes(now)
        return self._due(now)

    def probes(self, now: Micros) -> list[HeldQuery]:
        """Questions about the oldest messages under way that do not interrupt them."""
        self._probed_us = now
        under_way = [
            t for t in self._queue.values() if t.begun and t.stage in (TransferStage.SENDING, TransferStage.SENT)
        ]
        return [HeldQuery(transfer.id, len(transfer.data), True) for transfer in under_way[:PROBES_MAX]]

    def _due(self, now: Micros) -> list[HeldQuery]:
        due = []
        for transfer in self._queue.values():
            if transfer.stage in (TransferStage.ASK, TransferStage.ASKED) and transfer.ask_us <= now:
                transfer.stage = TransferStage.ASKED
                transfer.ask_us = now + ASK_AGAIN
                due.append(HeldQuery(transfer.id, len(transfer.data), False))
        return due

    def granted(self, session: bytes, limit: int, now: Micros) -> None:
        """The receiver allows `limit` bytes since the session began. Old and repeated grants change nothing."""
        if session == self._session and limit > self._limit:
            self._limit = limit
            self._progress(now)

    def done(self, message_id: bytes, now: Micros) -> BulkTransfer | None:
        """The receiver has the whole message."""
        transfer = self._queue.get(message_id)
        if transfer is None or not transfer.begun:
            return None
        self._progress(now)
        return self._drop(transfer)

    def held(self, have: HeldAnswer, now: Micros) -> tuple[BulkTransfer, memoryview] | None:
        """The receiver says how many bytes it holds.

        Returns:
            The transfer and the bytes of ours whose hash decides, for `compared`; None if nothing is to be decided.

        Raises:
            ProtocolError: more bytes than the message has.
        """
        transfer = self._queue.get(have.id)
        if transfer is None:
            return None
        if have.offset > len(transfer.data):
            raise ProtocolError(f"claims {have.offset} bytes of a message of {len(transfer.data)}")
        if have.offset > transfer.acknowledged and have.digest == NO_DIGEST:
            transfer.acknowledged = have.offset
            self._progress(now)
        if transfer.stage is not TransferStage.ASKED:
            return None
        transfer.stage = TransferStage.CHECKING
        if have.digest == NO_DIGEST:
            self._resume(transfer, have.offset)
            return None
        return transfer, memoryview(transfer.data)[: have.offset]

    def compared(self, transfer: BulkTransfer, offset: int, *, same: bool) -> None:
        """What the hashes said. Nothing changes if the connection broke meanwhile."""
        if transfer.stage is not TransferStage.CHECKING or self._queue.get(transfer.id) is not transfer:
            return
        if same:
            self._resume(transfer, offset)
            return
        transfer.id = next(self._ids)  # under the old one the receiver holds other bytes
        self._queue = {queued.id: queued for queued in self._queue.values()}
        self._resume(transfer, 0)

    def _resume(self, transfer: BulkTransfer, offset: int) -> None:
        transfer.sent = offset
        transfer.stage = TransferStage.SENDING if offset < len(transfer.data) else TransferStage.SENT

    def refused(self, message_id: bytes, reason: Reason, now: Micros) -> TransferFailure | None:
        """The receiver did not take a chunk. A transfer it will never take fails."""
        transfer = self._queue.get(message_id)
        if transfer is None or not (transfer.begun or transfer.stage is TransferStage.ASKED):
            return None
        if reason is Reason.TOO_LARGE:
            return self._fail(transfer, f"the peer takes no message of {len(transfer.data)} bytes")
        if reason is Reason.MISPLACED:
            transfer.misplaced += 1
            if transfer.misplaced > MISPLACED_MAX:
                return self._fail(transfer, "the peer keeps losing its place")
        if transfer.stage in (TransferStage.SENDING, TransferStage.SENT, TransferStage.ASKED):
            transfer.stage = TransferStage.ASK
            transfer.ask_us = now + (BUSY_PAUSE if reason is Reason.BUSY else 0)
        return None

    def expire(self, now: Micros) -> Expiry:
        """What to do about a lack of progress: on a working link first a new connection, then the oldest message fails.

        Without a link every message fails once it has waited long enough.
        """
        if not self._queue:
            return Expiry()
        silent = now - self._progress_us
        if self._session is None:
            if silent < self._settings.resume_us:
                return Expiry()
            return Expiry(self.clear(f"no connection for {silent // SECOND} s"))
        head = next(iter(self._queue.values()))
        if silent < self._settings.stall_us // 2 or head.stage is TransferStage.HELD:
            return Expiry()
        self._progress_us = now
        self._renewed = not self._renewed
        if self._renewed:
            return Expiry(renew=True)
        self._gave_up = True
        return Expiry([self._fail(head, f"no progress for {self._settings.stall_us // SECOND} s")], renew=True)

    def stuck_since(self) -> Micros | None:
        """Since when nothing has got through although something should; None: nothing waits."""
        return self._moved_us if self._queue or self._gave_up else None

    def _progress(self, now: Micros) -> None:
        self._progress_us = self._moved_us = now
        self._renewed = self._gave_up = False

    def clear(self, reason: str) -> list[TransferFailure]:
        """Give up everything."""
        self._gave_up = self._gave_up or bool(self._queue)
        return [self._fail(transfer, reason) for transfer in list(self._queue.values())]

    def _fail(self, transfer: BulkTransfer, reason: str) -> TransferFailure:
        return TransferFailure(self._drop(transfer), reason)

    def _drop(self, transfer: BulkTransfer) -> BulkTransfer:
        del self._queue[transfer.id]
        self.queued_bytes -= len(transfer.data)
        return transfer
