"""Bulk transfer between two processes over loopback, against raw pyzmq in the same run.

    python benchmarks/transfer.py [--megabytes 64] [--repeats 7] [--json]

Raw is what ZeroMQ gives with CURVE and nothing else: one DEALER, one ROUTER, 256 KiB frames sent without a copy, and
one answer at the end. Ours is one `Transport.send` on the bulk lane until the receiver has the message in one piece
and has answered on the control lane: chunk headers, credits, reassembly and admission included. `ratio` is raw time
over our time, each the median of runs that alternate. Then pings go at 200 a second while transfers run: `ping_p99_ms`,
`loop_blocked_ms` is the longest either event loop was late in that time, and `audited_ratio` is the same as `ratio`
with the egress audit hashing every message. On a busy machine the times say little; `raw_cpu_s` and `ours_cpu_s`, the
processor seconds of sender and receiver together for one transfer, are steadier.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import zmq

from benchmarks.parts.measure import ROOT, Goal, at_least, at_most, parse, percentile, publish, this_machine
from kmel_p2p.agreement.identity import Identity, SiteKey, curve_public
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.link_events import LinkEvent
from kmel_p2p.net.settings import CHUNK_BYTES, TransportSettings
from kmel_p2p.net.transport import Transport

SENDER, RECEIVER = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
DONE = b"done"
PING = b"ping"
REPORT = b"report"
PING_EVERY_S = 0.005
LAG_SAMPLE_S = 0.002
GOALS: dict[str, Goal] = {"ratio": at_least(0.7), "ping_p99_ms": at_most(10.0), "loop_blocked_ms": at_most(50.0)}
SMOKE: dict[str, Any] = {"megabytes": 1, "repeats": 1}


def monotonic() -> Micros:
    return time.monotonic_ns() // 1000


class Lateness:
    """The longest an event loop was late while this ran."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._watch(), name="lateness")

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + LAG_SAMPLE_S
            await asyncio.sleep(LAG_SAMPLE_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due)

    async def end(self) -> float:
        self._task.cancel()
        await asyncio.wait({self._task})
        return self.worst_s


def make_transport(
    identity: Identity,
    size: int,
    on_message: Callable[[SiteKey, bytes | memoryview, Lane], None],
    on_link: Callable[[LinkEvent], None],
    *,
    audited: bool = False,
) -> Transport:
    limits = TransportSettings(max_message=size, queue=4 * size, reassembly=4 * size)
    return Transport(
        identity,
        lambda: (SENDER.key, RECEIVER.key),
        "tcp://127.0.0.1:0",
        settings=limits,
        on_message=on_message,
        on_link=on_link,
        clock=monotonic,
        rng=random.Random(0),
        on_egress=(lambda record: True) if audited else None,
    )


# -- the receiving process -----------------------------------------------------------------------


