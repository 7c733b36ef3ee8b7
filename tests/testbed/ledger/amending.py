"""Amendments in a virtual ledger federation."""

from __future__ import annotations

import dataclasses
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.core.rounds import Amend
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_charter, toy_identities, toy_world


def agreed(federation: LedgerFederation, signers: list[int], **changes: Any) -> AmendmentDocument:
    """The next amendment, signed."""
    constitution = federation.averaging(signers[0]).maintenance.amendments.constitution
    document = constitution.draft(**changes)
    for index in signers:
        document = document.signed_by(federation.world.identities[index], constitution)
    return document


def amend(federation: LedgerFederation, at: int, document: AmendmentDocument) -> None:
    """Put an amendment in force at one site."""
    federation.network.command(federation.host(at), Amend(document.encode()))


def with_newcomer(seed: int, **averaging: Any) -> LedgerFederation:
    """Five sites exist, four founded the federation."""
    identities = toy_identities(5)
    world = toy_world(5, {"entry_limit": 15, **averaging}, step_us=lambda index: SECOND // 10)
    founders = toy_charter(identities[:4], {"steps_per_entry": 10, "entry_limit": 15, **averaging})
    federation = LedgerFederation(dataclasses.replace(world, charter=founders), seed)
    for index in range(4):
        federation.start(index)
    return federation
