"""A site that was not heard of since the start is an alarm, once that can be no slow start any more."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from kmel_p2p.core.membership import MemberState
from kmel_p2p.site.observe.status_builder import NEVER_REACHED_S, StatusBuilder

EAST, WEST, SOUTH, NORTH = (letter * 32 for letter in (b"e", b"w", b"s", b"n"))


def builder(up_s: float) -> StatusBuilder:
    """Of a site that knows nothing of east and west, hears south, and has blocked north."""
    states = dict.fromkeys((EAST, WEST, NORTH), MemberState.UNKNOWN) | {SOUTH: MemberState.ALIVE}
    parts: dict[str, Any] = {field.name: Mock() for field in dataclasses.fields(StatusBuilder)}
    parts["activity"].started_at = time.monotonic() - up_s
    parts["transport"].links = lambda: {EAST: SimpleNamespace(last_error="connection refused")}
    parts["peer"].membership.members = lambda: [SimpleNamespace(key=k, state=state) for k, state in states.items()]
    parts["orders"].blocked = {NORTH}
    return StatusBuilder(**parts)


def test_sites_that_were_never_reached_are_named_with_the_reason() -> None:
    site: Any = SimpleNamespace(names={EAST: "east", WEST: "west", SOUTH: "south", NORTH: "north"})
    assert list(builder(NEVER_REACHED_S / 2)._never_reached(site)) == []
    alarms = list(builder(2 * NEVER_REACHED_S)._never_reached(site))
    assert [(alarm.what, alarm.text) for alarm in alarms] == [
        ("never reached east", "connection refused"),
        ("never reached west", "nothing is known of its address"),
    ]
