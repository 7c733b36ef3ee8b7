"""Answers what the operator asks of a running daemon over the control socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.commands import GoOn
from kmel_p2p.core.rounds import (
    Amend,
    Approve,
    ApproveUntil,
    Averaging,
    Begin,
    Blocked,
    Conclude,
    Listen,
    Reject,
    Trust,
)
from kmel_p2p.site.desk.reception import REQUESTS as DESK_REQUESTS
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.store_writer import StoreWriter
from kmel_p2p.site.trainer.following import DataReload

ALL_ENTRIES = 2**31
"""More than a run may have: approved until here is approved for good."""

DURABLE_LOOKS, DURABLE_LOOK_S = 100, 0.02
"""How often to look whether an amendment is stored, and the pause between looks: well within a request's time."""


class OperatorRequests:
    """See the module docstring.

    Args:
        site: the site as amended so far.
        averaging: the averaging machine, to be read.
        activity: knows which entry is held for approval.
        writer: the store.
        orders: what outlives a restart.
        command: feeds a command to the protocol.
        status: makes the status document.
        result: the comparison of the final models; None until it is there.
        stop: ends the peer in order.
        pause: has a pause, or its end, take force.
        read_data: has settings and data read again; told whether to accept that many measurements are gone.
        data_read: how far that is.
        board: answers what is about notices; None: there is no board.
        desk: answers what is about invitations and proposals; None: there is no desk.
    """

    def __init__(
        self,
        *,
        site: Callable[[], Site],
        averaging: Averaging,
        activity: Activity,
        writer: StoreWriter,
        orders: OrderBook,
        command: Callable[[Any], None],
        status: Callable[[], Awaitable[StatusDocument]],
        result: Callable[[], Mapping[str, Any] | None],
        stop: Callable[[], None],
        pause: Callable[[], None],
        desk: Callable[[str, Mapping[str, Any]], Awaitable[Any]] | None = None,
        board: Callable[[Mapping[str, Any]], Awaitable[Any]] | None = None,
        read_data: Callable[[bool], DataReload] | None = None,
        data_read: Callable[[], DataReload] | None = None,
    ) -> None:
        self._site = site
        self._averaging = averaging
        self._activity = activity
        self._writer = writer
        self._orders = orders
        self._command = command
        self._status = status
        self._result = result
        self._stop = stop
        self._pause = pause
        self._read_data = read_data
        self._data_read = data_read
        self._desk = desk
        self._board = board

    async def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Do what is asked.

        Raises:
            LocalError, ConfigError: it cannot be done; says why and what to do.
        """
        match name:
            case "status":
                return (await self._status()).as_dict()
            case "result":
                return self._result()
            case "history":
                kind = str(arguments.get("kind", "round"))
                return await self._writer.call(lambda store: store.history(kind))
            case "amend":
                return await self._amend(arguments)
            case "stop":
                self._stop()
                return None
            case "begin":
                self._begin(str(arguments.get("reason", "begun by the operator")))
                return None
            case "trust":
                self._trust(str(arguments.get("site", "")))
                return None
            case "claim":
                self._command(GoOn())
                return None
            case "listen":
                self._command(Listen(str(arguments.get("reason", "asked by the operator"))))
                return None
            case "conclude":
                reason = str(arguments.get("reason", "concluded by the operator"))
                self._orders.conclude(reason, self._averaging.allowance.campaign)
                self._command(Conclude(reason))
                return None
            case "pause" | "resume":
                reason = str(arguments.get("reason", "paused by the operator"))
                self._orders.pause(reason if name == "pause" else None)
                self._pause()
                return {"waiting": self._averaging.waiting}
            case "block" | "unblock":
                return self._block(name, arguments)
            case "approve" | "reject":
                return self._decide(name, arguments)
            case "approve_until":
                self._approve_until(arguments)
                return None
            case "read data" if self._read_data is not None:
                return asdict(self._read_data(arguments.get("accept_removed") is True))
            case "data read" if self._data_read is not None:
                return asdict(self._data_read())
            case "held":
                return self._held()
            case "board" if self._board is not None:
                return await self._board(arguments)
            case _ if name in DESK_REQUESTS and self._desk is not None:
                return await self._desk(name, arguments)
        raise LocalError(f"this peer knows no request {name!r}")

    def _begin(self, reason: str) -> None:
        if not any(wait.until_begin for wait in self._averaging.waits):
            waiting = self._averaging.waiting
            raise LocalError(f"nothing here waits for that order{f': {waiting}' if waiting else ''}")
        self._orders.begin(reason)
        self._command(Begin(reason))

    def _trust(self, name: str) -> None:
        site = self._site()
        if not mode_of(site.charter).keeps_entries:
            raise LocalError(f"in averaging mode {site.mode} no site fetches the ledger of another one")
        self._command(Trust(blockable(site, name)))

    async def _amend(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put an amendment in force that a quorum has signed; it reaches the other peers by itself."""
        site = self._site()
        document = AmendmentDocument.parse(str(arguments.get("document", "")), "amendment")
        mode_of(site.charter).check_amendment(site, self._averaging, document)
        number = document.amendment.number
        problem = site.constitution.why_not_in_force(document)
        if problem:
            raise LocalError(f"amendment {number}: {problem}")
        self._command(Amend(document.encode()))
        # The operator's next command reads the store: answer when the amendment is in it.
        for _ in range(DURABLE_LOOKS):
            if number in await self._writer.call(Store.amendments):
                return {"number": number, "hash": document.amendment.hash.hex()}
            await asyncio.sleep(DURABLE_LOOK_S)
        raise LocalError(
            f"amendment {number} was taken but is not stored yet: the disk is slow or failing. "
            "kmel-peer amendment show tells when it is in force here"
        )

    def _block(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stop listening to a site, or begin again; kept before it takes force."""
        site = str(arguments.get("site", ""))
        key = blockable(self._site(), site)
        if name == "block":
            self._orders.block(key, str(arguments.get("reason", "")))
        else:
            self._orders.unblock(key)
        self._command(Blocked(self._orders.blocked))
        return {"site": site, "key": key.hex(), "entries": self._averaging.vector.get(key, 0)}

    def _held(self) -> Mapping[str, Any] | None:
        """The entry that waits for approval, as it would leave; None: no entry waits."""
        activity = self._activity
        if not activity.held:
            return None
        payload = base64.b64encode(activity.trained_payload).decode()
        return {"number": activity.held, "payload": payload, "age_s": activity.held_age_s}

    def _decide(self, name: str, arguments: Mapping[str, Any]) -> None:
        activity = self._activity
        number = arguments.get("number")
        if type(number) is not int or number != activity.held:
            held = f"entry {activity.held} is" if activity.held else "no entry is"
            raise LocalError(f"{held} held for approval, not {number!r}")
        reason = str(arguments.get("reason", "rejected by the operator"))
        deferred = arguments.get("deferred", False) is True
        self._command(Approve(number) if name == "approve" else Reject(number, reason, deferred))
        activity.not_held()

    def _approve_until(self, arguments: Mapping[str, Any]) -> None:
        """Ask about no entry up to a number any more; kept before it takes force."""
        number = arguments.get("number")
        if type(number) is not int or not 0 <= number < ALL_ENTRIES + 1:
            raise LocalError(f"entries are approved up to a number from 0 to {ALL_ENTRIES}, not {number!r}")
        self._orders.approve_until(number)
        self._command(ApproveUntil(number))
        if self._activity.held <= number:
            self._activity.not_held()


def blockable(site: Site, name: str) -> SiteKey:
    """The key of the site called `name`, which an operator may block.

    Raises:
        LocalError: there is no such site on the roster, or it is this one.
    """
    rule = site.constitution.site_named(name)
    if rule is None:
        known = ", ".join(sorted(other.name for other in site.constitution.roster.values()))
        raise LocalError(f"no site {name!r} is on the roster; it lists: {known}")
    if rule.site_key == site.identity.key:
        raise LocalError(f"{name!r} is this site itself; kmel-peer listen or stop ends its own part")
    return rule.site_key
