"""The metrics address answers GET from the status document, and nothing can be done to the peer through it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.metrics import MetricsServer
from kmel_p2p.site.observe.status import (
    AveragingStatus,
    MembershipStatus,
    MemberStatus,
    ProcessStatus,
    SitePhase,
    StatusDocument,
    TrainerStatus,
    WaitStatus,
)


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
    server = MetricsServer(document, Counter(MemberJoined=2))
    bound = await server.start("127.0.0.1", 0)
    yield bound
    await server.close()


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 5)
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
        (b"\x16\x03\x01 not http\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000, b""),
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
        await MetricsServer(document, Counter()).start("127.0.0.1", port)


def test_a_wait_for_many_sites_names_some_and_counts_the_rest() -> None:
    few = WaitStatus("they are not ready", ("south", "east"), 3.0, 60.0)
    assert few.text == "for south east since 3.0 s, at most 60 s more: they are not ready"
    many = WaitStatus("they are not ready", tuple(f"site{number}" for number in range(300)), 3.0)
    assert many.text.startswith("for site0 site1 ")
    assert "site7 and 292 more since 3.0 s, without a limit" in many.text
    assert WaitStatus("a disk", (), 1.0).text == "for nobody in particular since 1.0 s, without a limit: a disk"
