"""The desk of a running daemon: newcomers with an invitation, the other sites, and amendments on their way to a quorum.

A newcomer that the operator approves is added by an amendment. It is proposed to the other sites' desks, their
operators sign it, and the signatures come back the same way; whoever sees a quorum first puts it in force.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.agreement.errors import KmelError, LocalError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.agreement.key_overlap import overlap_problem
from kmel_p2p.core.rounds import Amend, Averaging
from kmel_p2p.core.types import Lane
from kmel_p2p.net.desk import Desk, DeskGuest, member_keys
from kmel_p2p.net.desk_client import ask_desk, encode_question
from kmel_p2p.net.link_events import AuthRejected, Egress, LinkEvent
from kmel_p2p.site.clock import now_us
from kmel_p2p.site.config import read_text
from kmel_p2p.site.desk.amendment_lane import REQUEST, AmendmentLane, KeptOut
from kmel_p2p.site.desk.decisions import Decisions
from kmel_p2p.site.desk.invitations import DAY_S, InvitationBook, Newcomer
from kmel_p2p.site.desk.members import MembersDesk
from kmel_p2p.site.desk.newcomers import NewcomersDesk
from kmel_p2p.site.desk.proposals import Proposal, Proposals
from kmel_p2p.site.desk.start_file_parts import StartFileParts
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.notice_board import today
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.signed_amendments import note_signature

REQUESTS = frozenset({"invite", "invitations", "decide", "withdraw", "proposals", "sign_proposal", "propose"})
"""Requests of the control socket that are answered here."""

AGAIN_S = 60.0
"""Between two attempts to reach those who lack a proposal."""

IDLE_ASK_S = 120.0
"""Between two questions of a site that only dials out, of one other site: nobody can bring it a proposal."""

ASK_S = 5.0
"""For one question; also what may hold up the end of the daemon."""
ASKED_AT_ONCE = 8

NEW_EVERY_S = 5.0
"""Between two new amendments that one site brings."""

TOLD_MAX = 65_536
"""Sites and amendments remembered together, of whom was told of what."""


class Reception:
    """See the module docstring.

    Args:
        site: as amended so far.
        averaging: to be asked whether an amendment can be put in force.
        command: feeds a command to the protocol.
        addresses: where each site is said to be reached.
        blocked: sites that are not listened to.
        activity: takes the alarms.
        record: told of each message before it leaves, and asked whether it may.
    """

    def __init__(
        self,
        *,
        site: Callable[[], Site],
        averaging: Averaging,
        command: Callable[[Any], None],
        addresses: Callable[[SiteKey], tuple[str, ...]],
        blocked: Callable[[], frozenset[SiteKey]],
        activity: Activity,
        record: Callable[[Egress], bool],
    ) -> None:
        self._site = site
        self._averaging = averaging
        self._command = command
        self._addresses = addresses
        self._blocked = blocked
        self._activity = activity
        self._record = record
        here = site()
        state_dir = here.config.site.state_dir
        self._book = InvitationBook(state_dir)
        self._proposals = Proposals(state_dir, lambda: site().constitution)
        self._decisions = Decisions(here.rule.name, here.identity, self._book, self._look_around)
        self._newcomers = NewcomersDesk(
            self._book, self, here.rule.name, here.identity.key, time.time, self._look_around_soon, self._sites
        )
        self._threads = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="desk")
        self._proxy = here.config.network.proxy_address
        self._members = MembersDesk(
            here.identity,
            lambda: site().constitution,
            addresses,
            self._leaves,
            self._threads,
            self._proxy,
            StartFileParts(site),
        )
        self._lane = AmendmentLane(site, averaging, command)
        self._kept_out = KeptOut(self._lane, site, addresses, self._leaves, self._threads, self._proxy, now_us)
        self._writing = asyncio.Lock()  # held while book or proposals go to the disk
        self._loop = asyncio.get_running_loop()
        self._brought_at: dict[SiteKey, float] = {}
        self._told: dict[tuple[SiteKey, str], int] = {}
        self._alarms: dict[str, str] = {}
        self._news = asyncio.Event()
        self._spreading: asyncio.Task[None] | None = None
        self.desk = Desk(
            here.identity,
            self._listened_to,
            lambda: self._book.secrets(time.time()),
            self.answer,
            now_us,
            record,
            lambda text: activity.alarm("desk", text),
            self._former,
            here.charter.id,
        )

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to bring proposals to the others."""
        self._look_around()
        self._spreading = asyncio.get_running_loop().create_task(self._spread(), name="proposals")

    async def close(self) -> None:
        """End."""
        if self._spreading is not None:
            self._spreading.cancel()
            await asyncio.gather(self._spreading, return_exceptions=True)
        await self._kept_out.close()
        await self.desk.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- what guests ask ----------------------------------------------------------------------------------------

    async def answer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a guest of the desk.

        Raises:
            LocalError, RemoteError: to be read by it.
        """
        if guest.about_amendments or name == REQUEST:
            if guest.invitation or name != REQUEST:
                raise LocalError("the desk answers this guest about amendments alone")
            brought = await asyncio.to_thread(self._lane.read, arguments.get("documents"))
            return self._lane.answer(guest.site is not None, arguments.get("have"), brought)
        if guest.site is None:
            async with self._writing:
                return await asyncio.to_thread(self._newcomers.answer, guest.invitation, name, arguments)
        if name == "propose":
            await self._take_all(arguments.get("documents", []), guest.site)
            return {"documents": [proposal.document.encode() for proposal in self._proposals.waiting()]}
        return await self._members.answer(guest.site, name, arguments)

    def link(self, event: LinkEvent) -> None:
        """Something happened to a link: who refuses this site's key may lack an amendment, or this site does."""
        if isinstance(event, AuthRejected):
            self._kept_out.refused_by(event.key)

    def amended(self) -> None:
        """An amendment has come in force: what waited for signatures may be past."""
        self._look_around()

    def stands(self, newcomer: Newcomer) -> Mapping[str, Any]:
        """As `newcomers.Table.stands`."""
        site = self._site()
        constitution, path = site.constitution, site.config.site.charter
        if newcomer.site_key not in constitution.roster:
            adding = self._adding(newcomer)
            if adding is None:
                text = f"approved, but another amendment came first: {site.rule.name} has to approve it again"
            else:
                text = f"approved; {constitution.why_not_in_force(adding.document) or 'a quorum has signed'}"
            return {"state": "approved", "text": text}
        document = CharterDocument.parse(read_text(path, "restore it"), str(path))
        return {
            "state": "complete",
            "text": "the charter is in force",
            "charter": document.render(),
            "amendments": [document.render() for document in constitution.documents],
        }

    def sign(self, newcomer: Newcomer, signature: str) -> None:
        """As `newcomers.Table.sign`: a charter in force has all its signatures."""

    def has_all(self, newcomer: Newcomer) -> None:
        """As `newcomers.Table.has_all`."""

    # ---- what the operator asks ---------------------------------------------------------------------------------

    async def operate(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer one of `REQUESTS`.

        Raises:
            LocalError, ConfigError: it cannot be done; says why and what to do.
        """
        async with self._writing:
            return self._operate(name, arguments)

    def _operate(self, name: str, arguments: Mapping[str, Any]) -> Any:
        match name:
            case "invite":
                return self._invite(arguments)
            case "decide":
                return self._decide(arguments)
            case "proposals":
                return [self._proposals.row(proposal) for proposal in self._proposals.waiting()]
            case "sign_proposal":
                proposal = self._proposals.named(str(arguments.get("which", "")))
                return self._sign(proposal.document, arguments.get("instead") is True)
            case "propose":
                document = AmendmentDocument.parse(str(arguments.get("document", "")), "amendment")
                return self._sign(document, arguments.get("instead") is True)
        return self._decisions.answer(name, arguments)

    def _invite(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        site = self._site()
        self._require_amendable(site)
        addresses = site.config.network.advertise or site.rule.addresses
        if site.config.network.outbound_only or not addresses:
            raise LocalError("nobody can reach this site: let a site whose port is open invite, or set advertise")
        uses, days = arguments.get("uses", 1), arguments.get("days", 7.0)
        if type(uses) is not int or type(days) is not float:
            raise LocalError("an invitation is for a number of sites and of days")
        expires = int(time.time() + days * DAY_S)
        self._book.invite(site.charter.federation, addresses, uses, expires, secrets.token_bytes(16))
        made, _ = self._book.handed_out(site.rule.name, site.identity.key)[-1]
        return {"text": made.render(site.identity), "expires": made.expires}

    def _decide(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Approve or refuse; who is approved is added by an amendment, which is drafted, signed and proposed here."""
        if arguments.get("approve") is not True:
            refused: Mapping[str, Any] = self._decisions.answer("decide", arguments)
            return refused
        site = self._site()
        self._require_amendable(site)
        newcomer = self._decisions.found(str(arguments.get("site", "")), True, str(arguments.get("fingerprint", "")))
        if newcomer.site_key in site.constitution.roster:
            return {**self._decisions.decide(newcomer.key, approve=True), "text": " It takes part already."}
        if (adding := self._adding(newcomer)) is not None:
            return {
                **self._decisions.decide(newcomer.key, approve=True),
                "text": f" {self._proposals.missing(adding)}.",
            }
        added = {"name": newcomer.name, "key": newcomer.key, "addresses": newcomer.addresses}
        document = site.constitution.draft(add=[added])
        mode_of(site.charter).check_amendment(site, self._averaging, document)
        # Approved only now: what no amendment can add must not take the place.
        decided = self._decisions.decide(newcomer.key, approve=True)
        row = self._sign(document, instead=False)
        return {**decided, "text": f" Amendment {row['number']} is proposed to the other sites: {row['missing']}."}

    def _sign(self, document: AmendmentDocument, instead: bool) -> Mapping[str, Any]:
        """Sign an amendment for this site, and hand it on."""
        site = self._site()
        mode_of(site.charter).check_amendment(site, self._averaging, document)
        signed = document.signed_by(site.identity, site.constitution)
        if (opened := document.amendment.campaign) is not None:
            vector = self._averaging.vector
            published = {rule.name: vector.get(key, 0) for key, rule in site.constitution.roster.items()}
            if problem := opened.boundary_problem(published):
                raise LocalError(f"amendment {document.amendment.number}: {problem}")
        if problem := overlap_problem(document.amendment, today()):
            raise LocalError(f"amendment {document.amendment.number}: {problem}")
        note_signature(site.config.site.state_dir, document.amendment, instead)
        proposal, is_new = self._proposals.take(signed, site.identity.key)
        self._taken(signed, proposal, is_new)
        return self._proposals.row(proposal)

    # ---- proposals ----------------------------------------------------------------------------------------------

    async def _take_all(self, documents: Any, brought_by: SiteKey) -> None:
        if type(documents) is not list or not all(type(one) is bytes for one in documents):
            raise LocalError("proposals are a list of amendments; use the same version of kmel-peer")
        for encoded in documents[: len(self._site().constitution.roster)]:
            document = AmendmentDocument.decode(encoded)
            if document.amendment.number == self._site().constitution.number + 1:
                self._require_patience(document, brought_by)
                async with self._writing:
                    proposal, is_new = await asyncio.to_thread(self._proposals.take, document, brought_by)
                    self._taken(document, proposal, is_new)

    def _require_patience(self, document: AmendmentDocument, site: SiteKey) -> None:
        """Raises LocalError where a site brings one new amendment after another: each is written to the disk."""
        if any(one.hash == document.amendment.hash.hex() for one in self._proposals.waiting()):
            return
        now = time.monotonic()
        if now - self._brought_at.get(site, -NEW_EVERY_S) < NEW_EVERY_S:
            raise LocalError("you have just proposed another amendment; propose one at a time")
        self._brought_at[site] = now

    def _taken(self, document: AmendmentDocument, proposal: Proposal, is_new: bool) -> None:
        """What is new of an amendment is kept: put it in force once a quorum has signed."""
        site = self._site()
        if not site.constitution.why_not_in_force(proposal.document):
            mode_of(site.charter).check_amendment(site, self._averaging, proposal.document)
            self._command(Amend(proposal.document.encode()))
        if is_new:
            names = ", ".join(proposal.document.signatures)
            structlog.get_logger().info("amendment proposed", number=document.amendment.number, signed_by=names)
        self._look_around()

    async def _spread(self) -> None:
        """Bring proposals to those who lack them, and fetch theirs."""
        asked_at = time.monotonic()
        while True:
            waiting = self._proposals.waiting()
            await self._ask_all([site for site in self._listened_to() if self._lacks(site, waiting)])
            idle = self._site().config.network.outbound_only and time.monotonic() - asked_at >= IDLE_ASK_S
            if idle and (others := self._listened_to()):
                asked_at = time.monotonic()
                await self._ask_all([random.choice(others)])
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), AGAIN_S)
            except TimeoutError:
                self._look_around()

    def _lacks(self, site: SiteKey, waiting: list[Proposal]) -> bool:
        return any(self._told.get((site, one.hash), 0) < len(one.document.signatures) for one in waiting)

    async def _ask_all(self, sites: list[SiteKey]) -> None:
        room = asyncio.Semaphore(ASKED_AT_ONCE)

        async def one(site: SiteKey) -> None:
            async with room:
                await self._exchange(site)

        await asyncio.gather(*map(one, sites))

    async def _exchange(self, site: SiteKey) -> None:
        """Give a site our proposals, and take its."""
        waiting = self._proposals.waiting()
        keys = member_keys(self._site().identity, site, asks=True)
        question = encode_question("propose", {"documents": [proposal.document.encode() for proposal in waiting]})
        for address in self._addresses(site)[:2]:
            if keys is None or not self._leaves(site, question):
                return
            try:
                ask = partial(ask_desk, keys, site, address, question, ASK_S, self._proxy)
                answer = await self._loop.run_in_executor(self._threads, ask)
                await self._take_all(answer.get("documents") if type(answer) is dict else None, site)
            except KmelError as error:
                structlog.get_logger().debug("proposals not exchanged", site=site.hex(), reason=str(error))
                continue
            if len(self._told) > TOLD_MAX:
                self._told.clear()
            self._told |= {(site, proposal.hash): len(proposal.document.signatures) for proposal in waiting}
            return

    # ---- inner --------------------------------------------------------------------------------------------------

    def _look_around_soon(self) -> None:
        """As `_look_around`, from a thread."""
        self._loop.call_soon_threadsafe(self._look_around)

    def _look_around(self) -> None:
        """Raise the alarms of what waits for the operator, clear the others, and have proposals brought on."""
        site = self._site()
        wanted = self._decisions.alarms(site.constitution.everyone)
        if site.identity.key in site.constitution.roster:
            wanted |= self._proposals.alarms(site.rule.name)
        for what, text in self._alarms.items():
            if wanted.get(what) != text:
                self._activity.clear(what)
        for what, text in wanted.items():
            if self._alarms.get(what) != text:
                self._activity.alarm(what, text)
        self._alarms = wanted
        self._news.set()

    def _sites(self) -> Mapping[SiteKey, str]:
        return {key: rule.name for key, rule in self._site().constitution.everyone.items()}

    def _adding(self, newcomer: Newcomer) -> Proposal | None:
        adds = ((one, [site.key for site in one.document.amendment.add]) for one in self._proposals.waiting())
        return next((proposal for proposal, keys in adds if newcomer.key in keys), None)

    def _listened_to(self) -> list[SiteKey]:
        site = self._site()
        return [key for key in site.constitution.roster if key not in self._blocked() and key != site.identity.key]

    def _former(self) -> list[SiteKey]:
        constitution = self._site().constitution
        return [key for key in constitution.retired if key not in constitution.roster and key not in self._blocked()]

    def _leaves(self, to: SiteKey, question: bytes) -> bool:
        return self._record(Egress(to, Lane.CONTROL, "DeskQuestion", len(question), digest(question)))

    @staticmethod
    def _require_amendable(site: Site) -> None:
        if not mode_of(site.charter).keeps_entries:
            raise LocalError(
                f"this federation averages in mode {site.mode}, in which no site can be added: found a new one with "
                "the sites of the next run"
            )
