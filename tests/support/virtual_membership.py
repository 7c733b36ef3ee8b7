"""A minimal driver for a handful of memberships: every message crosses the real wire, time is virtual."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Dial, Effect, Emit, LinkUp, Persist, Send
from kmel_p2p.core.membership import LAN, SCHEMAS, Membership, MembershipSettings, OwnDescription, RosterSite
from kmel_p2p.core.types import MILLISECOND
from kmel_p2p.core.wire import Wire

CHARTER = bytes(range(32))


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


def roster_of(*numbers: int) -> dict[SiteKey, RosterSite]:
    sites = [RosterSite(identity(n).key, f"site{n}", (f"tcp://10.0.0.{n}:5000",)) for n in numbers]
    return {site.key: site for site in sites}


def membership(
    number: int,
    numbers: tuple[int, ...],
    settings: MembershipSettings = LAN,
    generation: int = 1,
    now: int = 0,
) -> Membership:
    own = OwnDescription(generation, (f"tcp://10.0.0.{number}:5000",), size_class=number)
    return Membership(identity(number), CHARTER, roster_of(*numbers), own, settings, random.Random(number), now)


class Virtual:
    """Drives memberships with 2 ms latency; `cut(a, b)` says which directed pairs lose everything."""

    def __init__(self, *numbers: int, settings: MembershipSettings = LAN) -> None:
        self.now = 0
        self.numbers = numbers
        self.peers = {n: membership(n, numbers, settings) for n in numbers}
        self.number_of = {identity(n).key: n for n in numbers}
        self.wire = Wire(CHARTER, SCHEMAS)
        self.events: dict[int, list[object]] = {n: [] for n in numbers}
        self.records: dict[int, list[object]] = {n: [] for n in numbers}
        self.sent_bytes: dict[int, int] = dict.fromkeys(numbers, 0)
        self.messages: list[tuple[int, int, int, object]] = []
        self.down: set[int] = set()
        self.cut: Callable[[int, int], bool] = lambda a, b: False
        self._queue: list[tuple[int, int, int, int, bytes]] = []
        self._order = 0

    def key(self, number: int) -> SiteKey:
        return identity(number).key

    def command(self, number: int, cmd: object) -> None:
        self.peers[number].command(cmd, self.now)
        self._drain(number)

    def run(self, duration_us: int) -> None:
        end = self.now + duration_us
        while True:
            wakes = [(d, n) for n in self.numbers if n not in self.down and (d := self.peers[n].deadline()) is not None]
            wake = min(wakes, default=(end + 1, -1))
            arrival = self._queue[0][0] if self._queue else end + 1
            if min(wake[0], arrival) > end:
                break
            if arrival <= wake[0]:
                self.now, _, source, target, data = heapq.heappop(self._queue)
                self._deliver(source, target, data)
            else:
                self.now = max(self.now, wake[0])
                self.peers[wake[1]].advance(self.now)
                self._drain(wake[1])
        self.now = end

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if target in self.down or source in self.down or self.cut(source, target):
            return
        try:
            self.peers[target].receive(self.key(source), self.wire.decode(data), self.now)
        except RemoteError as error:
            self.events[target].append(error)
        self._drain(target)

    def _drain(self, number: int) -> None:
        while (effect := self.peers[number].poll()) is not None:
            self._execute(number, effect)

    def _execute(self, number: int, effect: Effect) -> None:
        if isinstance(effect, Send):
            data = self.wire.encode(effect.message)
            self.sent_bytes[number] += len(data)
            target = self.number_of[effect.to]
            self.messages.append((self.now, number, target, effect.message))
            self._order += 1
            heapq.heappush(self._queue, (self.now + 2 * MILLISECOND, self._order, number, target, data))
        elif isinstance(effect, Dial):
            target = self.number_of[effect.to]
            if target in self.down or self.cut(number, target) or self.cut(target, number):
                return
            for a, b in ((number, target), (target, number)):
                self.peers[a].command(LinkUp(self.key(b)), self.now)
                self._drain(a)
        elif isinstance(effect, Emit):
            self.events[number].append(effect.event)
        elif isinstance(effect, Persist):
            self.records[number].append(effect.record)
