"""Pauses training when the operator says so and outside of the site's training hours, and goes on afterwards."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from kmel_p2p.core.rounds import Pause, Resume
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.training_hours import closed_until


def local_time() -> datetime.datetime:
    """The clock on the wall."""
    return datetime.datetime.now().astimezone()


class Pausing:
    """See the module docstring.

    Args:
        orders: know whether the operator paused training.
        hours: of training (`site.training_hours`); empty: always.
        command: feeds a command to the protocol.
        clock: local time.
    """

    def __init__(
        self,
        orders: OrderBook,
        hours: Sequence[str],
        command: Callable[[Any], None],
        clock: Callable[[], datetime.datetime] = local_time,
    ) -> None:
        self._orders, self._hours, self._command, self._clock = orders, hours, command, clock
        self._reason = ""

    def look(self) -> None:
        """Called every few seconds: tell the protocol if anything changed."""
        if self._now() != self._reason:
            self.tell()

    def tell(self) -> None:
        """Tell the protocol how it is now, whether or not it knows."""
        self._reason = self._now()
        self._command(Pause(self._reason) if self._reason else Resume())

    def _now(self) -> str:
        """Why there is no training now; empty if there is."""
        paused = self._orders.orders.paused
        if paused is not None:
            return f"{paused or 'paused by the operator'}; kmel-peer resume goes on"
        until = closed_until(self._hours, self._clock())
        return f"outside of this site's training hours until {until} ([resources] hours)" if until else ""
