"""A daemon that only answers its control socket, and what a command printed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.site.control.server import ControlServer
from kmel_p2p.site.state.lockfile import SiteLock


@dataclass
class Output:
    code: int
    out: str
    err: str


Run = Callable[..., Output]


STATUS: dict[str, Any] = {
    "site": "north",
    "key": "ab" * 32,
    "federation": "demo",
    "charter_id": "cd" * 32,
    "phase": "training",
    "reason": "round 4 is open",
    "process": {"pid": 4, "rss_bytes": 150_000_000, "uptime_s": 12.0, "cpu_s": 1.0, "loop_lag_ms": 0.4,
                "loop_lag_recent_ms": 0.2, "version": "0", "generation": 1},
    "trainer": {"state": "preparing", "pid": 5, "rss_bytes": 700_000_000, "progress": ["structures", 3, 10],
                "heard_age_s": 0.1, "restarts": 1, "limits": ""},
    "mode": "ledger",
    "ledger": {"vector": {"north": 3, "south": 2}, "digest": "ef" * 32, "published": 3, "applied": 2, "refused": 0,
               "ended": {}, "held": 1, "entry_limit": 40, "payload_bytes_mean": 18_000.0,
               "summary": [["published", "3 of 40 (newest: 1.0 s ago), 1 held for approval"]],
               "figures": {"entries_published": 3}},
    "ages": {"published_s": 1.0, "applied_s": 300.0, "trained_s": 0.5, "sent_s": 0.1, "received_s": None},
    "egress": {"bytes_out": 123_456, "bytes_in": 99, "entry_bytes_out": 0, "records": 3},
    "members": [{"name": "south", "key": "99" * 32, "state": "alive", "state_age_s": 3.0, "heard_age_s": 0.2,
                 "rtt_ms": 1.5, "last_rtt_ms": None, "address": "tcp://192.0.2.1:7700", "bytes_in": 5, "bytes_out": 6,
                 "entries_applied": 2, "problem": "", "outbound": True, "inbound": True, "behind": 0}],
    "waits": [{"reason": "1 of 2 sites are ready to start", "sites": ["south"], "since_s": 3.0, "until_s": None}],
    "membership": {"health": 2, "counters": {"dials": 3, "stalls": 0}},
    "address": "tcp://0.0.0.0:7700",
    "loss": 0.25,
    "scores": {"logS": {"valid": 0.7}},
    "compared": {},
    "federation_payoff": None,
    "data": {},
    "alarms": [{"what": "disk", "text": "little space left", "age_s": 7.0}],
    "last_error": "",
    "schema": 1,
}  # fmt: skip


class FakeDaemon:
    """Holds a state directory and answers on its control socket, from a thread."""

    def __init__(self, state_dir: Path) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self._state_dir = state_dir
        self._lock = SiteLock(state_dir)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._stop: Callable[[], None] = lambda: None

    async def _serve(self) -> None:
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(ending.set)  # type: ignore[assignment, return-value]

        async def handler(name: str, arguments: Mapping[str, Any]) -> Any:
            self.asked.append((name, dict(arguments)))
            if name == "stop":
                ending.set()
                return None
            if name == "approve" and arguments["number"] != 4:
                raise LocalError("no entry is held back")
            return STATUS if name == "status" else self.answers.get(name)

        server = ControlServer(self._state_dir, handler)
        await server.start()
        self._ready.set()
        await ending.wait()
        await server.close()
        self._lock.release()

    def start(self) -> None:
        self._lock.acquire()
        self._thread.start()
        assert self._ready.wait(120)

    def close(self) -> None:
        if self._thread.is_alive():
            self._stop()
        self._thread.join(120)
        self._lock.release()
