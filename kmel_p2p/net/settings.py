"""What may be set about the transport, and why the defaults are what they are."""

from __future__ import annotations

from typing import Annotated, Self

import pydantic

from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.core.types import MILLISECOND, SECOND

KIB = 1024
MIB = 1024 * 1024

CHUNK_BYTES = 256 * KIB
"""One bulk frame. From 256 KiB on CURVE reaches its full rate; larger frames only make control messages wait."""

CHUNK_CHARGE_MIN = 4 * KIB
"""Credit a chunk costs at least: many tiny messages must not pile up either. Part of the protocol."""

CONTROL_BYTES_MAX = 64 * KIB
"""Largest control message. pyzmq copies below this size anyway, and a larger one belongs on the bulk lane."""

FRAME_OVERHEAD_MAX = 4 * KIB
"""Room for our header in the limit on one frame."""

Duration = Annotated[int, pydantic.Field(ge=MILLISECOND, le=86_400 * SECOND)]
Size = Annotated[int, pydantic.Field(ge=1, le=2**40)]

QUEUED_FOR_ONE_SITE = 32 * MIB
"""Bytes of bulk that wait for one site at most, unless two of the largest messages are more."""


class TransportSettings(StrictModel):
    """Limits and times of one transport. Sizes are bytes."""

    max_message: Size = 256 * MIB
    """Largest bulk message taken from anybody; the charter sets it. Checked before anything is allocated."""

    window: Annotated[int, pydantic.Field(ge=2 * CHUNK_BYTES, le=2**30)] = 8 * MIB
    """Bulk bytes one remote peer may have under way to us. 8 MiB fill 600 Mbit/s at 100 ms round trip."""

    reassembly: Size = 1024 * MIB
    """Bulk bytes of all unfinished messages from all peers; a transfer beyond it is put off, not refused."""

    queue: Size = 512 * MIB
    """Bulk bytes waiting for one remote peer. Messages sent to several peers share their memory."""

    queue_messages: Annotated[int, pydantic.Field(ge=1, le=65536)] = 1024
    """Bulk messages waiting for one remote peer."""

    control_high_water: Annotated[int, pydantic.Field(ge=1, le=65536)] = 128
    """Control messages waiting inside ZeroMQ per peer. Small, so that no burst of stale ones follows a stall."""

    bulk_high_water: Annotated[int, pydantic.Field(ge=1, le=1024)] = 8
    """Chunks waiting inside ZeroMQ per peer."""

    dial_timeout_us: Duration = 10 * SECOND
    """One attempt: name, TCP connection, handshake and the peer's welcome."""

    connect_timeout_us: Duration = 5 * SECOND
    handshake_timeout_us: Duration = 5 * SECOND

    backoff_first_us: Duration = 1 * SECOND
    backoff_cap_us: Duration = 30 * SECOND
    """A dead site is dialled for ever, at most this far apart (times up to 1.25 of jitter)."""

    stable_after_us: Duration = 10 * SECOND
    """A link that lived this long resets the back-off; a flapping one does not."""

    heartbeat_us: Duration = 5 * SECOND
    heartbeat_timeout_us: Duration = 15 * SECOND
    """ZMTP heartbeats find dead machines and paths. A stopped Python answers them: see `silence_us`."""

    keepalive_us: Duration = 5 * SECOND
    """Our own ping on an idle connection, answered by the peer's event loop."""

    silence_us: Duration = 20 * SECOND
    """No answer from the peer's event loop for this long ends the link."""

    stall_us: Duration = 60 * SECOND
    """A transfer without any progress for this long, over a working link, fails; after half of it the connection is
    replaced."""

    resume_us: Duration = 120 * SECOND
    """An interrupted transfer waits this long for the link to return."""

    bulk_idle_us: Duration = 60 * SECOND
    """Our bulk connection to a peer closes after this long without use."""

    drain_us: Duration = 4 * MILLISECOND
    """Longest turn of one socket on the event loop."""

    proxy: str = ""
    """SOCKS5 proxy, host:port, through which every connection of ours goes; it looks up the names. Empty: none."""

    io_threads: Annotated[int, pydantic.Field(ge=1, le=8)] = 1
    """ZeroMQ threads; each does CURVE for the connections it owns."""

    max_sockets: Annotated[int, pydantic.Field(ge=64, le=65536)] = 16384
    """ZeroMQ's limit; its default of 1023 ends at about 170 peers."""

    @classmethod
    def carrying(cls, largest: int, proxy: str = "") -> Self:
        """The limits where `largest` bytes is the largest message.

        What waits for one site is bounded to a few messages: a site that asks for entries and never takes them costs
        no more. What does not fit is asked for again.
        """
        reassembly = max(largest, cls.model_fields["reassembly"].default)
        queue = max(QUEUED_FOR_ONE_SITE, 2 * largest)
        return cls(max_message=largest, queue=queue, reassembly=reassembly, proxy=proxy)

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.heartbeat_timeout_us < 2 * self.heartbeat_us:
            raise ValueError("heartbeat_timeout_us must be at least twice heartbeat_us, or one lost packet ends a link")
        if self.silence_us < 2 * self.keepalive_us:
            raise ValueError("silence_us must be at least twice keepalive_us, or one late answer ends a link")
        if self.backoff_cap_us < self.backoff_first_us:
            raise ValueError("backoff_cap_us must not be below backoff_first_us")
        if self.reassembly < self.max_message:
            raise ValueError("reassembly must hold at least one message of max_message")
        if self.queue < self.max_message:
            raise ValueError("queue must hold at least one message of max_message")
        return self
