"""The digest of what the present trunk comes from: equal at two sites exactly when their trunks are equal."""

from __future__ import annotations

import asyncio

from kmel_p2p.core.rounds import Averaging


class TrunkDigest:
    """Computed off the event loop and remembered until the trunk changes."""

    def __init__(self, averaging: Averaging) -> None:
        self._averaging = averaging
        self._computed: tuple[object, str] = (None, "")
        self._computing = asyncio.Lock()

    @property
    def text(self) -> str:
        """Hex; empty while `refresh` has not computed it for the present trunk."""
        revision, text = self._computed
        return text if revision == self._averaging.revision else ""

    async def refresh(self) -> None:
        """Compute the digest of the present trunk on a copy, in a thread: a large trunk takes a while."""
        async with self._computing:
            revision = self._averaging.revision
            work = self._averaging.digest_work() if revision != self._computed[0] else None
            if work is not None:
                self._computed = (revision, (await asyncio.to_thread(work)).hex())
