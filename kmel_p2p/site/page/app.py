"""The peer's page and its metrics, as one application: read-only, for this machine.

    /                 where this peer stands, live            /metrics     for Prometheus
    /contribution     what contributions were worth           /healthz     200 while the daemon answers
    /board            needs and offers                        /readyz      503 and why while it takes no part
    /status.json      the status document

Facts are gathered on the event loop, which takes a few milliseconds; pages are made from them in one thread, one at a
time, so that whoever asks in a hurry delays nothing but the page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kmel_p2p.site.observe.metrics import StatusCollector, why_not_ready
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.page.board_page import board_values
from kmel_p2p.site.page.contribution_page import FILTERS, contribution_values
from kmel_p2p.site.page.view import Facts, page_values
from kmel_p2p.site.page.words import WORDS, language
from kmel_p2p.web.guard import LIVE, Guard
from kmel_p2p.web.server import WebServer
from kmel_p2p.web.templates import block, page, script, style

log = structlog.get_logger()

PACKAGE = "kmel_p2p.site.page"

EVERY_S = 2
"""Between two looks of a page that is being looked at."""

FRESH_S = 0.5
"""Facts younger than this serve the next request as well."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the pages have what they show.

    Attributes:
        status: makes the status document.
        events: counts for the metrics.
        facts: what the first page shows, given a status document.
        contribution: the report.
        board: (rows, matches).
    """

    status: Callable[[], StatusDocument]
    events: Mapping[str, int]
    facts: Callable[[StatusDocument], Facts]
    contribution: Callable[[], Mapping[str, Any]]
    board: Callable[[], tuple[Any, Any]]


class PeerPages:
    """The application while it is served.

    Args:
        sources: of what is shown.
        token: that everything but /healthz and /readyz asks for; empty for none.
    """

    def __init__(self, sources: Sources, token: str = "") -> None:
        self._sources = sources
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._status_at: tuple[float, StatusDocument] | None = None
        self._made: dict[tuple[str, str, bool], tuple[float, str]] = {}
        self._making = asyncio.Lock()
        registry = CollectorRegistry()
        registry.register(StatusCollector(self._status, sources.events))
        self._registry = registry
        # Without a body, a request is a few hundred bytes.
        self.app = Guard(
            self._routes(), token, 1 << 20, policy=LIVE, any_host=False, without_token=("/healthz", "/readyz")
        )
        self._server = WebServer(self.app)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises as `WebServer.start`."""
        return await self._server.start(host, port)

    async def close(self) -> None:
        """Answer nothing more."""
        await self._server.close()
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _status(self) -> StatusDocument:
        now = time.monotonic()
        if self._status_at is None or now - self._status_at[0] > FRESH_S:
            self._status_at = (now, self._sources.status())
        return self._status_at[1]

    def _routes(self) -> Starlette:
        known = {
            "/": self._page,
            "/board": self._page,
            "/contribution": self._page,
            "/metrics": self._metrics,
            "/healthz": self._healthy,
            "/readyz": self._ready,
            "/status.json": self._document,
            "/style.css": self._style,
            "/live.js": self._script,
        }

        async def nothing(request: Request, error: Exception) -> Response:
            return PlainTextResponse(f"here are {', '.join(known)}\n", 404)

        async def failed(request: Request, error: Exception) -> Response:
            log.error("page failed", path=request.url.path, error=repr(error), exc_info=error)
            return PlainTextResponse("this page cannot be made; peer.log says why\n", 500)

        return Starlette(
            routes=[Route(path, answer, methods=["GET"]) for path, answer in known.items()],
            exception_handlers={404: nothing, Exception: failed},
        )

    # ---- pages --------------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        lang = language(request.url.query, request.headers.get("accept-language", ""))
        part = request.query_params.get("part") == "main"
        return HTMLResponse(await self._made_page(request.url.path, lang, part))

    async def _made_page(self, path: str, lang: str, part: bool) -> str:
        """Made once for all who ask within `FRESH_S`."""
        async with self._making:
            asked = (path, lang, part)
            made = self._made.get(asked)
            if made is None or time.monotonic() - made[0] > FRESH_S:
                make = self._maker_of(path, lang, part)
                text = await asyncio.get_running_loop().run_in_executor(self._maker, make)
                made = self._made[asked] = (time.monotonic(), text)
            return made[1]

    def _maker_of(self, path: str, lang: str, part: bool) -> Callable[[], str]:
        """Gathers the facts now; what is returned makes the page of them, in any thread."""
        common = {"served": True, "live": EVERY_S, "lost": WORDS[lang]["lost"]}
        if path == "/board":
            board = board_values(*self._sources.board(), lang)
            return lambda: _rendered("board.html", {**board, **common, "query": f"?lang={lang}"}, part)
        if path == "/contribution":
            report = contribution_values(self._sources.contribution(), lang)
            return lambda: _rendered("contribution.html", {**report, **common, "query": f"?lang={lang}"}, part)
        facts = self._sources.facts(self._status())
        return lambda: _rendered("page.html", {**page_values(facts, lang), **common}, part)

    async def _style(self, request: Request) -> Response:
        return Response(style((PACKAGE, "page.css")), media_type="text/css")

    async def _script(self, request: Request) -> Response:
        return Response(script(), media_type="text/javascript")

    # ---- for programs -------------------------------------------------------------------------------------------

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthy(self, request: Request) -> Response:
        return PlainTextResponse("the daemon answers\n")

    async def _ready(self, request: Request) -> Response:
        reason = why_not_ready(self._status())
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    async def _document(self, request: Request) -> Response:
        return JSONResponse(self._status().as_dict())


def _rendered(template: str, values: Mapping[str, object], part: bool) -> str:
    if part:
        return block(PACKAGE, template, "main", values, FILTERS)
    return page(PACKAGE, template, values, FILTERS)
