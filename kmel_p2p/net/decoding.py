"""Decodes large messages beside the event loop: one at a time, each site in the order in which it sent them.

A message of some megabytes takes longer to decode than a heartbeat may wait. Sites take turns, so that one that sends
much holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kmel_p2p.agreement.errors import ProtocolError, RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.types import Lane

INLINE_BYTES = 64 * 1024
"""A message of this size is decoded at once, within about a millisecond: a thread would cost as much."""

WAITING_BYTES = 64 * 1024 * 1024
"""Bytes of one site that wait to be decoded; a single message may be larger. Decoding is far faster than a network, so
an honest site stays below; whoever does not is refused, and its messages take no memory."""

Data = bytes | memoryview


class Decoding:
    """See the module docstring. Every callback is called on the event loop.

    Args:
        decode: the decoder; raises RemoteError. Called on the loop for small messages, in a thread for large ones.
        deliver: takes each decoded message.
        refuse: told of what does not decode, and of what a site sent beyond what may wait.
        fault: told of defects of ours.
    """

    def __init__(
        self,
        decode: Callable[[Data], Message],
        deliver: Callable[[SiteKey, Message], None],
        refuse: Callable[[SiteKey, RemoteError], None],
        fault: Callable[[str, BaseException], None],
    ) -> None:
        self._decode = decode
        self._deliver = deliver
        self._refuse = refuse
        self._fault = fault
        self._waiting: OrderedDict[SiteKey, deque[Data]] = OrderedDict()
        """By site; the one decoded now stays at the head of its queue. The site whose turn it is comes first."""
        self._bytes: dict[SiteKey, int] = {}
        self._running = False
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")

    def take(self, sender: SiteKey, data: Data, lane: Lane) -> None:
        """Decode a message and hand it on, now or later. Never raises for what is in it."""
        # Small bulk messages stay behind the large ones of their site; control messages never wait.
        if lane is Lane.CONTROL or (len(data) <= INLINE_BYTES and sender not in self._waiting):
            self._at_once(sender, data)
            return
        queue, waiting = self._waiting.get(sender), self._bytes.get(sender, 0)
        if queue is not None and waiting + len(data) > WAITING_BYTES:
            self._refuse(sender, ProtocolError(f"sends faster than it can be read: {waiting} bytes wait already"))
            return
        self._waiting.setdefault(sender, deque()).append(data)
        self._bytes[sender] = waiting + len(data)
        self._next()

    def close(self) -> None:
        """Decode nothing more; what is being decoded is dropped."""
        self._closed = True
        self._waiting.clear()
        self._bytes.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _at_once(self, sender: SiteKey, data: Data) -> None:
        try:
            message = self._decode(data)
        except RemoteError as error:
            self._refuse(sender, error)
        else:
            self._deliver(sender, message)

    def _next(self) -> None:
        if self._running or self._closed or not self._waiting:
            return
        self._running = True
        sender = next(iter(self._waiting))
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._decode, self._waiting[sender][0])
        done.add_done_callback(lambda future: self._decoded(sender, future))

    def _decoded(self, sender: SiteKey, done: asyncio.Future[Message]) -> None:
        self._running = False
        if self._closed or done.cancelled():
            return
        queue = self._waiting[sender]
        self._bytes[sender] -= len(queue.popleft())
        if queue:
            self._waiting.move_to_end(sender)
        else:
            del self._waiting[sender], self._bytes[sender]
        error = done.exception()
        try:
            if isinstance(error, RemoteError):
                self._refuse(sender, error)
            elif error is not None:
                self._fault("decode", error)
            else:
                self._deliver(sender, done.result())
        finally:
            self._next()