async def receive_ours(size: int) -> None:
    """Answer each bulk message and each ping, until the parent closes our input."""
    lateness = Lateness()

    def on_message(sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        if lane is Lane.BULK:
            transport.send(sender, DONE, Lane.CONTROL)
        elif data == PING:
            transport.send(sender, PING, Lane.CONTROL)
        elif data == REPORT:
            transport.send(sender, REPORT + b"%f" % lateness.worst_s, Lane.CONTROL)
            lateness.worst_s = 0.0

    transport = make_transport(RECEIVER, size, on_message, lambda event: None)
    print(await transport.start(), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await lateness.end()
    await transport.close()


def receive_raw(size: int) -> None:
    """Answer when `size` bytes have come, again and again, until an empty frame."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.curve_server = 1
    socket.curve_publickey, socket.curve_secretkey = RECEIVER.curve_pair()
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", flush=True)
    received = 0
    while True:
        routing_id, frame = socket.recv_multipart(copy=False)
        if not len(frame):
            break
        received += len(frame)
        if received == size:
            socket.send_multipart([routing_id.bytes, DONE])
            received = 0
    context.destroy(0)


# -- the sending process -------------------------------------------------------------------------


class RawSender:
    """Plain pyzmq with CURVE."""

    def __init__(self, address: str, data: bytes) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.curve_publickey, self._socket.curve_secretkey = SENDER.curve_pair()
        self._socket.curve_serverkey = curve_public(RECEIVER.key)
        self._socket.connect(address)
        self._data = data

    def run(self) -> float:
        view = memoryview(self._data)
        began = time.perf_counter()
        for offset in range(0, len(view), CHUNK_BYTES):
            self._socket.send(view[offset : offset + CHUNK_BYTES], copy=False)
        assert self._socket.recv() == DONE
        return time.perf_counter() - began

    def close(self) -> None:
        self._socket.send(b"")
        self._context.destroy(200)


class OurSender:
    """A transport that sends one message and waits for the answer."""

    def __init__(self, address: str, data: bytes, *, audited: bool = False) -> None:
        self._address = address
        self._data = data
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._pongs: asyncio.Queue[float] = asyncio.Queue()
        self._up = asyncio.Event()
        self.transport = make_transport(
            SENDER, len(data), self._on_message, lambda event: self._up.set(), audited=audited
        )

    def _on_message(self, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        if data == PING:
            self._pongs.put_nowait(time.perf_counter())
        else:
            self._answers.put_nowait(bytes(data))

    async def start(self) -> None:
        await self.transport.start()
        self.transport.dial(RECEIVER.key, (self._address,))
        await self._up.wait()

    async def run(self) -> float:
        began = time.perf_counter()
        assert self.transport.send(RECEIVER.key, self._data, Lane.BULK)
        assert await self._answers.get() == DONE
        return time.perf_counter() - began

    async def ping(self) -> float:
        began = time.perf_counter()
        assert self.transport.send(RECEIVER.key, PING, Lane.CONTROL)
        return await self._pongs.get() - began

    async def receiver_lateness(self) -> float:
        assert self.transport.send(RECEIVER.key, REPORT, Lane.CONTROL)
        return float((await self._answers.get()).removeprefix(REPORT))


def start_receiver(kind: str, size: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.transfer", "--receive", kind, "--megabytes", str(size >> 20)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


async def measure(size: int, repeats: int) -> dict[str, Any]:
    data = os.urandom(size)
    raw_process, raw_address = start_receiver("raw", size)
    our_process, our_address = start_receiver("ours", size)
    raw, ours = RawSender(raw_address, data), OurSender(our_address, data)
    await ours.start()
    raw.run()
    await ours.run()
    raw_times, our_times, raw_cpu_s, our_cpu_s = [], [], 0.0, 0.0
    for _ in range(repeats):
        cpu = processor_time(raw_process)
        raw_times.append(raw.run())
        raw_cpu_s += processor_time(raw_process) - cpu
        cpu = processor_time(our_process)
        our_times.append(await ours.run())
        our_cpu_s += processor_time(our_process) - cpu
    pings, idle_pings, lateness = await measure_pings(ours, repeats)
    await ours.transport.close()
    audited = OurSender(our_address, data, audited=True)
    await audited.start()
    await audited.run()
    audited_times = [await audited.run() for _ in range(repeats)]
    await audited.transport.close()
    raw.close()
    for process in (raw_process, our_process):
        process.communicate()
    raw_s, our_s = statistics.median(raw_times), statistics.median(our_times)
    return {
        "bytes": size,
        "repeats": repeats,
        "raw_s": raw_s,
        "ours_s": our_s,
        "raw_gb_s": size / raw_s / 1e9,
        "ours_gb_s": size / our_s / 1e9,
        "ratio": raw_s / our_s,
        "best_ratio": min(raw_times) / min(our_times),
        "raw_cpu_s": raw_cpu_s / repeats,
        "ours_cpu_s": our_cpu_s / repeats,
        "audited_ratio": raw_s / statistics.median(audited_times),
        "pings": len(pings),
        "ping_p50_ms": percentile(pings, 0.50) * 1e3,
        "ping_p99_ms": percentile(pings, 0.99) * 1e3,
        "idle_ping_p99_ms": percentile(idle_pings, 0.99) * 1e3,
        "loop_blocked_ms": lateness * 1e3,
    }


def processor_time(receiver: subprocess.Popen[str]) -> float:
    """Processor seconds used so far by this process and a receiver, all threads."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in (os.getpid(), receiver.pid))


async def measure_pings(ours: OurSender, repeats: int) -> tuple[list[float], list[float], float]:
    """Ping round trips while transfers run back to back, without them, and the worst lateness of both loops."""
    idle = [await pause_and_ping(ours) for _ in range(100)]
    await ours.receiver_lateness()
    lateness = Lateness()
    transfers = asyncio.create_task(run_many(ours, repeats * 3), name="transfers")
    pings = []
    while not transfers.done():
        pings.append(await pause_and_ping(ours))
    await transfers
    return pings, idle, max(await lateness.end(), await ours.receiver_lateness())


async def pause_and_ping(ours: OurSender) -> float:
    await asyncio.sleep(PING_EVERY_S)
    return await ours.ping()


async def run_many(ours: OurSender, times: int) -> None:
    for _ in range(times):
        await ours.run()


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--receive", choices=("raw", "ours"), help=argparse.SUPPRESS)
    arguments = parse(parser, SMOKE, given)
    size = arguments.megabytes << 20
    if arguments.receive == "raw":
        receive_raw(size)
    elif arguments.receive == "ours":
        asyncio.run(receive_ours(size))
    else:
        machine = this_machine()
        figures = asyncio.run(measure(size, arguments.repeats))
        publish(f"bulk transfer, {arguments.megabytes} MB over loopback", machine, figures, GOALS, arguments.json)


if __name__ == "__main__":
    main()
