"""A transport in a process of its own, ruled by lines on its standard input. Started by test_transport_processes.py.

Prints its address, then one JSON line per event and message. Commands: `dial KEY ADDRESS`, `bulk KEY SIZE` (bytes from
`Random(SIZE)`), `stick` (block the event loop until the line `unstick`), `links`; end of input ends it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from kmel_p2p.agreement.identity import Identity, SiteKey, digest
from kmel_p2p.core.types import Lane
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def obey(transport: Transport, ended: asyncio.Event) -> None:
    """Carry out the next command; blocking until it is there is fine, because we were told it is readable."""
    words = sys.stdin.readline().split()
    match words:
        case []:
            ended.set()
        case ["dial", key, address]:
            transport.dial(SiteKey(bytes.fromhex(key)), (address,))
        case ["bulk", key, size]:
            data = random.Random(int(size)).randbytes(int(size))
            say(taken=transport.send(SiteKey(bytes.fromhex(key)), data, Lane.BULK))
        case ["stick"]:
            say(stuck=True)
            while sys.stdin.readline() != "unstick\n":
                pass
        case ["links"]:
            for key, state in transport.links().items():
                say(link=key.hex(), bulk_out=state.traffic.bytes_out[Lane.BULK], queue=state.queue_bytes)


async def main(number: int, bind: str, roster: list[str], settings: str) -> None:
    def on_message(sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        say(message=digest(bytes(data)).hex(), size=len(data), lane=lane.value, sender=sender.hex())

    transport = Transport(
        Identity(bytes([number]) * 32),
        lambda: [SiteKey(bytes.fromhex(key)) for key in roster],
        bind,
        settings=TransportSettings.model_validate_json(settings),
        on_message=on_message,
        on_link=lambda event: say(event=type(event).__name__, text=repr(event)),
        clock=lambda: time.monotonic_ns() // 1000,
        rng=random.Random(number),
    )
    say(address=await transport.start())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, obey, transport, ended)
    await ended.wait()
    asyncio.get_running_loop().remove_reader(0)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4]))
