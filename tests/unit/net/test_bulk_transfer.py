"""Outbox and inbox against each other, without sockets: credits, order, resumption, hostile chunks."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.types import SECOND
from kmel_p2p.net.frames import NO_DIGEST, Chunk, Done, Frame, Grant, HeldAnswer, HeldQuery, Reason, Refuse
from kmel_p2p.net.inbox import Budget, Inbox
from kmel_p2p.net.outbox import PROBE_AFTER, Expiry, Outbox
from kmel_p2p.net.settings import CHUNK_BYTES, CHUNK_CHARGE_MIN, TransportSettings
from tests.support.net_peers import short_settings

LIMITS = short_settings()


def ids(boot: bytes = b"bootboot") -> Iterator[bytes]:
    return (boot + n.to_bytes(8, "big") for n in itertools.count(1))


class Pipe:
    """An outbox and an inbox joined by two queues that can be cut, losing what is in them."""

    def __init__(self, limits: TransportSettings = LIMITS, budget: Budget | None = None) -> None:
        self.limits = limits
        self.budget = budget or Budget(limits.reassembly)
        self.outbox = Outbox(limits, ids(), 0)
        self.inbox = Inbox(limits, self.budget)
        self.now = 0
        self.sessions = itertools.count(1)
        self.forward: deque[tuple[Chunk, bytes]] = deque()
        self.control: deque[Frame] = deque()
        self.back: deque[Frame] = deque()
        self.received: list[bytes] = []
        self.sent_bytes = 0

    def connect(self) -> None:
        session = next(self.sessions).to_bytes(8, "big")
        self.inbox.open(session)
        self.outbox.open(session, self.limits.window, self.now)

    def cut(self) -> None:
        if self.outbox.session is not None:
            self.inbox.close(self.outbox.session)
            self.outbox.close(self.now)
        for queue in (self.forward, self.control, self.back):
            queue.clear()

    def send(self) -> bool:
        """Hand over one chunk, and the questions due."""
        self.control.extend(self.outbox.asks(self.now))
        part = self.outbox.peek()
        if part is None:
            return False
        self.forward.append((part.header, bytes(part.data)))
        self.sent_bytes += len(part.data)
        self.outbox.commit(part)
        return True

    def receive(self) -> bool:
        """Take one chunk or question at the receiver."""
        if self.control:
            question = self.control.popleft()
            assert isinstance(question, HeldQuery)
            answer = self.inbox.asked(question)
            if isinstance(answer, memoryview):
                answer = HeldAnswer(question.id, len(answer), digest(bytes(answer)))
            self.back += [*self.inbox.grants(), answer]
            return True
        if self.forward:
            header, data = self.forward.popleft()
            intake = self.inbox.chunk(header, memoryview(data), self.now)
            self.back.extend(intake.replies)
            if intake.message is not None:
                self.received.append(bytes(intake.message))
            return True
        return False

    def answer(self) -> bool:
        """Take one answer at the sender."""
        if not self.back:
            return False
        match self.back.popleft():
            case Grant(session, limit):
                self.outbox.granted(session, limit, self.now)
            case Done(message_id):
                self.outbox.done(message_id, self.now)
            case Refuse(message_id, reason):
                assert self.outbox.refused(message_id, reason, self.now) is None
            case HeldAnswer() as have:
                undecided = self.outbox.held(have, self.now)
                if undecided is not None:
                    transfer, prefix = undecided
                    self.outbox.compared(transfer, have.offset, same=digest(bytes(prefix)) == have.digest)
        return True

    def lose_control(self) -> None:
        """The control connection breaks: questions and answers under way are lost, chunks are not."""
        self.control.clear()
        self.back.clear()

    def settle(self) -> None:
        for _ in range(100_000):
            moved = [self.send(), self.receive(), self.answer()]
            if not any(moved):
                if not len(self.outbox):
                    return
                self.now += SECOND
        raise AssertionError("does not settle")


sizes = st.lists(
    st.one_of(st.integers(1, 2000), st.integers(CHUNK_BYTES - 1, CHUNK_BYTES + 1), st.integers(1, 6 * CHUNK_BYTES)),
    min_size=1,
    max_size=5,
)


@given(sizes, st.lists(st.integers(0, 10), max_size=120), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_whatever_breaks_when_each_message_arrives_once_in_order(size_list, script, seed) -> None:
    pipe = Pipe()
    messages = [random.Random(seed + n).randbytes(size) for n, size in enumerate(size_list)]
    for message in messages:
        assert pipe.outbox.put(message, "", pipe.now) is not None
    pipe.connect()
    for step in script:
        if step == 0:
            pipe.cut()
            pipe.connect()
        elif step == 10:
            pipe.lose_control()
        elif step <= 4:
            pipe.send()
        elif step <= 7:
            pipe.receive()
        else:
            pipe.answer()
        assert sum(len(data) for _, data in pipe.forward) <= pipe.limits.window
    pipe.settle()
    assert pipe.received == messages
    assert pipe.budget.free == pipe.limits.reassembly
    assert pipe.outbox.queued_bytes == 0


def test_never_more_under_way_than_was_granted() -> None:
    pipe = Pipe()
    pipe.outbox.put(bytes(8 * 1024 * 1024), "", 0)
    pipe.connect()
    pipe.send()
    pipe.receive()  # the question whether an earlier life sent a part
    while pipe.answer():
        pass
    while pipe.send():
        pass
    assert pipe.sent_bytes == pipe.limits.window
    pipe.receive()
    pipe.receive()
    while pipe.answer():
        pass
    while pipe.send():
        pass
    assert pipe.sent_bytes == pipe.limits.window + 2 * CHUNK_BYTES


def test_an_interrupted_message_goes_on_where_the_receiver_stopped() -> None:
    pipe = Pipe()
    message = random.Random(1).randbytes(20 * CHUNK_BYTES)
    pipe.outbox.put(message, "", 0)
    pipe.connect()
    while not pipe.received and pipe.inbox.partial_bytes < 10 * CHUNK_BYTES:
        pipe.send()
        pipe.receive()
        while pipe.answer():
            pass
    pipe.cut()
    pipe.connect()
    pipe.settle()
    assert pipe.received == [message]
    assert pipe.sent_bytes == len(message)  # nothing was sent twice


def test_a_restarted_sender_goes_on_with_the_same_message_and_starts_again_with_another() -> None:
    for same in (True, False):
        pipe = Pipe()
        message = random.Random(1).randbytes(10 * CHUNK_BYTES)
        pipe.outbox.put(message, "", 0)
        pipe.connect()
        while pipe.inbox.partial_bytes < 3 * CHUNK_BYTES:
            pipe.send()
            pipe.receive()
            pipe.answer()
        pipe.cut()
        pipe.outbox = Outbox(LIMITS, ids(b"newboot!"), 0)
        message = message if same else random.Random(2).randbytes(10 * CHUNK_BYTES)
        pipe.outbox.put(message, "", 0)
        pipe.connect()
        before = pipe.sent_bytes
        pipe.settle()
        assert pipe.received == [message]
        assert pipe.sent_bytes - before == len(message) - (3 * CHUNK_BYTES if same else 0)


@pytest.mark.parametrize("size", [1000, 8 * 1024 * 1024], ids=["DONE", "GRANT"])
def test_answers_lost_with_a_control_connection_are_asked_for_again(size: int) -> None:
    pipe = Pipe()
    message = random.Random(1).randbytes(size)
    pipe.outbox.put(message, "", 0)
    pipe.connect()
    while pipe.send() or pipe.receive() or (not pipe.sent_bytes and pipe.answer()):
        pass
    pipe.lose_control()
    before = pipe.now
    pipe.settle()
    assert pipe.received == [message]
    assert pipe.now - before <= PROBE_AFTER + 2 * SECOND
    assert pipe.sent_bytes == size


def test_a_refusal_lost_with_a_control_connection_is_repeated() -> None:
    budget = Budget(LIMITS.max_message)
    first, second = Pipe(budget=budget), Pipe(budget=budget)
    for pipe in (first, second):
        pipe.outbox.put(bytes(5 * 1024 * 1024), "", 0)
        pipe.connect()
    second.send()
    second.receive()
    while second.answer():  # nothing is held: go on
        pass
    while not first.inbox.partial_bytes:
        first.send()
        first.receive()
        first.answer()
    while second.send():
        pass
    while second.receive():
        pass
    second.lose_control()  # BUSY is lost
    first.settle()
    second.settle()
    assert second.received == [bytes(5 * 1024 * 1024)]


def test_a_lost_done_does_not_deliver_twice() -> None:
    pipe = Pipe()
    pipe.outbox.put(b"x" * 1000, "", 0)
    pipe.connect()
    pipe.send()
    pipe.receive()
    pipe.cut()  # DONE is lost
    pipe.connect()
    pipe.settle()
    assert pipe.received == [b"x" * 1000]


def test_too_large_a_message_is_refused_before_any_memory_is_taken() -> None:
    pipe = Pipe()
    pipe.inbox.open(b"s" * 8)
    header = Chunk(b"s" * 8, b"i" * 16, 2**60, 0)
    intake = pipe.inbox.chunk(header, memoryview(bytes(CHUNK_BYTES)), 0)
    assert Refuse(b"i" * 16, Reason.TOO_LARGE) in intake.replies
    assert pipe.budget.free == LIMITS.reassembly
    follow = pipe.inbox.chunk(Chunk(b"s" * 8, b"i" * 16, 2**60, CHUNK_BYTES), memoryview(bytes(CHUNK_BYTES)), 0)
    assert [reply for reply in follow.replies if isinstance(reply, Refuse)] == []


def test_a_transfer_the_receiver_will_never_take_fails_at_the_sender() -> None:
    outbox = Outbox(LIMITS, ids(), 0)
    transfer = outbox.put(bytes(1000), "entry", 0)
    assert transfer is not None
    outbox.open(b"s" * 8, LIMITS.window, 0)
    part = outbox.peek()
    assert part is not None
    outbox.commit(part)
    failure = outbox.refused(transfer.id, Reason.TOO_LARGE, 0)
    assert failure is not None
    assert failure.transfer is transfer
    assert len(outbox) == 0


def test_without_room_a_transfer_is_put_off_and_arrives_later() -> None:
    budget = Budget(LIMITS.max_message)
    first, second = Pipe(budget=budget), Pipe(budget=budget)
    big = bytes(5 * 1024 * 1024)
    for pipe in (first, second):
        pipe.outbox.put(big, "", 0)
        pipe.connect()
    while not first.inbox.partial_bytes:  # until it holds the room
        first.send()
        first.receive()
        first.answer()
    for _ in range(50):
        second.send()
        second.receive()
        second.answer()
    assert second.received == []
    first.settle()
    second.settle()
    assert second.received == [big]
    assert budget.free == LIMITS.max_message


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [(1000, 0, 1001), (1000, 999, 2), (2**40, 0, CHUNK_BYTES + 1), (10, 0, 0)],
    ids=["past the end", "past the end from within", "larger than a chunk", "empty"],
)
def test_impossible_chunks_are_the_peers_fault(size: int, offset: int, length: int) -> None:
    inbox = Inbox(LIMITS, Budget(LIMITS.reassembly))
    inbox.open(b"s" * 8)
    with pytest.raises(ProtocolError):
        inbox.chunk(Chunk(b"s" * 8, b"i" * 16, size, offset), memoryview(bytes(length)), 0)


def test_a_repeated_message_is_delivered_once() -> None:
    inbox = Inbox(LIMITS, Budget(LIMITS.reassembly))
    inbox.open(b"s" * 8)
    header = Chunk(b"s" * 8, b"i" * 16, 5, 0)
    assert inbox.chunk(header, memoryview(b"hello"), 0).message == b"hello"
    again = inbox.chunk(header, memoryview(b"hello"), 0)
    assert again.message is None
    assert again.replies == [Done(b"i" * 16)]


def test_a_chunk_that_skips_bytes_is_not_taken() -> None:
    inbox = Inbox(LIMITS, Budget(LIMITS.reassembly))
    inbox.open(b"s" * 8)
    whole = 3 * CHUNK_BYTES
    chunk = memoryview(bytes(CHUNK_BYTES))
    inbox.chunk(Chunk(b"s" * 8, b"i" * 16, whole, 0), chunk, 0)
    skipped = inbox.chunk(Chunk(b"s" * 8, b"i" * 16, whole, 2 * CHUNK_BYTES), chunk, 0)
    assert skipped.message is None
    assert Refuse(b"i" * 16, Reason.MISPLACED) in skipped.replies
    assert inbox.partial_bytes == CHUNK_BYTES


def test_tiny_messages_are_bounded_in_number_by_the_same_credit() -> None:
    pipe = Pipe()
    for _ in range(1000):
        pipe.outbox.put(b"x", "", 0)
    pipe.connect()
    while pipe.send():
        pass
    assert len(pipe.forward) == LIMITS.window // CHUNK_CHARGE_MIN
    pipe.settle()
    assert len(pipe.received) == 1000


def test_more_bytes_than_granted_are_the_peers_fault() -> None:
    inbox = Inbox(LIMITS, Budget(LIMITS.reassembly))
    inbox.open(b"s" * 8)
    inbox._sessions[b"s" * 8].limit = CHUNK_BYTES  # as if grants had been withheld
    inbox.chunk(Chunk(b"s" * 8, b"i" * 16, 10**6, 0), memoryview(bytes(CHUNK_BYTES)), 0)
    inbox._sessions[b"s" * 8].limit = CHUNK_BYTES
    with pytest.raises(ProtocolError, match="granted"):
        inbox.chunk(Chunk(b"s" * 8, b"i" * 16, 10**6, CHUNK_BYTES), memoryview(bytes(CHUNK_BYTES)), 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 2**41), st.integers(0, 2**41), st.integers(1, 3000)), max_size=40
    )
)
@settings(deadline=None, max_examples=100)
def test_hostile_chunks_hold_at_most_one_message_of_memory(chunks) -> None:
    budget = Budget(LIMITS.reassembly)
    inbox = Inbox(LIMITS, budget)
    inbox.open(b"s" * 8)
    for which, size, offset, length in chunks:
        if offset >= size:
            continue
        try:
            inbox.chunk(Chunk(b"s" * 8, bytes([which]) * 16, size, offset), memoryview(bytes(length)), 0)
        except ProtocolError:
            continue
        assert budget.free >= LIMITS.reassembly - LIMITS.max_message
    inbox.drop()
    assert budget.free == LIMITS.reassembly


def test_lack_of_progress_ends_a_transfer_and_time_alone_does_not() -> None:
    pipe = Pipe()
    pipe.outbox.put(bytes(8 * 1024 * 1024), "", 0)
    pipe.connect()
    for _ in range(16):  # as slow as can be: one grant a step
        pipe.now += LIMITS.stall_us // 2 - 1
        pipe.send()
        pipe.send()
        pipe.receive()
        pipe.receive()
        while pipe.answer():
            pass
        assert pipe.outbox.expire(pipe.now) == Expiry()
    assert pipe.now > 5 * LIMITS.stall_us


def test_a_transfer_that_stops_gets_a_new_connection_and_then_fails() -> None:
    pipe = Pipe()
    pipe.outbox.put(bytes(10), "", 0)
    pipe.connect()
    pipe.send()
    half = LIMITS.stall_us // 2
    assert pipe.outbox.expire(half - 1) == Expiry()
    assert pipe.outbox.expire(half) == Expiry(renew=True)
    pipe.now = half
    pipe.cut()
    pipe.connect()
    assert pipe.outbox.expire(2 * half - 1) == Expiry()
    assert [failure.reason for failure in pipe.outbox.expire(2 * half).failures] == ["no progress for 3 s"]
    assert len(pipe.outbox) == 0


def test_what_a_living_connection_lost_is_sent_again_over_the_next() -> None:
    pipe = Pipe()
    message = random.Random(1).randbytes(6 * CHUNK_BYTES)
    pipe.outbox.put(message, "", 0)
    pipe.connect()
    while pipe.send() or pipe.receive() or (not pipe.sent_bytes and pipe.answer()):
        if len(pipe.forward) == 2:
            pipe.forward.pop()  # as only a meddler on the path can
    while not pipe.outbox.expire(pipe.now).renew:
        pipe.now += SECOND
    pipe.cut()
    pipe.connect()
    pipe.settle()
    assert pipe.received == [message]


def test_an_interrupted_transfer_waits_for_the_link_and_then_gives_up() -> None:
    pipe = Pipe()
    pipe.outbox.put(bytes(1000), "", 0)
    assert pipe.outbox.expire(LIMITS.resume_us - 1) == Expiry()
    assert [f.reason for f in pipe.outbox.expire(LIMITS.resume_us).failures] == ["no connection for 5 s"]
    assert len(pipe.outbox) == 0


def test_the_queue_is_bounded_in_bytes_and_in_messages() -> None:
    outbox = Outbox(short_settings(queue=8 * 1024 * 1024, queue_messages=3), ids(), 0)
    assert outbox.put(bytes(5 * 1024 * 1024), "", 0)
    assert outbox.put(bytes(5 * 1024 * 1024), "", 0) is None
    assert outbox.put(b"1", "", 0)
    assert outbox.put(b"2", "", 0)
    assert outbox.put(b"3", "", 0) is None


def test_answers_about_messages_never_begun_change_nothing() -> None:
    outbox = Outbox(LIMITS, ids(), 0)
    transfer = outbox.put(bytes(1000), "", 0)
    assert transfer is not None
    assert outbox.done(transfer.id, 0) is None
    assert outbox.refused(transfer.id, Reason.TOO_LARGE, 0) is None
    assert outbox.held(HeldAnswer(transfer.id, 5, NO_DIGEST), 0) is None
    assert transfer.sent == 0
    assert outbox.done(b"?" * 16, 0) is None
    assert len(outbox) == 1


def test_a_receiver_that_claims_more_than_there_is_is_at_fault() -> None:
    outbox = Outbox(LIMITS, ids(), 0)
    transfer = outbox.put(bytes(1000), "", 0)
    assert transfer is not None
    transfer.begun = True
    outbox.open(b"s" * 8, LIMITS.window, 0)
    outbox.asks(0)
    with pytest.raises(ProtocolError, match="claims 1001 bytes"):
        outbox.held(HeldAnswer(transfer.id, 1001, NO_DIGEST), 0)
