"""Who is answered, and how much is read: checked before any route sees a request.

- The Host must name this machine (`local_pages`), unless the server may be reached from others: a page on the web whose
  name resolves to loopback gets nothing.
- A form sent from another page is refused by its Origin.
- With a token, every request must carry it, as a bearer or as the password of HTTP Basic, which browsers ask for.
- A body is read up to a limit, whatever its headers say.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kmel_p2p.web.local_pages import guards, name_this_machine

FORMS = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy of pages with forms and without scripts."""

LIVE = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Of pages that keep themselves up to date."""

MAX_BODY_BYTES = 10 << 20
"""Of one request: some 100,000 rows of a table."""

READING = ("GET", "HEAD")


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        token: that requests must carry; empty for none.
        most_bytes: of a body.
        policy: content security policy of the answers.
        any_host: whether requests with a token may name any host.
        without_token: paths that are answered without a token all the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str = "",
        most_bytes: int = MAX_BODY_BYTES,
        *,
        policy: str = FORMS,
        any_host: bool = True,
        without_token: Collection[str] = (),
    ) -> None:
        self._app, self._token, self._most = app, token, most_bytes
        self._headers = guards(policy)
        self._any_host, self._without_token = any_host, frozenset(without_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, self._guarded(send))
            return
        body = _Body(receive, self._most)
        sender = self._guarded(_OrTooLarge(scope, receive, send, body))
        await self._app(scope, body, sender)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        if not (self._token and self._any_host) and not name_this_machine(headers.getlist("host")):
            return PlainTextResponse("ask for localhost or an address, not for a name\n", 421)
        asked = self._token and scope["path"] not in self._without_token
        if asked and not _carries(headers.get("authorization", ""), self._token):
            return PlainTextResponse(
                "this needs the token of the server\n", 401, {"WWW-Authenticate": 'Basic realm="kmel-peer"'}
            )
        if scope["method"] not in READING and not _same_origin(headers):
            return PlainTextResponse("sent from another page\n", 403)
        if _length(headers) > self._most:
            return _too_large(self._most)
        return None

    def _guarded(self, send: Send) -> Send:
        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in self._headers]
                # What is shown may be confidential: no cache keeps it.
                message = {**message, "headers": [*message.get("headers", []), *extra, (b"cache-control", b"no-store")]}
            await send(message)

        return sending


class _Body:
    """A body, as far as the limit.

    Attributes:
        exceeded: whether it goes on beyond; the application then sees it end as if the client were gone.
    """

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self.most = receive, most
        self._read = 0
        self.exceeded = False

    async def __call__(self) -> Message:
        if self.exceeded:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self.most:
            self.exceeded = True
            return {"type": "http.disconnect"}
        return message


class _OrTooLarge:
    """Sends the application's answer, or instead of it that the body was too large."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body: _Body) -> None:
        self._scope, self._receive, self._send, self._body = scope, receive, send, body
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if self._refused:
            return
        if self._body.exceeded and message["type"] == "http.response.start":
            self._refused = True
            await _too_large(self._body.most)(self._scope, self._receive, self._send)
            return
        await self._send(message)


def _too_large(most: int) -> PlainTextResponse:
    return PlainTextResponse(
        f"more than {most >> 20} MiB; use kmel-peer predict for large tables\n", 413, {"Connection": "close"}
    )


def _carries(authorization: str, token: str) -> bool:
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif kind.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())


def _same_origin(headers: Headers) -> bool:
    """Whether a browser sent this from the server's own page; programs say nothing of the kind.

    Browsers say where a request comes from in Sec-Fetch-Site. Their Origin is `null` even on the own page, because the
    policy here is to send no referrer.
    """
    where = headers.get("sec-fetch-site")
    if where is not None:
        return where in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def _length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isdecimal() and len(text) < 19 else 0
