"""An operator who reads events late and calls back from inside the handler: neither may disturb the protocol."""

from __future__ import annotations

from collections import deque

from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.core.effects import Effect, Emit, Event
from kmel_p2p.core.membership import DescribeSelf
from kmel_p2p.core.types import Micros
from tests.testbed.membership.federation import Federation
from tests.testbed.network.host import Host

UNREAD_AT_MOST = 64
"""As at the control socket: whoever does not read loses the oldest events, and nothing waits for it."""


class SlowOperator:
    """Watches one host. Unread events wait in a bounded queue; each event is answered at once by a command."""

    def __init__(self, federation: Federation, host: Host, reads_at: Micros) -> None:
        self._federation = federation
        self._host = host
        self._reads_at = reads_at
        self.unread: deque[Event] = deque(maxlen=UNREAD_AT_MOST)
        self.unread_peak = 0
        self.called_back = 0

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """Keep the event; call back into the machine that is just telling it."""
        if host is not self._host or not isinstance(effect, Emit):
            return
        if now >= self._reads_at:
            self.unread.clear()
        self.unread.append(effect.event)
        self.unread_peak = max(self.unread_peak, len(self.unread))
        self.called_back += 1
        self._federation.network.command(host, DescribeSelf(size_class=self.called_back % 16))

    def stepped(self, host: Host, now: Micros) -> None:
        """Nothing per step."""

    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None:
        """Nothing refused concerns the operator."""
