"""A transport against one in another process that is killed, stopped, or stuck (T08, T11)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from kmel_p2p.agreement.identity import Identity, SiteKey, digest
from kmel_p2p.core.effects import LinkDown
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane
from kmel_p2p.net.link_events import DialFailed, LinkEvent, LinkState
from kmel_p2p.net.settings import CHUNK_BYTES, TransportSettings
from kmel_p2p.net.transport import Transport

pytestmark = [pytest.mark.process, pytest.mark.alone]

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
US, THEM = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
SETTINGS = TransportSettings(
    max_message=64 * MIB,
    window=2 * MIB,
    backoff_first_us=50 * MILLISECOND,
    backoff_cap_us=300 * MILLISECOND,
    dial_timeout_us=1500 * MILLISECOND,
    connect_timeout_us=1 * SECOND,
    handshake_timeout_us=1 * SECOND,
    heartbeat_us=200 * MILLISECOND,
    heartbeat_timeout_us=1 * SECOND,
    keepalive_us=200 * MILLISECOND,
    silence_us=2 * SECOND,
    stall_us=20 * SECOND,
    resume_us=30 * SECOND,
)


async def until(condition: Callable[[], Any], within: float = 120.0) -> Any:
    end = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s")
        await asyncio.sleep(0.005)
    return value


class Child:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read(), name="child output")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said.append(json.loads(line))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def saying(self, key: str) -> list[Any]:
        return [line[key] for line in self.said if key in line]

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()  # reaches a stopped process too
        await self.process.wait()
        await self._reader


class Scene:
    """Our transport and the children it deals with."""

    def __init__(self) -> None:
        self.events: list[LinkEvent] = []
        self.messages: list[tuple[SiteKey, bytes, Lane]] = []
        self.children: list[Child] = []
        self.transport = Transport(
            US,
            lambda: [THEM.key],
            "tcp://127.0.0.1:0",
            settings=SETTINGS,
            on_message=lambda sender, data, lane: self.messages.append((sender, bytes(data), lane)),
            on_link=self.events.append,
            clock=lambda: time.monotonic_ns() // 1000,
            rng=random.Random(1),
        )
        self.address = ""

    async def child(self, bind: str = "tcp://127.0.0.1:0") -> tuple[Child, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.transport_child",
            "2",
            bind,
            US.key.hex(),
            SETTINGS.model_dump_json(),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        child = Child(process)
        self.children.append(child)
        return child, (await until(lambda: child.saying("address")))[0]

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def link(self) -> LinkState:
        return self.transport.links()[THEM.key]

    async def connect(self, address: str) -> None:
        self.transport.dial(THEM.key, (address,))
        await until(lambda: self.link.outbound)


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    made.address = await made.transport.start()
    yield made
    for child in made.children:
        await child.end()
    await made.transport.close()


async def test_a_killed_peer_is_gone_at_once_and_nobody_listens(scene: Scene) -> None:
    child, address = await scene.child()
    await scene.connect(address)
    os.kill(child.process.pid, signal.SIGKILL)
    down = await until(lambda: scene.told(LinkDown))
    # And not, a second later, by its silence.
    assert "closed the connection" in down[0].reason
    await until(lambda: scene.told(DialFailed))
    assert "nobody listens" in scene.told(DialFailed)[0].reason


async def test_a_stopped_peer_has_no_heartbeat_and_comes_back_by_itself(scene: Scene) -> None:
    child, address = await scene.child()
    await scene.connect(address)
    os.kill(child.process.pid, signal.SIGSTOP)
    down = await until(lambda: scene.told(LinkDown))
    assert "no heartbeat" in down[0].reason
    await until(lambda: scene.told(DialFailed))
    assert "does not finish the handshake" in scene.told(DialFailed)[0].reason
    os.kill(child.process.pid, signal.SIGCONT)
    await until(lambda: scene.link.outbound)


async def test_a_peer_whose_program_is_stuck_is_told_apart_and_comes_back_by_itself(scene: Scene) -> None:
    child, address = await scene.child()
    await scene.connect(address)
    child.tell("stick")
    await until(lambda: child.saying("stuck"))
    down = await until(lambda: scene.told(LinkDown))
    assert "its program has not answered" in down[0].reason
    child.tell("unstick")
    await until(lambda: scene.link.outbound)


async def test_a_receiver_killed_in_mid_transfer_gets_the_message_after_its_restart(scene: Scene) -> None:
    child, address = await scene.child()
    await scene.connect(address)
    data = random.Random(1).randbytes(48 * MIB)
    assert scene.transport.send(THEM.key, data, Lane.BULK)
    await until(lambda: scene.link.traffic.bytes_out[Lane.BULK] > 4 * MIB)
    os.kill(child.process.pid, signal.SIGKILL)
    await child.end()
    again, _ = await scene.child(address)
    await until(lambda: again.saying("message"))
    assert again.saying("message") == [digest(data).hex()]
    await until(lambda: scene.link.queue_bytes == 0)


async def test_a_sender_killed_in_mid_transfer_resumes_after_its_restart(scene: Scene) -> None:
    child, address = await scene.child()
    size = 48 * MIB
    for attempt in (1, 2):
        child.tell(f"dial {US.key.hex()} {scene.address}")
        await until(lambda: child.saying("event"))  # noqa: B023
        child.tell(f"bulk {US.key.hex()} {size}")
        if attempt == 1:
            await until(lambda: scene.link.traffic.bytes_in[Lane.BULK] > 8 * MIB)
            os.kill(child.process.pid, signal.SIGKILL)
            await child.end()
            held = scene.transport._links[THEM.key].transfers.inbox.partial_bytes
            child, _ = await scene.child(address)
    await until(lambda: scene.messages)
    assert [digest(data) for _, data, _ in scene.messages] == [digest(random.Random(size).randbytes(size))]
    child.tell("links")
    sent = await until(lambda: child.saying("bulk_out"))
    assert held >= 8 * MIB - SETTINGS.window
    assert sent[0] <= size - held + size // CHUNK_BYTES * 64  # the rest, and headers


async def test_a_receiver_that_does_not_read_holds_no_more_than_its_window(scene: Scene) -> None:
    child, address = await scene.child()
    await scene.connect(address)
    child.tell("stick")
    await until(lambda: child.saying("stuck"))
    other = psutil.Process(child.process.pid)
    before, ours_before = other.memory_info().rss, psutil.Process().memory_info().rss
    data = bytes(64 * MIB)
    for _ in range(3):  # 192 MiB wait, in one shared buffer
        assert scene.transport.send(THEM.key, data, Lane.BULK)
    await until(lambda: scene.told(LinkDown))
    assert scene.link.traffic.bytes_out[Lane.BULK] <= 1.5 * SETTINGS.window
    assert other.memory_info().rss - before <= 1.5 * SETTINGS.window + 8 * MIB
    assert psutil.Process().memory_info().rss - ours_before <= 64 * MIB + 1.5 * SETTINGS.window + 8 * MIB
    child.tell("unstick")
    await until(lambda: len(child.saying("message")) == 3)
