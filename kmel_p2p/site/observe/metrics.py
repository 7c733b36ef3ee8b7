"""Figures for a monitoring system and a page for a browser, read-only, on loopback.

`GET /metrics` answers in the Prometheus text format, `GET /` with the status document as a page that reloads itself,
and further pages lie beside it (contributions).
Everything comes from the status document and the event counters, so that nothing can disagree.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Iterable, Mapping

import h11
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.local_pages import guards, name_this_machine
from kmel_p2p.site.observe.status import SitePhase, StatusDocument

log = structlog.get_logger()

MAX_OPEN = 16
"""Connections served at once; a browser and a few scrapers need no more."""
READ_BYTES = 4096
REQUEST_TIMEOUT_S = 5.0
MAX_HEAD_BYTES = 16 * 1024
"""Of one request, as h11 enforces it."""


GUARDS = guards("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")


class StatusCollector(Collector):
    """Prometheus metrics made from a status document at the moment they are asked for."""

    def __init__(self, status: Callable[[], StatusDocument], events: Mapping[str, int]) -> None:
        self._status = status
        self._events = events

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: a status document exists only once the peer runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metric families."""
        status = self._status()
        yield from _peer_metrics(status)
        yield from _member_metrics(status)
        events = CounterMetricFamily("kmel_events", "Events of the protocol and the links", labels=["event"])
        for name, count in sorted(self._events.items()):
            events.add_metric([name], count)
        yield events


def _peer_metrics(status: StatusDocument) -> Iterable[Metric]:
    phase = GaugeMetricFamily("kmel_phase", "1 for the phase this peer is in", labels=["phase"])
    for each in SitePhase:
        phase.add_metric([each.value], float(each is status.phase))
    yield phase
    yield GaugeMetricFamily("kmel_entry_limit", "rounds of this run", value=float(status.averaging.entry_limit))
    for what, value in (
        *((f"kmel_{name}", value) for name, value in status.averaging.figures.items()),
        ("kmel_membership_health", status.membership.health),
        ("kmel_alarms", len(status.alarms)),
        ("kmel_waits", len(status.waits)),
        ("kmel_held_entries", status.averaging.held),
        ("kmel_sites_blocked", sum(member.state == "blocked" for member in status.members)),
        ("kmel_trainer_restarts", status.trainer.restarts),
        ("kmel_daemon_resident_bytes", status.process.rss_bytes),
        ("kmel_trainer_resident_bytes", status.trainer.rss_bytes or 0),
        ("kmel_event_loop_lag_seconds", status.process.loop_lag_ms / 1000),
        ("kmel_bytes_out", status.egress.bytes_out),
        ("kmel_bytes_in", status.egress.bytes_in),
    ):
        yield GaugeMetricFamily(what, what.removeprefix("kmel_").replace("_", " "), value=float(value))
    if status.loss is not None:
        yield GaugeMetricFamily("kmel_train_loss", "mean loss of the newest round", value=status.loss)
    if status.ages.published_s is not None:
        yield GaugeMetricFamily("kmel_published_age_seconds", "since the newest own entry", status.ages.published_s)
    decisions = CounterMetricFamily("kmel_membership", "Decisions of membership", labels=["decision"])
    for name, count in status.membership.counters.items():
        decisions.add_metric([name], count)
    yield decisions


def _member_metrics(status: StatusDocument) -> Iterable[Metric]:
    alive = GaugeMetricFamily("kmel_member_alive", "1 while the site counts as reachable", labels=["site"])
    entries = GaugeMetricFamily("kmel_member_entries", "newest entry applied of the site", labels=["site"])
    trip = GaugeMetricFamily("kmel_member_round_trip_seconds", "probe round trip", labels=["site"])
    for member in status.members:
        alive.add_metric([member.name], float(member.reachable))
        entries.add_metric([member.name], member.entries_applied)
        if member.rtt_ms is not None:
            trip.add_metric([member.name], member.rtt_ms / 1000)
    yield from (alive, entries, trip)


