"""The metrics address answers GET from the status document, and nothing can be done to the peer through it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.egress_record import Total
from kmel_p2p.site.observe.status import (
    Alarm,
    AveragingStatus,
    MembershipStatus,
    MemberStatus,
    ProcessStatus,
    SitePhase,
    StatusDocument,
    TrainerStatus,
    WaitStatus,
)
from kmel_p2p.web import server
from tests.support.page_sample import HOSTILE, ShownPeer, facts, members, status


def document() -> StatusDocument:
    member = MemberStatus(name="south", key="ab" * 32, state="suspect", state_age_s=2.0, rtt_ms=3.5, entries_applied=7)
    return StatusDocument(
        site="north",
        key="cd" * 32,
        federation="<trial>",
        charter_id="ef" * 32,
        phase=SitePhase.TRAINING,
        reason="",
        process=ProcessStatus(pid=1, rss_bytes=100, uptime_s=5.0),
        trainer=TrainerStatus(state="training"),
        mode="ledger",
        averaging=AveragingStatus(
            vector={"south": 7}, digest="00", published=3, applied=7, entry_limit=40, figures={"entries_published": 3}
        ),
        members=(member,),
        membership=MembershipStatus(health=2, counters={"dials": 5}),
        loss=0.25,
    )


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    shown = ShownPeer()
    shown.facts = facts(document())
    yield await shown.pages.start("127.0.0.1", 0)
    await shown.pages.close()


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # Answered, a connection stays open for the next request unless it is asked to be closed.
    writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    if not request:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_say_what_the_status_document_says(port: int) -> None:
    answer = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["kmel_entries_published",] == 3
    assert samples["kmel_phase", "training"] == 1
    assert samples["kmel_phase", "failed"] == 0
    assert samples["kmel_member_alive", "south"] == 1
    assert samples["kmel_member_round_trip_seconds", "south"] == 0.0035
    assert samples["kmel_events_total", "MemberJoined"] == 2
    assert samples["kmel_membership_health",] == 2
    assert samples["kmel_membership_total", "dials"] == 5


async def test_the_page_escapes_what_others_wrote(port: int) -> None:
    answer = await exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"&lt;trial&gt;" in answer
    assert b"<trial>" not in answer


@pytest.mark.parametrize(
    ("request_bytes", "beginning"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 405"),
        (b"GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 404"),
        (b"\x16\x03\x01 not http\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000, b"HTTP/1.1 400"),
        (b"", b""),
    ],
)
async def test_other_requests_are_refused_and_the_server_stays(
    port: int, request_bytes: bytes, beginning: bytes
) -> None:
    try:
        answer = await exchange(port, request_bytes)
    except ConnectionError:
        answer = b""
    assert answer.startswith(beginning)
    assert (len(answer) == 0) == (beginning == b"")
    assert (await exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (b"evil.example", 421),
        (b"evil.example:9477", 421),
        (b"localhost.evil.example", 421),
        (b"", 421),
        (b"localhost:9477", 200),
        (b"127.0.0.1:9477", 200),
        (b"[::1]:9477", 200),
    ],
)
async def test_a_name_that_resolves_to_this_machine_gets_nothing(port: int, host: bytes, code: int) -> None:
    answer = await exchange(port, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d" % code)
    assert (b"north" in answer) == (code == 200)
    assert b"default-src 'none'" in answer.split(b"\r\n\r\n")[0]


async def test_a_taken_port_is_named(port: int) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        await ShownPeer().pages.start("127.0.0.1", port)


async def test_names_and_reasons_of_others_run_nothing_on_any_page(port: int) -> None:
    shown = ShownPeer()
    hostile = status(
        members=members(HOSTILE),
        alarms=(Alarm(HOSTILE, HOSTILE, 1.0),),
        waits=(WaitStatus(HOSTILE, (HOSTILE,), 1.0),),
        reason=f"{HOSTILE}\N{RIGHT-TO-LEFT OVERRIDE}\x1b[31m",
        last_error=HOSTILE,
    )
    shown.facts = facts(hostile, exposes={"en": HOSTILE, "ko": HOSTILE}, today={(HOSTILE, HOSTILE): Total(1, 2)})
    bound = await shown.pages.start("127.0.0.1", 0)
    try:
        for path in (b"/", b"/?part=main", b"/?lang=ko&part=main"):
            answer = await exchange(bound, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"&lt;script&gt;" in answer
            assert b"<script>document" not in answer
            assert b"<img" not in answer
            assert b"\\u202e\\u001b[31m" in answer
            assert "\N{RIGHT-TO-LEFT OVERRIDE}".encode() not in answer
    finally:
        await shown.pages.close()


async def test_with_a_token_only_health_is_told_without_it() -> None:
    shown = ShownPeer("0123456789abcdef0123")
    bound = await shown.pages.start("127.0.0.1", 0)
    basic = base64.b64encode(b"me:0123456789abcdef0123")
    try:
        for path in (b"/", b"/metrics", b"/status.json", b"/board", b"/contribution", b"/nothing"):
            request = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n"
            refused = await exchange(bound, request + b"\r\n")
            assert refused.startswith(b"HTTP/1.1 401")
            assert b"north" not in refused
            answer = await exchange(bound, request + b"Authorization: Basic " + basic + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 404" if path == b"/nothing" else b"HTTP/1.1 200")
            elsewhere = b"GET / HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Basic " + basic + b"\r\n\r\n"
            assert (await exchange(bound, elsewhere)).startswith(b"HTTP/1.1 421")
        for path in (b"/healthz", b"/readyz"):
            answer = await exchange(bound, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
    finally:
        await shown.pages.close()


async def test_connections_that_say_nothing_are_few_and_are_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_S", 0.4)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server.MAX_OPEN + 8)]
    idle[0][1].write(b"GET / HTTP/1.1\r\nHost: local")
    ends = await asyncio.gather(*(_end(reader) for reader, _ in idle))
    assert ends == [b""] * len(idle)
    for _, writer in idle:
        writer.close()
    assert (await exchange(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 120)
    except ConnectionError:
        return b""


async def test_the_document_is_there_for_programs_and_a_part_for_the_page(port: int) -> None:
    answer = await exchange(port, b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    plain = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert StatusDocument.parse(plain).federation == "<trial>"
    part = (await exchange(port, b"GET /?part=main HTTP/1.1\r\nHost: localhost\r\n\r\n")).split(b"\r\n\r\n", 1)[1]
    assert part.lstrip().startswith(b'<header id="head">')
    assert b"<html" not in part


async def test_a_page_in_a_hurry_leaves_the_event_loop_alone() -> None:
    """A roster of the largest size, asked for by many at once: what blocks the loop is gathering the facts alone."""
    shown = ShownPeer()
    many = tuple(dataclasses.replace(members()[0], name=f"site-{number}") for number in range(256))
    shown.facts = facts(status(members=many))
    bound = await shown.pages.start("127.0.0.1", 0)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        await exchange(bound, request)
        made, lags = shown.pages._made.copy(), []
        shown.pages._made.clear()

        async def watch() -> None:
            while True:  # processor time of the loop's own thread: what a busy machine does is not in it
                before = time.thread_time()
                await asyncio.sleep(0.005)
                lags.append(time.thread_time() - before)

        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*(exchange(bound, request) for _ in range(20)))
        watching.cancel()
        assert {len(answer) for answer in answers} == {len(answers[0])}
        assert len(answers[0]) > 40_000
        assert made.keys() == shown.pages._made.keys()
        assert max(lags) < 0.05
    finally:
        await shown.pages.close()


def test_a_wait_for_many_sites_names_some_and_counts_the_rest() -> None:
    few = WaitStatus("they are not ready", ("south", "east"), 3.0, 60.0)
    assert few.text == "for south east since 3.0 s, at most 60 s more: they are not ready"
    many = WaitStatus("they are not ready", tuple(f"site{number}" for number in range(300)), 3.0)
    assert many.text.startswith("for site0 site1 ")
    assert "site7 and 292 more since 3.0 s, without a limit" in many.text
    assert WaitStatus("a disk", (), 1.0).text == "since 1.0 s, without a limit: a disk"
    assert WaitStatus("a disk", (), 1.0).beside("a disk") == "since 1.0 s, without a limit"
