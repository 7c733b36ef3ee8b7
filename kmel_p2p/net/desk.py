"""The desk of a peer: short questions over its one port, from those whom it knows, beside the protocol of the run.

Four kinds of guests are admitted, each by a CURVE key that both sides derive and nobody else can:

- *members*: the sites of the roster, by the secret that their keys share (X25519);
- *former* sites: those that amendments took from the roster, in the same way. They may ask for amendments;
- *bearers*: whoever holds the charter, by its id. They may hand in amendments;
- *invited*: whoever holds the text of an invitation, by its secret. Who is admitted so is a holder of the text and
  nothing more: what it says of itself is proved in what it asks.

A question is one frame, the msgpack map `{"v": 1, "do": str, "with": map, "protocol": int}`, its answer `{"v": 1,
"value": any, "protocol": int}`, or `"error": str` in place of the value, with `"busy": true` where the same question
may well be answered later. `protocol` is that of the run (`core.wire.PROTOCOL`): a newcomer with another one is told
before it signs anything, and members are answered, so that their doctors can tell.

Guests are bounded before anything is decoded: connections by the doorkeeper, then questions over one connection,
questions per second of one host and guest, and questions at once. Several sites hold one invitation, so a host that
floods must not use up what others have.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import nacl.bindings
import nacl.exceptions

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import ConfigError, KmelError, LocalError, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey, curve_public, digest
from kmel_p2p.agreement.invitation import invitation_id
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from kmel_p2p.core.wire import PROTOCOL, versions_differ
from kmel_p2p.net.doorkeeper import network_of
from kmel_p2p.net.link_events import Egress
from kmel_p2p.net.sockets import CurveKeys

DESK_USER = "desk:"
"""What the User-Id of a guest's connection begins with; those of sites are hex."""

DESK_VERSION = 1

UNSAID_PROTOCOL = 2
"""Of questions and answers that do not say which protocol their program speaks: older ones never did."""

MAX_QUESTION_BYTES = 64 * 1024
"""An amendment with the signatures of some hundred sites."""

MAX_DESK_ANSWER_BYTES = 252 * 1024
"""A charter of more than a thousand sites; it fits one frame."""

QUESTION_ITEMS_MAX = 2048
"""Items of one list or map in a question, and lists and maps in all."""

GUEST_PER_SECOND, GUEST_BURST = 50, 150
"""Questions per second, and at once; further ones are refused, which costs nothing. Sixty sites may hold one
invitation, and ask every few seconds."""

HOST_PER_SECOND, HOST_BURST = 10, 30
"""The same, of one host (of IPv6: network) that asks as this guest."""

OF_CONNECTION = 3
"""Questions over one connection in all: a guest has one for each. Who asks and does not read its answers, of a quarter
of a megabyte each, has no more than these kept in memory for it."""

ALLOWANCES_MAX = 4096
"""Hosts and connections remembered; then those that have asked nothing for longest are forgotten."""

REREAD_EVERY = 10 * MILLISECOND
"""Between two looks at members and invitations."""

OPEN_OF_ONE_MAX = 4
OPEN_OF_INVITED_MAX = 16
OPEN_MAX = 32
"""Questions that are being answered at once: of one member, of the holders of one invitation, and of all."""


@dataclass(frozen=True, slots=True)
class DeskGuest:
    """Who asks: a site of the roster (`site`), or a holder of an invitation (`invitation`, its id).

    Attributes:
        former: it is on the roster no longer.
        bearer: it holds the charter, and no more is known of it.
    """

    site: SiteKey | None = None
    invitation: bytes = b""
    former: bool = False
    bearer: bool = False

    @property
    def about_amendments(self) -> bool:
        """Whether that is all that it may ask about."""
        return self.former or self.bearer

    @property
    def user(self) -> str:
        """User-Id of its connections."""
        if self.bearer:
            return f"{DESK_USER}bearer"
        if self.site is None:
            return f"{DESK_USER}invited:{self.invitation.hex()}"
        return f"{DESK_USER}{'former' if self.former else 'site'}:{self.site.hex()}"


class DeskRoute(Protocol):
    """The way back over the connection of a guest."""

    routing_id: bytes
    """Of the connection."""

    def send(self, header: bytes, data: memoryview | None = None) -> bool: ...
    def cut(self) -> None: ...


Answerer = Callable[[DeskGuest, str, Mapping[str, Any]], Awaitable[Any]]
"""Given guest, request and arguments; returns plain data, or raises `LocalError` with what the guest may read.

A `ConfigError`, of a disk for instance, is the operator's to read, and not the guest's.
"""


class Allowance:
    """So many at once, and so many per second.

    Args:
        per_second, burst: see above.
        now: monotonic microseconds.
    """

    def __init__(self, per_second: float, burst: float, now: Micros) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = burst, now

    def has_one(self, now: Micros) -> bool:
        """Whether one more is allowed."""
        self._left = min(self._burst, self._left + (now - self._at) / SECOND * self._per_second)
        self._at = now
        return self._left >= 1

    def take(self, count: int = 1) -> None:
        """Some more are done."""
        self._left = max(0.0, self._left - count)