class MetricsServer:
    """HTTP on one loopback address. Answers GET and nothing else; never touches the peer."""

    def __init__(
        self,
        status: Callable[[], StatusDocument],
        events: Mapping[str, int],
        pages: Mapping[str, Callable[[str], str]] | None = None,
    ) -> None:
        """`pages`: path -> makes the page; given what follows the question mark."""
        self._status = status
        self._pages = dict(pages or {})
        self._registry = CollectorRegistry()
        self._registry.register(StatusCollector(status, events))
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=READ_BYTES)
        except OSError as error:
            raise ConfigError(
                f"metrics.listen: cannot listen on {host}:{port}: {error.strerror}; choose another port"
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Answer nothing more."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= MAX_OPEN:
            writer.close()
            return
        self._open.add(task)
        try:
            await asyncio.wait_for(self._serve(reader, writer), REQUEST_TIMEOUT_S)
        except (TimeoutError, OSError, h11.RemoteProtocolError):
            # A client that is slow, gone or speaks no HTTP gets no answer; nobody needs to know.
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        if not isinstance(event, h11.Request):
            return
        code, kind, body = self._answer(event)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close"), *GUARDS]
        for part in (h11.Response(status_code=code, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
        await writer.drain()

    def _answer(self, request: h11.Request) -> tuple[int, str, bytes]:
        path, _, query = request.target.partition(b"?")
        if not name_this_machine(value.decode("latin-1") for name, value in request.headers if name == b"host"):
            return 421, "text/plain; charset=utf-8", b"ask for localhost or an address, not for a name\n"
        if request.method != b"GET":
            return 405, "text/plain; charset=utf-8", b"only GET\n"
        if path == b"/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path == b"/":
            return 200, "text/html; charset=utf-8", status_page(self._status()).encode()
        page = self._pages.get(path.decode("latin-1"))
        if page is not None:
            return 200, "text/html; charset=utf-8", page(query.decode("latin-1")).encode()
        if path == b"/healthz":
            return 200, "text/plain; charset=utf-8", b"the daemon answers\n"
        if path == b"/readyz":
            reason = why_not_ready(self._status())
            return (503 if reason else 200), "text/plain; charset=utf-8", f"{reason or 'ready'}\n".encode()
        known = ", ".join(("/", "/metrics", "/healthz", "/readyz", *sorted(self._pages)))
        return 404, "text/plain; charset=utf-8", f"here are {known}\n".encode()


def why_not_ready(status: StatusDocument) -> str:
    """Why this peer does not take part in the run at the moment; empty when it does."""
    if status.phase in (SitePhase.PREPARING, SitePhase.FAILED, SitePhase.STOPPING):
        return f"{status.phase.value}: {status.reason or status.phase.meaning}"
    if status.members and not status.reachable:
        return "no other site is reachable"
    return ""


def status_page(status: StatusDocument) -> str:
    """The status document as one self-contained page that reloads itself every five seconds."""
    rows = "".join(
        f"<tr><td>{html.escape(m.name)}</td><td>{m.state}</td><td>{m.entries_applied}</td>"
        f"<td>{'' if m.rtt_ms is None else f'{m.rtt_ms:.1f} ms'}</td><td>{html.escape(m.problem)}</td></tr>"
        for m in status.members
    )
    alarms = "".join(f"<li>{html.escape(a.text)} ({a.age_s:.0f} s ago)</li>" for a in status.alarms)
    waits = "".join(f"<li>{html.escape(wait.text)}</li>" for wait in status.waits)
    summary = "".join(
        f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
        for label, text in (("mode", status.mode), *status.averaging.summary)
    )
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f"<title>{html.escape(status.site)} · {status.phase}</title>"
        "<style>body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}pre{background:#f5f5f5;padding:1rem;"
        "overflow:auto}</style>"
        f"<h1>{html.escape(status.site)} <small>{html.escape(status.federation)}</small></h1>"
        f'<p><b title="{html.escape(status.phase.meaning)}">{status.phase}</b> {html.escape(status.reason)}</p>'
        f"{'<h2>Waits</h2><ul>' + waits + '</ul>' if waits else ''}"
        f"<table>{summary}</table>"
        '<p><a href="contribution">contributions</a>, <a href="board">board</a></p>'
        f"{'<h2>Alarms</h2><ul>' + alarms + '</ul>' if alarms else ''}"
        "<h2>Sites</h2><table><tr><th>site</th><th>state</th><th>entries</th><th>round trip</th><th>problem</th></tr>"
        f"{rows}</table><h2>Everything</h2><pre>{html.escape(json.dumps(status.as_dict(), indent=1))}</pre>"
    )


async def serve_metrics(listen: str, server: MetricsServer) -> None:
    """Have it listen at `host:port`; not at all where that is empty. Raises as `MetricsServer.start`."""
    if listen:
        host, _, port = listen.rpartition(":")
        bound = await server.start(host.strip("[]"), int(port))
        log.info("metrics", address=f"http://{host}:{bound}/")
