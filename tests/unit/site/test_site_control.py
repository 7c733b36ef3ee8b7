"""The control socket: private, quick, bounded, and clear about a daemon that is gone or hangs."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.site.control import server as control
from kmel_p2p.site.control.client import ControlClient, NotAnsweringError, NotRunningError, RefusedError
from kmel_p2p.site.control.server import ControlServer, encode
from kmel_p2p.site.state.lockfile import SiteLock


async def handler(name: str, arguments: Mapping[str, Any]) -> Any:
    if name == "echo":
        return dict(arguments)
    if name == "hang":
        await asyncio.Event().wait()
    if name == "refuse":
        raise LocalError("nothing is held back")
    if name == "break":
        raise ZeroDivisionError("oops")
    if name == "config":
        raise ConfigError("site.toml: wrong")
    return None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ControlServer]:
    with SiteLock(tmp_path):
        running = ControlServer(tmp_path, handler)
        await running.start()
        yield running
        await running.close()


async def ask(state_dir: Path, name: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 60.0) -> Any:
    def call() -> Any:
        with ControlClient(state_dir, timeout_s) as client:
            return client.request(name, arguments)

    return await asyncio.to_thread(call)


async def test_a_request_is_answered(server: ControlServer, tmp_path: Path) -> None:
    assert await ask(tmp_path, "echo", {"n": 1, "b": b"\xff"}) == {"n": 1, "b": b"\xff"}


async def test_the_socket_is_private_and_goes_with_the_daemon(tmp_path: Path) -> None:
    with SiteLock(tmp_path):
        server = ControlServer(tmp_path, handler)
        path = await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await server.close()
        assert not path.exists()


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("refuse", "refused", "nothing is held back"),
        ("break", "bug", "ZeroDivisionError"),
        ("config", "config", "site.toml"),
    ],
)
async def test_an_error_arrives_with_its_kind(
    server: ControlServer, tmp_path: Path, name: str, kind: str, text: str
) -> None:
    with pytest.raises(RefusedError, match=text) as caught:
        await ask(tmp_path, name)
    assert caught.value.kind == kind
    assert await ask(tmp_path, "echo") == {}


async def test_a_slow_request_does_not_hold_the_others(server: ControlServer, tmp_path: Path) -> None:
    hanging = asyncio.create_task(ask(tmp_path, "hang", timeout_s=1.0))
    assert await ask(tmp_path, "echo", {"n": 2}) == {"n": 2}
    with pytest.raises(NotAnsweringError):
        await hanging


async def test_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="kmel-peer run"):
        await ask(tmp_path, "echo")


async def test_a_killed_daemon_leaves_a_socket_file_but_is_not_running(tmp_path: Path) -> None:
    (tmp_path / "control.sock").touch()
    (tmp_path / "control.path").write_bytes(os.fsencode(tmp_path / "control.sock"))
    (tmp_path / "lock").write_text("12345\n")
    with pytest.raises(NotRunningError):
        await ask(tmp_path, "echo")
    with SiteLock(tmp_path):
        server = ControlServer(tmp_path, handler)
        await server.start()
        assert await ask(tmp_path, "echo", {"again": True}) == {"again": True}
        await server.close()


@pytest.mark.parametrize("socket_is_there", [True, False])
async def test_a_daemon_that_does_not_answer_is_named_within_the_limit(tmp_path: Path, socket_is_there: bool) -> None:
    context = zmq.Context()
    with SiteLock(tmp_path):
        silent = context.socket(zmq.ROUTER)
        if socket_is_there:
            silent.bind(f"ipc://{control.choose_path(tmp_path)}")
        began = time.monotonic()
        with pytest.raises(NotAnsweringError, match=f"process {os.getpid()}"):
            await ask(tmp_path, "echo", timeout_s=0.3)
        assert time.monotonic() - began < 30.0
        silent.close(linger=0)
    context.term()


@pytest.mark.timeout(60)
async def test_an_interrupt_that_catches_a_half_made_connection_does_not_hang_the_command(
    server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def interrupted(context: zmq.Context[Any], kind: int) -> None:
        made.append(zmq.Socket(context, kind))
        raise KeyboardInterrupt

    def command() -> str:
        try:
            with ControlClient(tmp_path) as client, monkeypatch.context() as patch:
                patch.setattr(zmq.Context, "socket", interrupted)
                client.request("echo")
        except KeyboardInterrupt:
            return "interrupted"
        return "answered"

    assert await asyncio.to_thread(command) == "interrupted"
    made[0].close(0)
    assert await ask(tmp_path, "echo", {"n": 5}) == {"n": 5}


async def test_events_reach_subscribers_and_only_them(server: ControlServer, tmp_path: Path) -> None:
    def follow() -> list[Any]:
        with ControlClient(tmp_path, 5.0) as client:
            events = client.events(wait_s=0.05)
            seen: list[Any] = []
            while len(seen) < 3:
                event = next(events)
                if event is not None:
                    seen.append(event["n"])
            assert client.request("echo", {"still": 1}) == {"still": 1}
            return seen

    server.publish({"n": -1})
    following = asyncio.create_task(asyncio.to_thread(follow))
    number = 0
    while not following.done():
        server.publish({"n": number})
        number += 1
        await asyncio.sleep(0.005)
    seen = following.result()
    assert seen == list(range(seen[0], seen[0] + 3))


async def test_a_subscriber_that_does_not_read_never_holds_the_daemon(server: ControlServer, tmp_path: Path) -> None:
    client = ControlClient(tmp_path, 5.0)
    await asyncio.to_thread(client.request, "subscribe")
    for number in range(20_000):
        server.publish({"n": number, "text": "x" * 1000})
    assert server.events_lost > 0
    assert await ask(tmp_path, "echo", {"n": 3}) == {"n": 3}
    await asyncio.to_thread(client.close)


async def test_subscribers_are_bounded(server: ControlServer, tmp_path: Path) -> None:
    for _ in range(control.MAX_SUBSCRIBERS + 5):
        await ask(tmp_path, "subscribe")
    assert len(server._subscribers) <= control.MAX_SUBSCRIBERS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"[[[[",
        msgpack.packb([1, 2]),
        msgpack.packb({"v": 2, "id": 1, "do": "echo"}),
        msgpack.packb({"v": 1, "id": "x", "do": "echo"}),
        msgpack.packb({"v": 1, "id": 1, "do": 7}),
        msgpack.packb({"v": 1, "id": 1, "do": "echo", "with": [1]}),
        msgpack.packb({1: 2}),
        b"\x81" * 5000,
    ],
)
async def test_nonsense_is_refused_and_the_daemon_goes_on(server: ControlServer, tmp_path: Path, data: bytes) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{server.path}")
    socket.send(data)
    assert await asyncio.to_thread(socket.poll, 5000)
    answer = msgpack.unpackb(socket.recv())
    assert answer["error"]["kind"] == "refused"
    socket.close()
    context.term()
    assert await ask(tmp_path, "echo", {"n": 4}) == {"n": 4}


async def test_too_many_open_requests_are_refused(server: ControlServer, tmp_path: Path) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{server.path}")
    for number in range(control.MAX_OPEN_REQUESTS + 1):
        socket.send(encode({"v": 1, "id": number + 1, "do": "hang", "with": {}}))
    assert await asyncio.to_thread(socket.poll, 5000)
    assert msgpack.unpackb(socket.recv())["error"]["kind"] == "busy"
    socket.close()
    context.term()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short wherever the tests keep theirs."""
    with tempfile.TemporaryDirectory(prefix="r") as made:
        yield Path(made)


def test_a_deep_state_directory_gets_a_private_place_elsewhere(tmp_path: Path, short: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    path = control.choose_path(deep, str(short))
    assert path.parent.parent == short
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert control.find_path(deep) == path
    assert control.choose_path(deep, str(short)) == path
    path.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="not a private directory"):
        control.choose_path(deep, str(short))
    with pytest.raises(ConfigError, match="shorter state_dir"):
        control.choose_path(deep, str(deep))


async def test_a_daemon_in_a_deep_directory_is_reached(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    with SiteLock(deep):
        server = ControlServer(deep, handler)
        await server.start()
        assert await ask(deep, "echo", {"n": 5}) == {"n": 5}
        await server.close()
