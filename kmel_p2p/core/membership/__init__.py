"""Membership: SWIM with Lifeguard over the charter's roster (docs/membership.md)."""

from kmel_p2p.core.membership.commands import DescribeSelf, GoOn, Leave, Recall, SetRoster
from kmel_p2p.core.membership.descriptor import (
    Descriptor,
    OwnDescription,
    RosterSite,
    Signer,
    Verifier,
    address_fault,
    make_descriptor,
)
from kmel_p2p.core.membership.events import (
    AddressRejected,
    DegradedLink,
    DescriptorLearned,
    DuplicateKey,
    GenerationRaised,
    LeaveFinished,
    LinkRestored,
    MemberBack,
    MemberCleared,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MemberSuspected,
    MemberUnreachable,
)
from kmel_p2p.core.membership.health import MembershipCounters
from kmel_p2p.core.membership.machine import Membership
from kmel_p2p.core.membership.members import MemberState, MemberView
from kmel_p2p.core.membership.messages import SCHEMAS
from kmel_p2p.core.membership.settings import LAN, PRESETS, SIM, WAN, MembershipSettings, preset
from kmel_p2p.core.membership.sizes import message_size

__all__ = [
    "LAN",
    "PRESETS",
    "SCHEMAS",
    "SIM",
    "WAN",
    "AddressRejected",
    "DegradedLink",
    "DescribeSelf",
    "Descriptor",
    "DescriptorLearned",
    "DuplicateKey",
    "GenerationRaised",
    "GoOn",
    "Leave",
    "LeaveFinished",
    "LinkRestored",
    "MemberBack",
    "MemberCleared",
    "MemberJoined",
    "MemberLeft",
    "MemberRemoved",
    "MemberState",
    "MemberSuspected",
    "MemberUnreachable",
    "MemberView",
    "Membership",
    "MembershipCounters",
    "MembershipSettings",
    "OwnDescription",
    "Recall",
    "RosterSite",
    "SetRoster",
    "Signer",
    "Verifier",
    "address_fault",
    "make_descriptor",
    "message_size",
    "preset",
]
