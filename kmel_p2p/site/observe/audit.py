"""Keeps the egress log of a running daemon: what leaves goes on record, and what cannot be recorded does not leave.

A full disk stops nothing for good. Entries wait until they can be recorded; small messages go on, because they are
summed up in memory until there is room; and the operator is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Lane
from kmel_p2p.net.link_events import Egress
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_head import HeadKeeper
from kmel_p2p.site.observe.egress_today import EgressToday, day_of, recorded_since


class Audit:
    """See the module docstring.

    Args:
        log: the open log.
        heads: keeps its head in the store.
        tensors: what entries and shares are made from, for people (`loaded_site.describe_tensors`).
        name: of a site.
        tell: why the log cannot be written; empty when it can.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        log: EgressLog,
        heads: HeadKeeper,
        tensors: str,
        name: Callable[[SiteKey], str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.log = log
        self.today = EgressToday(clock)
        self._heads = heads
        self._tensors = tensors
        self._name = name
        self._tell = tell
        self._clock = clock

    def leaves(self, egress: Egress) -> bool:
        """Put on record what is about to leave; False when it cannot be, and must stay here for now."""
        name, now = self._name(egress.to), self._clock()
        kind, _, contents = egress.label.partition(": ")
        if egress.lane is Lane.CONTROL:
            self.log.add(now, name, kind, egress.size_bytes, egress.digest)
            self.today.add(name, kind, egress.size_bytes)
            return True
        # What holds something of the trunk says so, and of which tensors.
        what = f"{contents}; {self._tensors}" if contents else ""
        try:
            self.log.record(now, name, kind, what, egress.size_bytes, egress.digest)
        except ConfigError as error:
            self._tell(str(error))
            return False
        self._heads.note()
        self.today.add(name, kind, egress.size_bytes)
        return True

    async def recall_today(self) -> None:
        """Count what left today before this start, too. Called before anything leaves."""
        day = day_of(self._clock())
        self.today.recall(await asyncio.to_thread(recorded_since, self.log.path, day), day)

    async def look(self) -> None:
        """Write sums that are due, begin a new segment, delete old ones as configured. Called every few seconds."""
        now = self._clock()
        try:
            if self.log.write_sums(now):
                self._heads.note()
            if self.log.is_full(now):
                await asyncio.to_thread(self.log.sync)
                self.log.rotate(now)
                self._heads.note()
                if (delete := self.log.expire(now)) is not None:
                    await asyncio.to_thread(delete)
            self._tell("")
        except ConfigError as error:
            self._tell(str(error))

    async def close(self) -> None:
        """As `HeadKeeper.close`."""
        await self._heads.close(self._clock())
