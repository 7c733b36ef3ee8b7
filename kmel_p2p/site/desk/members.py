"""The desk's answers to the other sites of the roster: facts of this peer, whether their ports can be reached, and the
file that the charter's trunk starts from.

`kmel-peer doctor` asks for the first two. A site can have nothing dialled but its own addresses, as charter, amendments
or its own descriptor give them, and only so often: nobody uses this peer to look at others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.wire import PROTOCOL
from kmel_p2p.net.desk import member_keys
from kmel_p2p.net.desk_client import ask_desk, encode_question
from kmel_p2p.site.desk.start_file_parts import REQUEST as START_FILE_PART
from kmel_p2p.site.desk.start_file_parts import StartFileParts
from kmel_p2p.version import VERSION

LOOK_S = 5.0
"""For one address."""

LOOKS_MAX = 4
"""Sites whose ports are looked at, at once."""

LOOK_AGAIN_S = 2.0
"""Between two looks for one site."""

ADDRESSES_MAX = 8
"""Addresses of one site that are looked at: as many as a charter gives."""


class MembersDesk:
    """See the module docstring.

    Args:
        identity: of this site.
        constitution: as it is now.
        addresses: where each site is said to be reached.
        leaves: told of each question (receiver, bytes) before it leaves, and asked whether it may.
        threads: where questions wait for their answers; None: the loop's own.
        proxy: through which this site dials, host:port; empty: none.
        start_file: gives parts of the charter's start file; None: this desk does not.
    """

    def __init__(
        self,
        identity: Identity,
        constitution: Callable[[], Constitution],
        addresses: Callable[[SiteKey], tuple[str, ...]],
        leaves: Callable[[SiteKey, bytes], bool] = lambda to, question: True,
        threads: ThreadPoolExecutor | None = None,
        proxy: str = "",
        start_file: StartFileParts | None = None,
    ) -> None:
        self._identity = identity
        self._constitution = constitution
        self._addresses = addresses
        self._leaves = leaves
        self._threads = threads
        self._proxy = proxy
        self._start_file = start_file
        self._looking: set[SiteKey] = set()
        self._looked_at: dict[SiteKey, float] = {}

    async def answer(self, site: SiteKey, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a member.

        Raises:
            LocalError: to be read by it.
        """
        if name == START_FILE_PART and self._start_file is not None:
            return await self._start_file.answer(site, arguments)
        match name:
            case "facts":
                return self.facts()
            case "look":
                return await self._look(site)
        raise LocalError(f"this desk knows no request {name[:40]!r}")

    def facts(self) -> dict[str, Any]:
        """What doctors compare."""
        constitution = self._constitution()
        return {
            "site": constitution.everyone[self._identity.key].name,
            "version": VERSION,
            "protocol": PROTOCOL,
            "time": time.time(),
            "charter": constitution.id.hex(),
            "amendments": constitution.number,
            "head": constitution.head_hash.hex(),
        }

    async def _look(self, site: SiteKey) -> Mapping[str, Any]:
        now = time.monotonic()
        if site in self._looking or now - self._looked_at.get(site, -LOOK_AGAIN_S) < LOOK_AGAIN_S:
            raise LocalError("this peer has just looked; ask again in some seconds")
        if len(self._looking) >= LOOKS_MAX:
            raise LocalError("this peer looks at other sites' ports now; ask again in some seconds")
        keys = member_keys(self._identity, site, asks=True)
        assert keys is not None, "the site was let in by the same secret"
        self._looking.add(site)
        self._looked_at[site] = now
        question = encode_question("facts")

        async def at(address: str) -> dict[str, str]:
            if not self._leaves(site, question):
                return {"address": address, "problem": "what leaves cannot be recorded here now, so nothing was asked"}
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, ask_desk, keys, site, address, question, LOOK_S, self._proxy)
            except LocalError as error:
                return {"address": address, "problem": str(error)}
            return {"address": address, "problem": ""}

        try:
            found = await asyncio.gather(*map(at, self._addresses(site)[:ADDRESSES_MAX]))
        finally:
            self._looking.discard(site)
        return {"looked": found}