def invited_keys(secret: bytes) -> CurveKeys:
    """The key pair of whoever holds an invitation's secret."""
    return CurveKeys(*nacl.bindings.crypto_box_seed_keypair(digest(b"kmel desk invited 1", secret)))


def charter_keys(charter_id: bytes) -> CurveKeys:
    """The key pair of whoever holds the charter. Its id never crosses a network in clear, and signs nothing."""
    return CurveKeys(*nacl.bindings.crypto_box_seed_keypair(digest(b"kmel desk charter 1", charter_id)))


def member_keys(identity: Identity, other: SiteKey, asks: bool) -> CurveKeys | None:
    """The key pair with which one of two members asks the other; None where `other` is no key that could be held.

    Args:
        identity: ours.
        other: the other member.
        asks: whether we ask the other one; else it asks us.
    """
    try:
        shared = nacl.bindings.crypto_scalarmult(identity.curve_pair()[1], curve_public(other))
    except (LocalError, nacl.exceptions.CryptoError, ValueError):
        return None
    asking, asked = (identity.key, other) if asks else (other, identity.key)
    return CurveKeys(*nacl.bindings.crypto_box_seed_keypair(digest(b"kmel desk member 1", shared, asking, asked)))


class Desk:
    """See the module docstring. Lives on the event loop of a transport, which hands it the guests.

    Args:
        identity: ours.
        members: the sites of the roster that are listened to.
        invitations: secrets of the invitations that still let somebody in.
        answer: answers a question.
        clock: monotonic microseconds.
        record: told of each answer before it leaves, and asked whether it may.
        troubled: told what keeps this desk from answering, for the operator.
        former: sites that were on the roster, without blocked ones.
        charter_id: of the charter whose bearers are let in; empty: nobody is.
    """

    def __init__(
        self,
        identity: Identity,
        members: Callable[[], Collection[SiteKey]],
        invitations: Callable[[], Collection[bytes]],
        answer: Answerer,
        clock: Callable[[], Micros],
        record: Callable[[Egress], bool] = lambda egress: True,
        troubled: Callable[[str], None] = lambda text: None,
        former: Callable[[], Collection[SiteKey]] = tuple,
        charter_id: bytes = b"",
    ) -> None:
        self._identity = identity
        self._members = members
        self._invitations = invitations
        self._answer = answer
        self._clock = clock
        self._record = record
        self._troubled = troubled
        self._former = former
        self._bearer = charter_keys(charter_id).public if charter_id else b""
        self._listed: tuple[set[SiteKey], set[SiteKey], set[bytes]] | None = None
        """Members, former sites and secrets at the last look."""
        self._known: dict[SiteKey | bytes, bytes] = {}
        """Site, or secret of an invitation -> the CURVE key that it is admitted by."""
        self._curves: dict[bytes, DeskGuest] = {}
        self._guests: dict[str, DeskGuest] = {}
        self._read_us: Micros | None = None
        self._allowances: OrderedDict[tuple[str, ...], Allowance] = OrderedDict()
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused: Counter[str] = Counter()
        """Questions that were not answered, by guest."""

    def admits(self, curve_key: bytes) -> str | None:
        """The User-Id for a CURVE key; None for a stranger's."""
        self._refresh()
        guest = self._curves.get(curve_key)
        return None if guest is None else guest.user

    def receive(self, user: str, route: DeskRoute, parts: list[Any], overflow: bool) -> None:
        """A message of a guest."""
        guest = self._guests.get(user)
        if guest is None or not self._still_welcome(guest):
            route.cut()
            return
        most = OPEN_OF_INVITED_MAX if guest.invitation else OPEN_OF_ONE_MAX
        if overflow or len(parts) != 1:
            self.refused[user] += 1
            self._send(guest, route, {"error": "a question has one frame"})
            return
        if not self._allowed(user, route, parts[0]) or self._open[user] >= most or len(self._tasks) >= OPEN_MAX:
            self.refused[user] += 1
            self._send(guest, route, {"error": "too many questions; ask again in some seconds", "busy": True})
            return
        self._open[user] += 1
        task = asyncio.get_running_loop().create_task(self._serve(guest, route, bytes(parts[0].bytes)), name="desk")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(user, done))

    async def close(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read members and invitations again, at most every `REREAD_EVERY`: strangers may make us look often."""
        now = self._clock()
        if self._read_us is not None and now - self._read_us < REREAD_EVERY:
            return
        self._read_us = now
        members = set(self._members()) - {self._identity.key}
        listed = members, set(self._former()) - members - {self._identity.key}, set(self._invitations())
        if self._listed == listed:
            return
        self._listed = listed
        sites = members | listed[1]
        self._known = {who: self._known.get(who) or self._curve(who, who in sites) for who in sites | listed[2]}
        self._curves = {curve: self._guest(who) for who, curve in self._known.items() if curve}
        if self._bearer:
            self._curves[self._bearer] = DeskGuest(bearer=True)
        self._guests = {guest.user: guest for guest in self._curves.values()}

    def _curve(self, who: bytes, is_site: bool) -> bytes:
        """The public key that somebody is admitted by; empty for a roster key that nobody can hold."""
        if not is_site:
            return invited_keys(who).public
        pair = member_keys(self._identity, SiteKey(who), asks=False)
        return b"" if pair is None else pair.public

    def _guest(self, who: bytes) -> DeskGuest:
        assert self._listed is not None, "read just now"
        members, former, _ = self._listed
        if who in members or who in former:
            return DeskGuest(site=SiteKey(who), former=who in former)
        return DeskGuest(invitation=invitation_id(who))

    def _still_welcome(self, guest: DeskGuest) -> bool:
        self._refresh()
        return guest.user in self._guests

    def _allowed(self, user: str, route: DeskRoute, question: Any) -> bool:
        """Whether connection, host and guest may ask once more; what one of them refuses counts for none."""
        now = self._clock()
        host = network_of(str(question.get("Peer-Address")).removeprefix("::ffff:"))
        kinds = (
            ((user, host, route.routing_id.hex()), 0, OF_CONNECTION),
            ((user, host), HOST_PER_SECOND, HOST_BURST),
            ((user,), GUEST_PER_SECOND, GUEST_BURST),
        )
        asked = []
        for name, per_second, burst in kinds:
            asked.append(self._allowances.setdefault(name, Allowance(per_second, burst, now)))
            self._allowances.move_to_end(name)
        while len(self._allowances) > ALLOWANCES_MAX:
            self._allowances.popitem(last=False)
        allowed = all(allowance.has_one(now) for allowance in asked)
        for allowance in asked if allowed else ():
            allowance.take()
        return allowed

    async def _serve(self, guest: DeskGuest, route: DeskRoute, question: bytes) -> None:
        try:
            name, arguments, protocol = read_question(question)
            if guest.site is None and (
                differ := versions_differ("protocol", protocol, PROTOCOL, "your kmel-peer", "the one here")
            ):
                raise LocalError(differ)
            reply = {"value": await self._answer(guest, name, arguments)}
        except ConfigError as error:
            self.refused[guest.user] += 1
            self._troubled(f"a question was not answered: {error}")
            reply = {"error": "this peer cannot do that now; its operator has been told why", "busy": True}
        except KmelError as error:
            self.refused[guest.user] += 1
            reply = {"error": str(error)[:2000]}
        self._send(guest, route, reply)

    def _send(self, guest: DeskGuest, route: DeskRoute, reply: Mapping[str, Any]) -> None:
        head = {"v": DESK_VERSION, "protocol": PROTOCOL}
        packed = msgpack.packb({**head, **reply}, use_bin_type=True)
        if len(packed) > MAX_DESK_ANSWER_BYTES:
            text = f"the answer has {len(packed)} bytes, more than a desk gives; ask for the files by mail"
            packed = msgpack.packb({**head, "error": text}, use_bin_type=True)
        to = guest.site if guest.site is not None else SiteKey(digest(guest.invitation or self._bearer))
        stranger = "DeskAnswerInvited" if guest.invitation else "DeskAnswerBearer"
        label = "DeskAnswer" if guest.site is not None else stranger
        if self._record(Egress(to, Lane.CONTROL, label, len(packed), digest(packed))):
            route.send(packed)

    def _done(self, user: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open[user] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "desk", "exception": error})


def read_question(data: bytes) -> tuple[str, Mapping[str, Any], int]:
    """Request and arguments of a question, and the protocol of the program that asks.

    Raises:
        WireError: not a question of this version, or out of bounds.
    """
    raw = unpack_bounded(data, MAX_QUESTION_BYTES, containers=QUESTION_ITEMS_MAX, length=QUESTION_ITEMS_MAX)
    if type(raw) is not dict or raw.get("v") != DESK_VERSION:
        version = raw.get("v") if type(raw) is dict else None
        differ = versions_differ("version", version, DESK_VERSION, "your kmel-peer", "the desk here")
        raise WireError(differ or f"a question at the desk is a map of version {DESK_VERSION}")
    name, arguments, protocol = raw.get("do"), raw.get("with", {}), raw.get("protocol", UNSAID_PROTOCOL)
    if type(name) is not str or type(arguments) is not dict or not all(type(key) is str for key in arguments):
        raise WireError('a question has "do" (string) and "with" (map)')
    if type(protocol) is not int:
        raise WireError('"protocol" of a question is an integer')
    return name, arguments, protocol
