"""What the operator may ask of a running daemon over the control socket, and how each request is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.rounds import Amend, Approve, Listen, Reject
from kmel_p2p.site.observe.status_builder import build_status
from kmel_p2p.site.state.store import Store

if TYPE_CHECKING:
    from kmel_p2p.site.daemon import Daemon

DURABLE_LOOKS, DURABLE_LOOK_S = 100, 0.02
"""How often and after what time to look whether an amendment is stored; well within what a request may take."""


class OperatorRequests:
    """See the module docstring."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Do what is asked.

        Raises:
            LocalError, ConfigError: it cannot be done; says why and what to do.
        """
        daemon = self._daemon
        match name:
            case "status":
                await daemon.refresh_digest()
                return build_status(daemon).as_dict()
            case "result":
                return daemon.result
            case "history":
                kind = str(arguments.get("kind", "round"))
                return await daemon.writer.call(lambda store: store.history(kind))
            case "amend":
                return await self._amend(arguments)
            case "stop":
                daemon.stop()
                return None
            case "listen":
                daemon.driver.command(Listen(str(arguments.get("reason", "asked by the operator"))))
                return None
            case "approve" | "reject":
                return self._decide(name, arguments)
        raise LocalError(f"this peer knows no request {name!r}")

    async def _amend(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put an amendment in force that a quorum signed; it spreads by itself."""
        daemon = self._daemon
        if daemon.site.mode != "ledger":
            raise LocalError(
                f"this federation averages by {daemon.site.mode}, in which amendments are not carried between sites: "
                "draft a new charter with the sites of the next run and have it signed"
            )
        document = AmendmentDocument.parse(str(arguments.get("document", "")), "amendment")
        number = document.amendment.number
        problem = daemon.site.constitution.why_not_in_force(document)
        if problem:
            raise LocalError(f"amendment {number}: {problem}")
        self._check_retractions(document)
        daemon.driver.command(Amend(document.encode()))
        # The operator's next command reads the store: answer when the amendment is in it.
        for _ in range(DURABLE_LOOKS):
            if number in await daemon.writer.call(Store.amendments):
                return {"number": number, "hash": document.amendment.hash.hex()}
            await asyncio.sleep(DURABLE_LOOK_S)
        raise LocalError(
            f"amendment {number} was taken but is not stored yet: the disk is slow or failing. "
            "kmel-peer amendment show tells when it is in force here"
        )

    def _check_retractions(self, document: AmendmentDocument) -> None:
        averaging = self._daemon.peer.averaging
        if not isinstance(averaging, LedgerAveraging):
            return
        folded = averaging.ledger.accepted.floor
        for rule in document.amendment.retire:
            site = self._daemon.site.constitution.site_named(rule.name)
            floor = folded.get(site.site_key, 0) if site is not None else 0
            if rule.last < floor or 0 < rule.retract_from <= floor:
                raise LocalError(
                    f"entries of {rule.name!r} up to {floor} are folded into the snapshot here and cannot be taken "
                    f"back; retract from {floor + 1} on, or leave them"
                )

    def _decide(self, name: str, arguments: Mapping[str, Any]) -> None:
        activity = self._daemon.activity
        number = arguments.get("number")
        if type(number) is not int or number != activity.held:
            held = f"entry {activity.held} is" if activity.held else "no entry is"
            raise LocalError(f"{held} held for approval, not {number!r}")
        activity.held = 0
        reason = str(arguments.get("reason", "rejected by the operator"))
        self._daemon.driver.command(Approve(number) if name == "approve" else Reject(number, reason))
