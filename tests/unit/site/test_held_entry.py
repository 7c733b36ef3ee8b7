"""The entry that waits for approval can be looked at as it would leave."""

from __future__ import annotations

import base64
from pathlib import Path
from unittest.mock import Mock

import pytest

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.rounds import Approve, ApproveUntil, Reject
from kmel_p2p.site.control.requests import ALL_ENTRIES, OperatorRequests
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.state.orders import OrderBook


async def test_the_held_entry_is_handed_out_until_it_is_decided_on() -> None:
    activity, given = Activity(clock=lambda: 0.0), Mock()
    parts = dict.fromkeys(("site", "averaging", "orders", "writer", "status", "result", "stop", "pause"), Mock())
    requests = OperatorRequests(activity=activity, command=given, **parts)
    activity.trained_payload = b"\x00\xffpayload"
    assert await requests.answer("held", {}) is None
    activity.hold(7)
    assert [alarm.what for alarm in activity.alarms] == ["entry held"]
    answer = await requests.answer("held", {})
    assert answer["number"] == 7
    assert base64.b64decode(answer["payload"]) == b"\x00\xffpayload"
    with pytest.raises(LocalError, match="entry 7 is held for approval, not 6"):
        await requests.answer("approve", {"number": 6})
    await requests.answer("reject", {"number": 7, "reason": "shows too much"})
    assert given.call_args.args == (Reject(7, "shows too much"),)
    assert not activity.alarms
    assert await requests.answer("held", {}) is None
    activity.hold(8)
    await requests.answer("approve", {"number": 8})
    assert given.call_args.args == (Approve(8),)


async def test_entries_approved_beforehand_are_kept_over_restarts(tmp_path: Path) -> None:
    activity, given, orders = Activity(clock=lambda: 0.0), Mock(), OrderBook(tmp_path)
    parts = dict.fromkeys(("site", "averaging", "writer", "status", "result", "stop", "pause"), Mock())
    requests = OperatorRequests(activity=activity, command=given, orders=orders, **parts)
    activity.hold(7)
    await requests.answer("approve_until", {"number": 6})
    assert activity.held == 7
    await requests.answer("approve_until", {"number": 9})
    assert given.call_args.args == (ApproveUntil(9),)
    assert activity.held == 0
    assert OrderBook(tmp_path).orders.approved_until == 9
    for wrong in (-1, "all", None, ALL_ENTRIES + 1):
        with pytest.raises(LocalError, match="approved up to a number"):
            await requests.answer("approve_until", {"number": wrong})
