"""Samples the peer for its history at regular intervals, and looks at disk and egress log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.audit import Audit
from kmel_p2p.site.observe.course import Course
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.tasks import end_task

log = structlog.get_logger()

TICK_S = 2.0
"""Between two looks: at the peer, for the course of the run, and at the egress log."""


class Sampler:
    """See the module docstring.

    Args:
        looks: called before each sample.
        status: makes the status document.
        course: takes the samples.
        disk_full: why the store waits for room on its disk; empty: it does not.
        tell_disk: tells the operator of it.
        seen: told of each other site whether it is reachable.
    """

    def __init__(
        self,
        *,
        looks: Sequence[Callable[[], None]],
        status: Callable[[], StatusDocument],
        activity: Activity,
        course: Course,
        disk_full: Callable[[], str],
        tell_disk: Callable[[str], None],
        audit: Audit,
        seen: Callable[[SiteKey, bool], None],
    ) -> None:
        self._looks = looks
        self._status = status
        self._activity = activity
        self._course = course
        self._disk_full = disk_full
        self._tell_disk = tell_disk
        self._audit = audit
        self._seen = seen
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._tick(), name="tick")

    async def close(self) -> None:
        """Sample no more."""
        await end_task(self._task)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._sample()
            except OSError as error:
                # Descriptors may be short for a moment: a peer that only missed a sample goes on.
                text = f"this peer could not look at itself: {error}; does it have enough descriptors (ulimit -n)?"
                self._activity.alarm("short of resources", text)
                log.warning("sample missed", error=repr(error))
            else:
                self._activity.clear("short of resources")

    async def _sample(self) -> None:
        for look in self._looks:
            look()
        status = self._status()
        self._course.sample(status)
        for member in status.members:
            self._seen(SiteKey(bytes.fromhex(member.key)), member.reachable)
        self._tell_disk(self._disk_full())
        await self._audit.look()
