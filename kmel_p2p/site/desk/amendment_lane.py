"""Amendments for sites whose keys the others' gates refuse, because one side lacks what the roster has become.

A site that was retired or got a new key while it was off is let in nowhere, so the amendment that says so would never
reach it: it would train alone for ever. And a site that an amendment adds may be the only one that still has it, after
the site that it was handed to lost its disk. So a site that is refused asks the desk of whoever refused it:

- a *former* site is given the amendments that it lacks, and nothing else;
- whoever holds the charter may hand in amendments, and is told the number in force and nothing else.

Amendments prove themselves: each carries the signatures of a quorum of the roster before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.errors import KmelError, LocalError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds import Amend, Averaging
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.net.desk import charter_keys, member_keys
from kmel_p2p.net.desk_client import ask_desk, encode_question
from kmel_p2p.net.sockets import CurveKeys
from kmel_p2p.site.desk.members import ADDRESSES_MAX
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site

REQUEST = "amendments"

MAX_HANDED_AMENDMENTS = 16
MAX_HANDED_BYTES = 48 * 1024
"""Of amendments in one question or answer."""

ASK_S = 5.0
"""For one question."""

AGAIN_US: Micros = 5 * SECOND
"""Between two questions to one site."""


class AmendmentLane:
    """What is given and taken, on both sides.

    Args:
        site: as amended so far.
        averaging: to be asked whether an amendment can be put in force.
        command: feeds a command to the protocol.
    """

    def __init__(self, site: Callable[[], Site], averaging: Averaging, command: Callable[[Any], None]) -> None:
        self._site = site
        self._averaging = averaging
        self._command = command

    def read(self, documents: Any) -> list[AmendmentDocument]:
        """Those of these amendments that are the next ones in force here. Takes tens of milliseconds: for a thread.

        Raises:
            LocalError: they are none, too many, or not in force; to be read by who brought them.
        """
        if type(documents) is not list or not all(type(one) is bytes for one in documents):
            raise LocalError("amendments are a list of bytes; use the same version of kmel-peer")
        if len(documents) > MAX_HANDED_AMENDMENTS or sum(map(len, documents)) > MAX_HANDED_BYTES:
            raise LocalError(f"more than {MAX_HANDED_AMENDMENTS} amendments, or {MAX_HANDED_BYTES} bytes, at once")
        constitution, found = self._site().constitution, list[AmendmentDocument]()
        for document in map(_decoded, documents):
            number = document.amendment.number
            if number <= constitution.number:
                continue
            # Signatures first: whether it fits the roster takes longer to find out, and who asks may be on none.
            signed = len(constitution.signed(document)) >= constitution.signatures_needed
            if not signed or constitution.why_not_in_force(document):
                raise LocalError(f"amendment {number} is not the next one in force here")
            constitution = constitution.followed_by(document)
            found.append(document)
        return found

    def answer(self, known: bool, have: Any, brought: Sequence[AmendmentDocument]) -> Mapping[str, Any]:
        """Put in force what was brought, and answer.

        Args:
            known: whether the question comes from a site that is or was on the roster; else from a holder of the
                charter.
            have: how many amendments it says to have.
            brought: what `read` found.

        Raises:
            LocalError: to be read by it.
        """
        number = self._put_in_force(brought)
        documents = self._fitting(have) if known and type(have) is int and have >= 0 else []
        return {"number": number, "documents": documents}

    def question(self, theirs: int) -> Mapping[str, Any]:
        """What a site asks that another one refuses. `theirs`: amendments that the other one has."""
        return {"have": self._site().constitution.number, "documents": self._fitting(theirs)}

    def heard(self, number: Any, brought: Sequence[AmendmentDocument]) -> int:
        """Take an answer in; returns how many amendments the other site has.

        Raises:
            LocalError: it is no answer, or what it brings cannot be put in force here.
        """
        self._put_in_force(brought)
        if type(number) is not int or number < 0:
            raise LocalError("the answer about amendments is none; use the same version of kmel-peer")
        return number

    # ---- inner --------------------------------------------------------------------------------------------------

    def _fitting(self, first: int) -> list[bytes]:
        """The amendments after number `first`, as many as one message takes."""
        found: list[bytes] = []
        for document in self._site().constitution.documents[first : first + MAX_HANDED_AMENDMENTS]:
            encoded = document.encode()
            if sum(map(len, found)) + len(encoded) > MAX_HANDED_BYTES:
                break
            found.append(encoded)
        return found

    def _put_in_force(self, documents: Sequence[AmendmentDocument]) -> int:
        """Returns how many amendments are in force then."""
        site = self._site()
        number = site.constitution.number
        for document in documents:
            if document.amendment.number != number + 1:
                continue
            mode_of(site.charter).check_amendment(site, self._averaging, document)
            number += 1
            structlog.get_logger().info("amendment handed in at the desk", number=number)
            self._command(Amend(document.encode()))
        return number


class KeptOut:
    """Asks the desks of sites that refuse this one's key. Lives on the event loop.

    Args:
        lane: what is asked and taken in.
        site: as amended so far.
        addresses: where each site is said to be reached.
        leaves: told of each question (receiver, bytes) before it leaves, and asked whether it may.
        threads: where questions wait for their answers.
        proxy: through which this site dials, host:port; empty: none.
        clock: monotonic microseconds.
    """

    def __init__(
        self,
        lane: AmendmentLane,
        site: Callable[[], Site],
        addresses: Callable[[SiteKey], Sequence[str]],
        leaves: Callable[[SiteKey, bytes], bool],
        threads: ThreadPoolExecutor,
        proxy: str,
        clock: Callable[[], Micros],
    ) -> None:
        self._lane = lane
        self._site = site
        self._addresses = addresses
        self._leaves = leaves
        self._threads = threads
        self._proxy = proxy
        self._clock = clock
        self._asked_us: dict[SiteKey, Micros] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def refused_by(self, key: SiteKey) -> None:
        """A site refused this one's key: one of the two may lack an amendment."""
        now = self._clock()
        if now - self._asked_us.get(key, now - AGAIN_US) >= AGAIN_US:
            self._asked_us[key] = now
            task = asyncio.get_running_loop().create_task(self._ask(key), name="kept out")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ask nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, key: SiteKey) -> None:
        """As a site that it knows, or knew; then as a holder of the charter, who may have something to hand in.

        What the other site has is asked each time: it may have lost its disk since.
        """
        site = self._site()
        have = site.constitution.number
        as_known = member_keys(site.identity, key, asks=True)
        if as_known is not None and await self._asked(key, as_known, have) is not None:
            return
        as_bearer = charter_keys(site.constitution.id)
        theirs = await self._asked(key, as_bearer, have)
        if theirs is not None and theirs < have:
            await self._asked(key, as_bearer, theirs)

    async def _asked(self, key: SiteKey, keys: CurveKeys, theirs: int) -> int | None:
        """How many amendments the other site has, after it was given those after `theirs`; None: it did not say."""
        question = encode_question(REQUEST, self._lane.question(theirs))
        for address in tuple(self._addresses(key))[:ADDRESSES_MAX]:
            if not self._leaves(key, question):
                break
            ask = partial(ask_desk, keys, key, address, question, ASK_S, self._proxy)
            try:
                number, brought = await asyncio.get_running_loop().run_in_executor(self._threads, self._reply, ask)
                return self._lane.heard(number, brought)
            except KmelError as error:
                structlog.get_logger().debug("no amendments exchanged", site=key.hex(), reason=str(error))
        return None

    def _reply(self, ask: Callable[[], Any]) -> tuple[Any, list[AmendmentDocument]]:
        reply = ask()
        if type(reply) is not dict:
            raise LocalError("the answer about amendments is none; use the same version of kmel-peer")
        return reply.get("number"), self._lane.read(reply.get("documents"))


def _decoded(encoded: bytes) -> AmendmentDocument:
    try:
        return AmendmentDocument.decode(encoded)
    except WireError as error:
        raise LocalError(str(error)) from None
