"""Finds where two sites hold different branches of one author's log, and turns the difference into a proof.

Numbers alone do not show that an author gave different sites different entries under one number: each site has all it
asks for. The fork shows when an entry names a context that a site does not hold, or when digests differ. Then one site
sends the hashes of its headers, the other answers with its own signed headers where they differ, and two headers of one
number prove the fork to everybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.proof import FaultProof, fork_of
from kmel_p2p.core.ledger.sync.messages import ANY_HASH, MAX_STUBS, Heads, LogHead, Stubs
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import Lane

DEPTH = 64
"""Headers sent of one log. The fork is at the lowest that differ; a deeper one takes several exchanges."""

PROOF_BYTES = 32 * 1024
"""Headers that are asked for as proof go over the control lane in messages of so many bytes: behind the bodies that
wait on the bulk lane of a slow link they would come too late, and this site would be named."""

COMPARED_AT_ONCE = 512
"""Heads in one question: they fit the control lane."""

PROOFS_AT_ONCE = 8
"""So many such messages answer one request; what is left goes over the bulk lane."""


class ForkFinder:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(self, ledger: Ledger, outbox: deque[Effect]) -> None:
        self._ledger = ledger
        self._outbox = outbox

    def compare(self, to: SiteKey, vector: RosterVector) -> None:
        """Ask `to` which of its headers at `vector` differ from ours."""
        heads = []
        for author, number in self._ledger.accepted.order.named(vector).items():
            header = self._ledger.accepted.header(author, number)
            if header is not None:
                heads.append(LogHead(author, number, header.hash))
        for start in range(0, len(heads), COMPARED_AT_ONCE):
            self._outbox.append(Send(to, Heads(tuple(heads[start : start + COMPARED_AT_ONCE]))))

    def on_heads(self, sender: SiteKey, message: Heads) -> None:
        """Answer with our branch of every log where the headers differ."""
        stubs: list[bytes] = []
        shown: list[bytes] = []
        for head in message.heads:
            mine = self._ledger.accepted.header(head.author, head.number)
            if mine is not None and head.hash == ANY_HASH:
                shown.append(mine.stub())
            elif mine is not None and mine.hash != head.hash:
                first = max(1, head.number - DEPTH + 1)
                branch = (self._ledger.accepted.header(head.author, number) for number in range(first, head.number + 1))
                stubs += [header.stub() for header in branch if header is not None]
        stubs += self._show(sender, shown)
        for start in range(0, min(len(stubs), 4 * MAX_STUBS), MAX_STUBS):
            self._outbox.append(Send(sender, Stubs(tuple(stubs[start : start + MAX_STUBS])), Lane.BULK))

    def _show(self, to: SiteKey, stubs: list[bytes]) -> list[bytes]:
        """Send what fits on the control lane; returns the rest."""
        for _ in range(PROOFS_AT_ONCE):
            sizes = accumulate(len(stub) for stub in stubs[:MAX_STUBS])
            count = sum(size <= PROOF_BYTES for size in sizes)
            if not count:
                break
            self._outbox.append(Send(to, Stubs(tuple(stubs[:count]))))
            stubs = stubs[count:]
        return stubs

    def proofs(self, headers: Iterable[SignedHeader]) -> list[FaultProof]:
        """The forks that these headers and ours prove together, the earliest of each author."""
        earliest: dict[SiteKey, tuple[SignedHeader, SignedHeader]] = {}
        for theirs in headers:
            mine = self._ledger.accepted.header(theirs.author, theirs.number)
            if mine is None or mine.hash == theirs.hash:
                continue
            found = earliest.get(theirs.author)
            if found is None or found[0].number > theirs.number:
                earliest[theirs.author] = (theirs, mine)
        return [fork_of(*earliest[key]) for key in sorted(earliest)]
