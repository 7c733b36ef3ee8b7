"""The desk: who is let in, by which key, and what a guest may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest

from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.types import SECOND
from kmel_p2p.core.wire import PROTOCOL
from kmel_p2p.net.desk import (
    HOST_BURST,
    HOST_PER_SECOND,
    MAX_DESK_ANSWER_BYTES,
    OPEN_OF_INVITED_MAX,
    OPEN_OF_ONE_MAX,
    REREAD_EVERY,
    Desk,
    DeskGuest,
    charter_keys,
    invited_keys,
    member_keys,
    read_question,
)
from kmel_p2p.net.desk_client import encode_question
from kmel_p2p.net.link_events import Egress

NORTH, SOUTH, EAST = (Identity(letter.encode() * 32) for letter in "nse")
SECRET = b"s" * 16
CHARTER_ID = b"c" * 32


class Frame:
    def __init__(self, data: bytes) -> None:
        self.bytes = data

    def get(self, name: str) -> str:
        return {"Peer-Address": "203.0.113.1"}[name]


class Route:
    """Keeps what is sent back."""

    def __init__(self, number: int) -> None:
        self.routing_id = number.to_bytes(4, "big")
        self.sent: list[dict[str, Any]] = []
        self.was_cut = False

    def send(self, header: bytes, data: memoryview | None = None) -> bool:
        self.sent.append(msgpack.unpackb(header))
        return True

    def cut(self) -> None:
        self.was_cut = True


class Host:
    """A desk with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND
        self.members: set[SiteKey] = {NORTH.key, SOUTH.key}
        self.secrets = [SECRET]
        self.routes = 0
        self.asked: list[tuple[DeskGuest, str]] = []
        self.recorded: list[Egress] = []
        self.may_leave = True
        self.value: Any = "well"
        self.waits: asyncio.Event | None = None
        self.former: set[SiteKey] = set()
        self.desk = Desk(
            NORTH,
            lambda: self.members,
            lambda: self.secrets,
            self.answer,
            lambda: self.now,
            self.record,
            former=lambda: self.former,
            charter_id=CHARTER_ID,
        )

    async def answer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((guest, name))
        if self.waits is not None:
            await self.waits.wait()
        if name == "refuse":
            raise LocalError("not today")
        return self.value

    def record(self, egress: Egress) -> bool:
        self.recorded.append(egress)
        return self.may_leave

    def user(self, curve: bytes) -> str | None:
        self.now += REREAD_EVERY
        return self.desk.admits(curve)

    async def ask(self, user: str, *frames: bytes) -> Route:
        self.routes += 1
        route = Route(self.routes)
        self.desk.receive(user, route, [Frame(frame) for frame in frames], overflow=False)
        for _ in range(5):
            await asyncio.sleep(0)
        return route


def test_members_are_known_by_a_key_that_only_the_two_of_them_can_make() -> None:
    host = Host()
    asking = member_keys(SOUTH, NORTH.key, asks=True)
    awaited = member_keys(NORTH, SOUTH.key, asks=False)
    assert asking is not None
    assert asking == awaited
    assert asking != member_keys(NORTH, SOUTH.key, asks=True)
    assert host.user(asking.public) == DeskGuest(site=SOUTH.key).user
    other = member_keys(EAST, NORTH.key, asks=True)
    assert other is not None
    assert host.user(other.public) is None
    host.members.add(EAST.key)
    assert host.user(other.public) == DeskGuest(site=EAST.key).user
    host.members.clear()
    assert host.user(asking.public) is None


async def test_who_left_the_roster_and_who_holds_the_charter_are_told_from_members() -> None:
    host = Host()
    asking = member_keys(SOUTH, NORTH.key, asks=True)
    assert asking is not None
    as_member = host.user(asking.public) or ""
    host.former, host.members = {SOUTH.key}, {NORTH.key}
    as_former = host.user(asking.public)
    assert as_former == DeskGuest(site=SOUTH.key, former=True).user != as_member
    route = await host.ask(as_former, encode_question("amendments"))
    assert route.sent[0]["value"] == "well"
    assert host.asked[-1][0].about_amendments
    # A connection from before it left asks nothing more.
    assert (await host.ask(as_member, encode_question("propose"))).was_cut
    bearer = host.user(charter_keys(CHARTER_ID).public)
    assert bearer == DeskGuest(bearer=True).user
    assert host.user(charter_keys(b"another charter").public) is None
    await host.ask(bearer, encode_question("amendments"))
    assert [record.label for record in host.recorded] == ["DeskAnswer", "DeskAnswerBearer"]


def test_holders_of_an_invitation_are_let_in_as_long_as_it_is_valid() -> None:
    host = Host()
    curve = invited_keys(SECRET).public
    assert (host.user(curve) or "").startswith("desk:invited:")
    assert host.user(invited_keys(b"x" * 16).public) is None
    host.secrets.clear()
    assert host.user(curve) is None


