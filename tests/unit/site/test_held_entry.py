"""The entry that waits for approval can be looked at as it would leave."""

from __future__ import annotations

import base64
from unittest.mock import Mock

import pytest

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.rounds import Approve, Reject
from kmel_p2p.site.control.requests import OperatorRequests
from kmel_p2p.site.observe.activity import Activity


async def test_the_held_entry_is_handed_out_until_it_is_decided_on() -> None:
    activity, given = Activity(clock=lambda: 0.0), Mock()
    parts = dict.fromkeys(("site", "averaging", "orders", "writer", "status", "result", "stop"), Mock())
    requests = OperatorRequests(activity=activity, command=given, **parts)
    activity.trained_payload = b"\x00\xffpayload"
    assert await requests.answer("held", {}) is None
    activity.held = 7
    answer = await requests.answer("held", {})
    assert answer["number"] == 7
    assert base64.b64decode(answer["payload"]) == b"\x00\xffpayload"
    with pytest.raises(LocalError, match="entry 7 is held for approval, not 6"):
        await requests.answer("approve", {"number": 6})
    await requests.answer("reject", {"number": 7, "reason": "shows too much"})
    assert given.call_args.args == (Reject(7, "shows too much"),)
    assert await requests.answer("held", {}) is None
    activity.held = 8
    await requests.answer("approve", {"number": 8})
    assert given.call_args.args == (Approve(8),)
