"""Whether bulk messages get through to a site whose control messages do: a path may be dead for one of the two.

A firewall that ends long transfers, or a path that loses large packets (a black hole for its MTU), leaves probes and
keepalives alive. So does a site that asks for entries and grants no room for them. The outbox dials anew and gives
messages up; this says so to the operator, once when it begins and once when something gets through again.
"""

from __future__ import annotations

from typing import Protocol

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.net.link_events import BulkMoves, BulkStuck

TOLD_AFTER: Micros = 20 * SECOND
"""Without progress for so long, it is told. A slow path makes progress every few seconds."""


class Moving(Protocol):
    """What is asked of an outbox."""

    def stuck_since(self) -> Micros | None: ...

    def wants_credit(self) -> bool: ...


class BulkHealth:
    """See the module docstring.

    Attributes:
        problem: in words; empty while all is well.
    """

    def __init__(self, key: SiteKey) -> None:
        self.problem = ""
        self._key = key
        self._up_since_us: Micros | None = None

    def look(self, now: Micros, up: bool, outbox: Moving, has_route: bool, error: str) -> BulkStuck | BulkMoves | None:
        """See how it stands; returns what to tell.

        Args:
            now: monotonic time.
            up: whether control messages get through. Where they do not, that is told already.
            outbox: the messages for that site.
            has_route: whether there is a bulk connection.
            error: why the last one ended or could not be opened; empty if unknown.
        """
        if not up:
            self._up_since_us = None
        elif self._up_since_us is None:
            self._up_since_us = now
        since_us = outbox.stuck_since()
        before, self.problem = self.problem, ""
        if since_us is not None and self._up_since_us is not None:
            lasts_us = now - max(since_us, self._up_since_us)
            if lasts_us >= TOLD_AFTER:
                cause = f" (the last one: {error})" if error else ""
                self.problem = (
                    f"nothing large, such as an entry, has got through for {lasts_us // SECOND} s, though small "
                    f"messages do: {_why(outbox, has_route, cause)}"
                )
        if self.problem and not before:
            return BulkStuck(self._key, self.problem)
        return BulkMoves(self._key) if before and not self.problem else None


def _why(outbox: Moving, has_route: bool, cause: str) -> str:
    """What is known of the reason, and what to do."""
    if has_route and outbox.wants_credit():
        return (
            "its peer takes what fits into its first window, and grants no room for the rest. It is dialled anew; ask "
            "its operator whether the peer hangs"
        )
    if has_route:
        return (
            f"a bulk connection is open, but moves nothing{cause}. It is dialled anew; look for a firewall or tunnel "
            "that drops large packets"
        )
    return (
        f"there is no bulk connection{cause}. It is dialled anew; look for a firewall or tunnel that drops large "
        "packets"
    )
