"""Text goes through a file at two speeds; a client that does not read keeps no place in the queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.serve.app import application
from kmel_p2p.serve.spool import PIECE, spooled
from kmel_p2p.serve.worker import ModelWorker
from tests.support.made_up_jobs import MadeUpTables
from tests.support.net_peers import until

pytestmark = pytest.mark.asyncio

TEXTS = ["smiles\n", "C\n" * PIECE, "é\n", "end"]


async def texts(ended: asyncio.Event, fail: bool = False) -> AsyncGenerator[str, None]:
    try:
        for text in TEXTS:
            yield text
        if fail:
            raise ValueError("at the end")
    finally:
        ended.set()


async def test_everything_arrives_in_order_after_all_was_computed(tmp_path: Path) -> None:
    ended = asyncio.Event()
    sent = await spooled(texts(ended), tmp_path)
    await asyncio.wait_for(ended.wait(), 120)  # nobody has read anything
    assert b"".join([piece async for piece in sent]) == "".join(TEXTS).encode()
    assert os.listdir(tmp_path) == []


async def test_an_error_comes_behind_what_was_computed_before(tmp_path: Path) -> None:
    sent = await spooled(texts(asyncio.Event(), fail=True), tmp_path)
    found, whole = b"", "".join(TEXTS).encode()
    while len(found) < len(whole):
        found += await anext(sent)
    assert found == whole
    with pytest.raises(ValueError, match="at the end"):
        await anext(sent)


async def test_who_stops_reading_ends_the_computing(tmp_path: Path) -> None:
    ended, stuck = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[str, None]:
        try:
            yield "head"
            await stuck.wait()
        finally:
            ended.set()

    sent = await spooled(slow(), tmp_path)
    assert await anext(sent) == b"head"
    await sent.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()


async def test_a_client_that_stalls_keeps_no_place_in_the_queue() -> None:
    worker = ModelWorker(Path("model"), MadeUpTables, waiting=1)
    body = b"smiles=" + b"C" * 1000
    received = iter([{"type": "http.request", "body": body, "more_body": False}])
    stalled = asyncio.Event()

    async def receive() -> Any:
        try:
            return next(received)
        except StopIteration:
            return await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            stalled.set()
            await asyncio.Future()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/predictions.csv", "raw_path": b"/predictions.csv", "query_string": b"", "headers": headers,
        "server": ("localhost", 80), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    async with application(worker) as app:
        download = asyncio.create_task(app(scope, receive, send))
        try:
            await asyncio.wait_for(stalled.wait(), 120)
            await until(lambda: worker.free, within=120)
            assert not download.done()
        finally:
            download.cancel()
            await asyncio.wait([download])
