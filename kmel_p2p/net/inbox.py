"""The receiving half of bulk transfer, for one remote peer. No sockets, no clock.

Every size is checked before memory is taken; memory for a message is reserved from one budget for all peers, and
committed by the operating system only as bytes arrive. A peer has at most one unfinished message here. A message
of one chunk is handed up without a copy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.core.types import Micros
from kmel_p2p.net.frames import BOOT_BYTES, NO_DIGEST, Chunk, Done, Frame, Grant, HeldAnswer, HeldQuery, Reason, Refuse
from kmel_p2p.net.outbox import charge
from kmel_p2p.net.settings import CHUNK_BYTES, TransportSettings

GRANTS_PER_WINDOW = 8
"""A grant is sent when this part of the window was used: 512 KiB by default, two chunks."""

DONE_REMEMBERED = 64
"""Finished messages whose DONE may have been lost with a connection. Senders have fewer under way."""

SESSIONS_MAX = 4
"""Bulk connections with one peer that can be alive at once: one each way, and their successors."""


class Budget:
    """Bytes that unfinished messages of all peers may take together."""

    __slots__ = ("_free",)

    def __init__(self, total: int) -> None:
        self._free = total

    @property
    def free(self) -> int:
        """Bytes not reserved."""
        return self._free

    def reserve(self, size: int) -> bool:
        """Take `size` bytes if that many are free."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def release(self, size: int) -> None:
        """Return them."""
        self._free += size


@dataclass(slots=True)
class _Partial:
    id: bytes
    buffer: np.ndarray[tuple[int], np.dtype[np.uint8]]
    received: int = 0


@dataclass(slots=True)
class _Session:
    spent: int
    limit: int


@dataclass(slots=True)
class Intake:
    """What one chunk led to: frames to send back, and a whole message if it was the last."""

    replies: list[Frame] = field(default_factory=list)
    message: memoryview | None = None


