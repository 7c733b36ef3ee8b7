"""Who is answered: hosts, other pages, tokens, and bodies without end."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from kmel_p2p.web.guard import Guard

TOKEN = "0123456789abcdef0123"


async def _echo(scope, receive, send):
    """Answers with the length of the body."""
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def _client(token: str = "", most: int = 1000) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=Guard(_echo, token, most))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8410")


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8410", 200), ("localhost", 200), ("[::1]:8410", 200), ("evil.example", 421),
     ("localhost.evil.example:8410", 421), ("127.0.0.1.evil.example", 421), ("", 421)],
)  # fmt: skip
async def test_a_name_that_resolves_to_this_machine_gets_nothing(host: str, status: int) -> None:
    async with _client() as client:
        answer = await client.get("/", headers={"Host": host})
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8410"}, 200),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:8411"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
async def test_a_form_of_another_page_is_refused(headers: dict[str, str], status: int) -> None:
    async with _client() as client:
        assert (await client.post("/", headers=headers, content=b"x")).status_code == status


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("given", "status"),
    [(f"Bearer {TOKEN}", 200), (_basic(TOKEN), 200), ("", 401), ("Bearer ", 401), (f"Bearer {TOKEN}x", 401),
     (_basic(TOKEN[:-1]), 401), ("Basic !!!", 401), (f"Digest {TOKEN}", 401), ("Basic /w==", 401)],
)  # fmt: skip
async def test_with_a_token_every_request_carries_it(given: str, status: int) -> None:
    async with _client(TOKEN) as client:
        answer = await client.get("/", headers={"Authorization": given, "Host": "models.example"} if given else {})
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


async def _pieces(sent: list[int], size: int) -> AsyncIterator[bytes]:
    while len(sent) < 100:
        sent.append(size)
        yield b"x" * size


async def test_a_body_is_read_up_to_the_limit_whatever_its_headers_say() -> None:
    async with _client() as client:
        assert (await client.post("/", content=b"x" * 1000)).text == "1000"
        told = await client.post("/", content=b"x" * 1001)
        assert told.status_code == 413
        assert "kmel-peer predict" in told.text
        sent: list[int] = []
        streamed = await client.post("/", content=_pieces(sent, 300))
        assert streamed.status_code == 413
        lying = await client.post("/", content=_pieces([], 300), headers={"Content-Length": "5"})
        assert lying.status_code == 413
        odd = await client.post("/", content=b"x" * 3000, headers={"Content-Length": "-1"})
        assert odd.status_code == 413
