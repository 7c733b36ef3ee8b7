"""Digests of the ledger at past and present vectors; equal questions are answered once.

Whether the entries above a vector are still held is looked at when the work begins.
"""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.computing import Answer, Computing
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.types import Vector

KEPT_DIGESTS = 8
"""Answers remembered: sites tend to ask about the same few vectors."""


class Digests:
    """Digests of the ledger at vectors that lie in the past or are present."""

    def __init__(self, ledger: Ledger, computing: Computing) -> None:
        self._ledger = ledger
        self._computing = computing
        self._known: dict[tuple[tuple[SiteKey, int], ...], bytes] = {}
        self._asked: dict[tuple[tuple[SiteKey, int], ...], list[Answer]] = {}

    def at(self, vector: Vector, answer: Answer) -> bool:
        """Answer with the digest at `vector`, now or later; with None when the ledger cannot tell.

        Returns False, and never answers, when too much waits already.
        """
        name = tuple(sorted((key, number) for key, number in vector.items() if number))
        known = self._known.get(name)
        if known is not None:
            answer(known)
            return True
        if name in self._asked:
            self._asked[name].append(answer)
            return True
        self._asked[name] = [answer]
        started = self._computing.start(
            lambda: self._ledger.digest_work(dict(name)), lambda result: self._found(name, result)
        )
        if not started:
            del self._asked[name]
        return started

    def forget(self) -> None:
        """What stood was taken back: answers of before no longer hold."""
        self._known.clear()

    def _found(self, name: tuple[tuple[SiteKey, int], ...], result: bytes | None) -> None:
        if result is not None:
            self._known[name] = result
            if len(self._known) > KEPT_DIGESTS:
                del self._known[next(iter(self._known))]
        for answer in self._asked.pop(name, []):
            answer(result)