def test_a_key_that_nobody_can_hold_lets_nobody_in() -> None:
    host = Host()
    host.members.add(SiteKey(b"\xff" * 32))
    assert host.user(b"") is None
    assert host.user(bytes(32)) is None


async def test_a_question_is_answered_and_on_record_before_it_leaves() -> None:
    host = Host()
    user = host.user(invited_keys(SECRET).public)
    assert user is not None
    route = await host.ask(user, encode_question("facts", {"a": 1}))
    assert route.sent == [{"v": 1, "value": "well", "protocol": PROTOCOL}]
    assert [record.label for record in host.recorded] == ["DeskAnswerInvited"]
    host.may_leave = False
    assert (await host.ask(user, encode_question("facts"))).sent == []
    assert (await host.ask(user, encode_question("refuse"))).sent == []
    host.may_leave = True
    assert (await host.ask(user, encode_question("refuse"))).sent == [
        {"v": 1, "error": "not today", "protocol": PROTOCOL}
    ]


async def test_a_flood_of_questions_is_refused_before_it_is_read() -> None:
    host = Host()
    user = host.user(invited_keys(SECRET).public)
    assert user is not None
    for _ in range(HOST_BURST):
        await host.ask(user, encode_question("facts"))
    assert len(host.asked) == HOST_BURST
    for _ in range(100):
        assert "too many questions" in (await host.ask(user, b"\x00")).sent[0]["error"]
    assert len(host.asked) == HOST_BURST
    host.now += SECOND
    for _ in range(100):
        await host.ask(user, encode_question("facts"))
    assert len(host.asked) == HOST_BURST + HOST_PER_SECOND


async def test_a_guest_has_so_many_questions_open_and_others_still_get_in() -> None:
    host = Host()
    host.waits = asyncio.Event()
    invited = host.user(invited_keys(SECRET).public)
    pair = member_keys(SOUTH, NORTH.key, asks=True)
    assert invited is not None
    assert pair is not None
    member = host.user(pair.public)
    assert member is not None
    for guest, most in ((invited, OPEN_OF_INVITED_MAX), (member, OPEN_OF_ONE_MAX)):
        for _ in range(most):
            assert (await host.ask(guest, encode_question("facts"))).sent == []
        assert "too many" in (await host.ask(guest, encode_question("facts"))).sent[0]["error"]
    other = member_keys(EAST, NORTH.key, asks=True)
    assert other is not None
    host.members.add(EAST.key)
    waiting = await host.ask(host.user(other.public) or "", encode_question("facts"))
    host.waits.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert waiting.sent == [{"v": 1, "value": "well", "protocol": PROTOCOL}]
    await host.desk.close()


async def test_who_is_welcome_no_longer_is_cut() -> None:
    host = Host()
    user = host.user(invited_keys(SECRET).public)
    assert user is not None
    host.secrets.clear()
    host.now += REREAD_EVERY
    assert (await host.ask(user, encode_question("facts"))).was_cut
    assert (await host.ask("desk:invited:00", encode_question("facts"))).was_cut
    assert host.asked == []


async def test_an_answer_that_is_too_large_says_so() -> None:
    host = Host()
    host.value = "x" * (MAX_DESK_ANSWER_BYTES + 1)
    user = host.user(invited_keys(SECRET).public)
    assert user is not None
    (answer,) = (await host.ask(user, encode_question("facts"))).sent
    assert "more than a desk gives" in answer["error"]


@pytest.mark.parametrize(("theirs", "older"), [(PROTOCOL - 1, "your kmel-peer"), (PROTOCOL + 1, "the one here")])
async def test_a_newcomer_of_another_protocol_is_told_before_it_is_heard_and_a_member_is_answered(
    theirs: int, older: str
) -> None:
    host = Host()
    question = msgpack.packb({"v": 1, "do": "join", "with": {}, "protocol": theirs})
    (refused,) = (await host.ask(host.user(invited_keys(SECRET).public) or "", question)).sent
    assert refused["error"].endswith(f"{older} has to be upgraded")
    assert host.asked == []
    asking = member_keys(SOUTH, NORTH.key, asks=True)
    assert asking is not None
    (answer,) = (await host.ask(host.user(asking.public) or "", question)).sent
    assert (answer["value"], answer["protocol"]) == ("well", PROTOCOL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        msgpack.packb({"v": 2, "do": "facts"}),
        msgpack.packb({"v": 1, "do": 7}),
        msgpack.packb({"v": 1, "do": "facts", "protocol": "2"}),
        msgpack.packb({"v": 1, "do": "facts", "protocol": True}),
        msgpack.packb({"v": 1, "do": "facts", "with": []}),
        msgpack.packb({"v": 1, "do": "facts", "with": {"a": [[]] * 3000}}),
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgpack.packb({"v": 1, "do": "x" * 70_000}),
    ],
)
async def test_what_is_no_question_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(WireError):
        read_question(data)
    host = Host()
    user = host.user(invited_keys(SECRET).public)
    assert user is not None
    (answer,) = (await host.ask(user, data)).sent
    assert answer["error"]
    assert host.asked == []
