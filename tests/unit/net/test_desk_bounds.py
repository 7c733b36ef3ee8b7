"""The desk bounds what guests ask, and its client bounds what it is answered."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest
import zmq

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.types import SECOND
from kmel_p2p.core.wire import PROTOCOL
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk import HOST_BURST, HOST_PER_SECOND, OF_CONNECTION, Desk, DeskGuest, invited_keys
from kmel_p2p.net.desk_client import DeskBusyError, DeskRefusedError, DeskUnreachableError, ask_desk, encode_question

NORTH = Identity(b"n" * 32)
SECRET = b"k" * 16


class Route:
    """A connection of a guest; keeps what it is answered."""

    def __init__(self, number: int) -> None:
        self.routing_id = number.to_bytes(4, "big")
        self.replies: list[dict[str, Any]] = []

    def send(self, header: bytes, data: memoryview | None = None) -> bool:
        self.replies.append(msgpack.unpackb(header))
        return True

    def cut(self) -> None:
        raise AssertionError("this guest is welcome")


class Question:
    """One frame, as ZeroMQ hands it over."""

    bytes = encode_question("join")

    def __init__(self, host: str) -> None:
        self._host = host

    def get(self, name: str) -> str:
        return {"Peer-Address": self._host}[name]


class Asked:
    """A desk, and who asks it."""

    def __init__(self) -> None:
        self.now = 0
        self.told: list[str] = []
        self.desk = Desk(NORTH, tuple, lambda: [SECRET], self.answer, lambda: self.now, troubled=self.told.append)
        self.user = self.desk.admits(invited_keys(SECRET).public) or ""
        self.routes = 0

    async def answer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> int:
        return 1

    async def ask(self, host: str, route: Route | None = None) -> dict[str, Any]:
        self.routes += 1
        route = route or Route(self.routes)
        self.desk.receive(self.user, route, [Question(host)], False)
        for _ in range(3):
            await asyncio.sleep(0)
        return route.replies[-1]


async def test_who_floods_uses_up_the_share_of_its_own_host() -> None:
    asked = Asked()
    for _ in range(20 * HOST_BURST):
        await asked.ask("::ffff:198.51.100.1")
    assert (await asked.ask("::ffff:198.51.100.1"))["busy"] is True
    for number in range(8):
        assert await asked.ask(f"::ffff:203.0.113.{number}") == {"v": 1, "value": 1, "protocol": PROTOCOL}
    for number in range(20 * HOST_BURST):
        await asked.ask(f"2001:db8::{number:x}")
    assert (await asked.ask("2001:db8::ffff:7"))["busy"] is True
    assert "value" in await asked.ask("2001:db8:0:1::1")


async def test_many_sites_that_hold_one_invitation_ask_without_a_refusal() -> None:
    asked = Asked()
    for _ in range(15):
        for site in range(24):
            asked.now += SECOND // 24
            assert "value" in await asked.ask(f"203.0.113.{site}")


async def test_one_connection_asks_little_and_leaves_the_others_of_its_host_their_share() -> None:
    asked = Asked()
    flooding = [Route(1000 + number) for number in range(4)]
    for _ in range(100):
        for route in flooding:
            await asked.ask("203.0.113.1", route)
    answered = sum("value" in reply for route in flooding for reply in route.replies)
    assert answered == len(flooding) * OF_CONNECTION
    assert "value" in await asked.ask("203.0.113.1")


async def test_answers_that_a_guest_does_not_read_are_no_more_than_a_few_however_long_it_waits() -> None:
    asked = Asked()
    unread = Route(1000)
    for _ in range(10 * OF_CONNECTION):
        asked.now += 60 * SECOND
        await asked.ask("203.0.113.1", unread)
    assert sum("value" in reply for reply in unread.replies) == OF_CONNECTION
    assert "value" in await asked.ask("203.0.113.1")


async def test_what_is_used_up_comes_back() -> None:
    asked = Asked()
    for _ in range(2 * HOST_BURST):
        await asked.ask("203.0.113.1")
    asked.now += SECOND
    replies = [await asked.ask("203.0.113.1") for _ in range(2 * HOST_PER_SECOND)]
    assert sum("value" in reply for reply in replies) == HOST_PER_SECOND


async def test_what_keeps_a_desk_from_answering_is_the_operators_to_read() -> None:
    asked = Asked()

    async def fails(guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> int:
        raise ConfigError("/srv/kmel/state/invitations.json: no space left")

    asked.desk = Desk(NORTH, tuple, lambda: [SECRET], fails, lambda: 0, troubled=asked.told.append)
    asked.user = asked.desk.admits(invited_keys(SECRET).public) or ""
    reply = await asked.ask("203.0.113.1")
    assert reply["busy"] is True
    assert "/srv" not in reply["error"]
    assert "/srv/kmel/state/invitations.json" in asked.told[0]


GONE_MS = 60_000


class Answering:
    """A server with the right key that answers one question as it likes."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.CURVE_SERVER, 1)
        public, secret = NORTH.curve_pair()
        self.socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, 500)
        self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.left = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def ask(self, *parts: bytes) -> Any:
        """What the client makes of an answer of these frames."""

        def serve() -> None:
            who, _ = self.socket.recv_multipart()
            try:
                self.socket.send_multipart([who, *parts], copy=False)
            except zmq.ZMQError:
                return  # the client went away

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return ask_desk(invited_keys(SECRET), NORTH.key, self.address, encode_question("join"))
        finally:
            thread.join()
            # ZeroMQ aborts the process where a socket is closed in the moment in which the other side leaves, amid a
            # message of several frames: first let it see that the client has left.
            assert self.left.poll(GONE_MS), "the client closes its connection"
            self.socket.disable_monitor()
            self.context.destroy(0)


def packed(**reply: object) -> bytes:
    return msgpack.packb({"v": 1, **reply})


def test_an_answer_is_one_frame() -> None:
    assert Answering().ask(packed(value=7)) == 7
    with pytest.raises(DeskUnreachableError, match="several frames") as refused:
        Answering().ask(packed(value=7), b"more")
    assert refused.value.failure is ConnectionFailure.MISBEHAVED


def test_an_answer_without_an_end_is_not_kept() -> None:
    part = b"x" * 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DeskUnreachableError, match="without an end"):
        Answering().ask(*[part] * 2_500)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 150_000, "KiB: 500 MB were sent"


def test_a_busy_desk_is_another_thing_than_one_that_refuses() -> None:
    with pytest.raises(DeskBusyError, match="answers later"):
        Answering().ask(packed(error="too many", busy=True))
    with pytest.raises(DeskRefusedError, match=r"^no; it is over$"):
        Answering().ask(packed(error="no;\n it is\tover"))
