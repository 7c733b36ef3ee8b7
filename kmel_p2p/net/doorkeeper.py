"""Bounds what connections to our port may cost: their number, their age without a word, and bytes that end nothing.

ZeroMQ accepts whoever comes, keeps a connection whose handshake never ends for seconds, and keeps every part of a
multipart message until the last one is there. It tells the descriptor of each connection, though, and that is enough to
count them, to see how many bytes came in, and to end them. A connection is *silent* until its first whole message: an
honest peer says HELLO as soon as its key was admitted.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.net.descriptors import bytes_received, open_files_limit, remote_host, shut_down
from kmel_p2p.net.settings import MIB, TransportSettings

RESERVED_FILES = 256
"""Descriptors that no connection to our port may take: store, logs, trainer, control socket, our own dials."""

SILENT_MAX = 512
"""Connections without a message, from all hosts. A federation of 300 sites that starts at once stays below it."""

SILENT_OF_ONE_HOST = 128
"""The same from one host: sites behind one address, not a program that connects in a loop. Of IPv6 it is one network,
because every host has a whole /64 of addresses."""

IPV6_NETWORK_BITS = 64

CONNECTIONS_OF_ONE_SITE = 16
"""Two are in use, and some may be on their way out."""

ADMITTED_MAX = 1024
"""Keys remembered that the gate let in and that have not said a word: by them a silent connection is named."""

UNFINISHED_SILENT = 1 * MIB
"""Bytes that may arrive before the first whole message, which is a HELLO of a few hundred bytes."""

UNFINISHED_MAX = 8 * MIB
"""Bytes that may arrive without completing a message. The largest has two frames of 260 KiB; the rest is what the
kernel may hold that ZeroMQ has not read."""

LOOK_EVERY: Micros = 50 * MILLISECOND
"""Between two looks at the bytes of all connections; longer where there are many (`PER_CONNECTION`)."""

PER_CONNECTION: Micros = MILLISECOND // 2
"""A look at one takes about 5 microseconds: this keeps all looks at a hundredth of the processor."""

CUT_WITHIN: Micros = 5 * SECOND
"""A busy loop looks later."""

TOO_MANY = "it opened too many connections and said nothing on them"
TOO_QUIET = "its connection said nothing for too long"
ENDLESS = "it sent a message without an end"
CROWDED = "this site keeps too many connections open at once"


class Unfinished:
    """Watches the bytes of one connection for a message without an end: ours, or one that others opened."""

    def __init__(self, descriptor: int) -> None:
        self.messages = 0
        self._descriptor = descriptor
        self._counted = 0
        """`messages` at the last look."""
        self._base_bytes = 0
        """Bytes that had arrived at the last look that found new messages."""

    def heard(self) -> None:
        """A whole message came."""
        self.messages += 1

    def is_endless(self, most: int) -> bool:
        """Whether more than `most` bytes came since the last look that found a new message."""
        received = bytes_received(self._descriptor)
        if received is None:
            return False
        if self.messages != self._counted:
            self._counted, self._base_bytes = self.messages, received
            return False
        return received - self._base_bytes > most


@dataclass(slots=True)
class Guest:
    """One connection to our port."""

    descriptor: int
    host: str
    network: str
    """What counts as one host: see `SILENT_OF_ONE_HOST`."""
    since_us: Micros
    unfinished: Unfinished
    site: str = ""
    """Hex key, once a message came."""


class Doorkeeper:
    """See the module docstring.

    Args:
        loop: looks happen on it.
        settings: how long a connection may take to say its first word (`dial_timeout_us`).
        clock: monotonic microseconds.
        on_cut: told host, site (hex key, empty when unknown) and reason of each connection that was ended.
        is_idle: whether everything that arrived whole has been taken from the socket.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: TransportSettings,
        clock: Callable[[], Micros],
        on_cut: Callable[[str, str, str], None],
        is_idle: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._clock = clock
        self._on_cut = on_cut
        self._is_idle = is_idle
        self._guests: dict[int, Guest] = {}
        self._silent: dict[int, Guest] = {}
        """Those without a message yet, the oldest first."""
        self._silent_from: Counter[str] = Counter()
        self._admitted: deque[tuple[str, str, Micros]] = deque(maxlen=ADMITTED_MAX)
        """Host and site (hex key) of whom the gate let in and who was not heard yet, and when."""
        self._port = 0
        self._timer: asyncio.TimerHandle | None = None
        limit = open_files_limit()
        self._room = max(limit - RESERVED_FILES, limit // 2)
        self._silent_max = min(SILENT_MAX, limit // 4)
        self._silent_of_one = min(SILENT_OF_ONE_HOST, self._silent_max // 2)
        self.cuts: Counter[str] = Counter()
        """Connections ended, by reason."""

    def __len__(self) -> int:
        return len(self._guests)

    def open(self, port: int) -> None:
        """Begin: our port is bound."""
        self._port = port
        self._arm()

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- what the port tells ------------------------------------------------------------------------------------

    def accepted(self, descriptor: int) -> None:
        """Somebody connected."""
        self.ended(descriptor)  # the number is in use again: the newest comes last
        host = remote_host(descriptor, self._port)
        if host is None:
            return
        network = network_of(host)
        self._guests[descriptor] = self._silent[descriptor] = Guest(
            descriptor, host, network, self._clock(), Unfinished(descriptor)
        )
        self._silent_from[network] += 1
        # The oldest of the crowd goes: an honest peer is through in a moment, and whoever floods has the most old ones.
        if self._silent_from[network] > self._silent_of_one:
            self._cut_oldest(network)
        elif len(self._silent) > self._silent_max or len(self._guests) > self._room:
            self._cut_oldest(max(self._silent_from, key=self._silent_from.__getitem__))

    def admitted(self, host: str, site: str) -> None:
        """The gate let a site in that connects from this host; over which connection it does not know."""
        self._admitted.append((host, site, self._clock()))

    def heard(self, descriptor: int, site: str) -> None:
        """A whole message came over a connection that is authenticated as `site`'s."""
        guest = self._guests.get(descriptor)
        if guest is None:
            return
        guest.unfinished.heard()
        if guest.unfinished.messages > 1:
            return
        self._heard_of(guest)
        guest.site = site
        same_guest = next((one for one in self._admitted if one[:2] == (guest.host, site)), None)
        if same_guest is not None:
            self._admitted.remove(same_guest)
        same = [other for other in self._guests.values() if other.site == site]
        if len(same) > CONNECTIONS_OF_ONE_SITE:
            self._cut(same[0], CROWDED)

    def ended(self, descriptor: int) -> None:
        """A connection is gone."""
        guest = self._guests.pop(descriptor, None)
        if guest is not None:
            self._heard_of(guest)

    def _heard_of(self, guest: Guest) -> None:
        """It is silent no longer, or gone."""
        if self._silent.pop(guest.descriptor, None) is not None:
            self._silent_from[guest.network] -= 1
            if not self._silent_from[guest.network]:
                del self._silent_from[guest.network]

    # ---- time ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """End what has been silent for too long, and what sends a message without an end."""
        now = self._clock()
        idle = self._is_idle()
        for guest in list(self._guests.values()):
            silent = not guest.unfinished.messages
            if silent and now - guest.since_us > self._settings.dial_timeout_us:
                self._cut(guest, TOO_QUIET)
                continue
            # Whole messages that wait in the socket are bounded by its high-water mark and the window.
            waiting = 0 if idle else 2 * self._settings.window + UNFINISHED_MAX
            if guest.unfinished.is_endless((UNFINISHED_SILENT if silent else UNFINISHED_MAX) + waiting):
                guest.site = guest.site or self._only_admitted(guest.host)
                self._cut(guest, ENDLESS)

    def _arm(self) -> None:
        pause = max(LOOK_EVERY, PER_CONNECTION * len(self._guests))
        self._timer = self._loop.call_later(pause / SECOND, self._due)

    def _due(self) -> None:
        try:
            self.look()
        finally:
            self._arm()

    def _only_admitted(self, host: str) -> str:
        """The site that alone was let in from a host lately and has said nothing; empty where it may be several."""
        first = self._clock() - self._settings.dial_timeout_us - CUT_WITHIN
        sites = {site for from_host, site, at_us in self._admitted if from_host == host and at_us >= first}
        return sites.pop() if len(sites) == 1 else ""

    def _cut_oldest(self, network: str) -> None:
        """End the connection of this network that has been silent for longest."""
        self._cut(next(guest for guest in self._silent.values() if guest.network == network), TOO_MANY)

    def _cut(self, guest: Guest, reason: str) -> None:
        self.ended(guest.descriptor)
        shut_down(guest.descriptor, self._port)
        self.cuts[reason] += 1
        self._on_cut(guest.host, guest.site, reason)


def network_of(host: str) -> str:
    """What counts as one host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address) >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS, IPV6_NETWORK_BITS)))
