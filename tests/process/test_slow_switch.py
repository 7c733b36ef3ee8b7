"""Hosts on a slow path: what is sent arrives, late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.namespaces import require_namespaces
from tests.testbed.hosts import Hosts

DELAY_MS = 40
BYTES = 300_000
SERVE = f"""
import socket
with socket.create_server(("10.97.0.1", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as link:
        link.sendall(bytes({BYTES}))
        link.recv(1)
"""
ASK = f"""
import socket, time
began = time.monotonic()
with socket.create_connection(("10.97.0.1", 7000)) as link:
    connected = time.monotonic()
    got = 0
    while got < {BYTES}:
        got += len(link.recv(65536))
    print(connected - began, time.monotonic() - connected)
    link.sendall(b"x")
"""


def test_a_slow_path_takes_its_round_trips_and_its_bandwidth() -> None:
    require_namespaces()
    with Hosts(2, megabits=8, delay_ms=DELAY_MS) as hosts:
        server = subprocess.Popen([*hosts.prefix(0), sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            asked = subprocess.run(
                [*hosts.prefix(1), sys.executable, "-c", ASK], capture_output=True, text=True, check=True, timeout=180
            )
            assert server.wait(timeout=180) == 0
        finally:
            server.kill()
            server.communicate()
        connecting, reading = map(float, asked.stdout.split())
        # A round trip to connect, and half of one before the first byte is on its way; then 8 Mbit/s.
        assert connecting >= 2 * DELAY_MS / 1e3
        assert connecting + reading >= 3 * DELAY_MS / 1e3 + 8 * BYTES / 8e6
        assert hosts.received(1) > BYTES
    assert not list(Path("/sys/class/net").glob("slow*"))