class Inbox:
    """Bulk messages arriving from one remote peer."""

    def __init__(self, settings: TransportSettings, budget: Budget) -> None:
        self._settings = settings
        self._budget = budget
        self._sessions: dict[bytes, _Session] = {}
        self._partial: _Partial | None = None
        self._partial_us: Micros = 0
        self._finished: deque[bytes] = deque(maxlen=DONE_REMEMBERED)
        self._adopted = False
        """The unfinished message began under an id of the sender's earlier run, and it has not gone on yet."""
        self._refused: bytes | None = None

    @property
    def partial_bytes(self) -> int:
        """Bytes held of an unfinished message."""
        return self._partial.received if self._partial else 0

    def open(self, session: bytes) -> None:
        """A bulk connection exists over which the peer may send `window` bytes before our first grant."""
        self._sessions.pop(session, None)
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session] = _Session(0, self._settings.window)

    def close(self, session: bytes) -> None:
        """That connection is gone. An unfinished message is kept for the next one."""
        self._sessions.pop(session, None)

    def chunk(self, header: Chunk, data: memoryview, now: Micros) -> Intake:
        """Take one chunk.

        Raises:
            ProtocolError: more bytes than granted, or a chunk of an impossible size. Nothing was kept.
        """
        session = self._sessions.get(header.session)
        if session is None:
            return Intake()  # read late from a connection that has been replaced: its sender asks again
        length = len(data)
        if not 0 < length <= CHUNK_BYTES or header.offset + length > header.size:
            raise ProtocolError(f"a chunk of {length} bytes at {header.offset} of {header.size}")
        spent = session.spent + charge(length)
        if spent > session.limit:
            raise ProtocolError(f"{spent} bytes of credit spent where {session.limit} were granted")
        session.spent = spent
        intake = Intake()
        self._take(header, data, now, intake)
        if spent + self._settings.window - session.limit >= self._settings.window // GRANTS_PER_WINDOW:
            session.limit = spent + self._settings.window
            intake.replies.append(Grant(header.session, session.limit))
        return intake

    def _take(self, header: Chunk, data: memoryview, now: Micros, intake: Intake) -> None:
        if header.id in self._finished:
            intake.replies.append(Done(header.id))
            return
        end = header.offset + len(data)
        held = self._partial is not None and self._partial.id == header.id
        if not held and header.offset == 0:
            self._begin(header, data, intake)
            if self._partial is None:
                return  # refused, or whole already
        partial = self._partial
        if partial is None or partial.id != header.id or header.offset > partial.received:
            self._refuse(header.id, Reason.MISPLACED, intake)
            return
        if len(partial.buffer) != header.size:
            raise ProtocolError(f"a message of {len(partial.buffer)} bytes now has {header.size}")
        if end <= partial.received:
            return  # sent twice round a reconnect
        partial.buffer[header.offset : end] = np.frombuffer(data, np.uint8)
        partial.received = end
        self._adopted = False
        self._partial_us = now
        if end == header.size:
            message = partial.buffer.data.toreadonly()
            self.drop()
            self._finish(header.id, message, intake)

    def _begin(self, header: Chunk, data: memoryview, intake: Intake) -> None:
        """Make room for a message whose first chunk came. Whatever was unfinished is given up by its sender."""
        self.drop()
        if header.size > self._settings.max_message:
            self._refuse(header.id, Reason.TOO_LARGE, intake)
            return
        if len(data) == header.size:
            self._finish(header.id, data.toreadonly(), intake)
            return
        if not self._budget.reserve(header.size):
            self._refuse(header.id, Reason.BUSY, intake)
            return
        self._refused = None
        self._partial = _Partial(header.id, np.empty(header.size, np.uint8))

    def _finish(self, message_id: bytes, message: memoryview, intake: Intake) -> None:
        self._finished.append(message_id)
        intake.message = message
        intake.replies.append(Done(message_id))

    def _refuse(self, message_id: bytes, reason: Reason, intake: Intake) -> None:
        """Refuse once; the chunks already under way get no answer each."""
        if self._refused != message_id or reason is not Reason.MISPLACED:
            intake.replies.append(Refuse(message_id, reason))
        self._refused = message_id

    def asked(self, question: HeldQuery) -> Frame | memoryview:
        """The answer to "what do you hold?", or the bytes whose hash belongs into the answer.

        A sender that was restarted asks under a new id; what is held of a message of the same size is offered, and
        the hash lets the sender tell whether it is the same message.

        Raises:
            ProtocolError: the id was used for a message of another size.
        """
        if question.id in self._finished:
            return Done(question.id)
        if question.probe and self._refused == question.id:
            return Refuse(question.id, Reason.MISPLACED)  # the first refusal was lost
        if not question.probe:
            self._refused = None
        partial = self._partial
        if partial is None or partial.received == 0:
            if CHUNK_BYTES < question.size > self._budget.free:
                return Refuse(question.id, Reason.BUSY)
            return HeldAnswer(question.id, 0, NO_DIGEST)
        same_size = len(partial.buffer) == question.size
        if partial.id == question.id:
            if not same_size:
                raise ProtocolError(f"a message of {len(partial.buffer)} bytes now has {question.size}")
            if not self._adopted:
                return HeldAnswer(question.id, partial.received, NO_DIGEST)
            return partial.buffer.data.toreadonly()[: partial.received]
        if same_size and not question.probe and partial.id[:BOOT_BYTES] != question.id[:BOOT_BYTES]:
            partial.id = question.id
            self._adopted = True
            return partial.buffer.data.toreadonly()[: partial.received]
        return HeldAnswer(question.id, 0, NO_DIGEST)

    def grants(self) -> list[Grant]:
        """The present limits, for a sender that may have lost one."""
        return [Grant(session, state.limit) for session, state in self._sessions.items()]

    def expire(self, now: Micros) -> None:
        """Forget an unfinished message that has not grown for as long as its sender would keep it."""
        if self._partial is not None and now - self._partial_us > self._settings.resume_us + self._settings.stall_us:
            self.drop()

    def drop(self) -> None:
        """Forget the unfinished message."""
        if self._partial is not None:
            self._budget.release(len(self._partial.buffer))
            self._partial = None
            self._adopted = False
