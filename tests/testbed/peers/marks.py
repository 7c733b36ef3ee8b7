"""Rare branches of the product that random schedules have to reach: a simulator that never gets there shows nothing.

Named by the events that the product tells its operators anyway, so that they cost nothing in service.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.testbed.peers.schedule import KINDS

TOLD = (
    "MemberUnreachable",
    "MemberBack",
    "MemberLeft",
    "MemberRemoved",
    "MemberCleared",
    "DegradedLink",
    "LinkRestored",
    "TwinFound",
    "TwinDecided",
    "RoundAbandoned",
    "RunHeldUp",
    "RunNotAwaiting",
    "RunComplete",
    "SiteBlocked",
    "SiteUnblocked",
    "CharterAmended",
    "AmendmentConflict",
    "AmendmentOverruled",
    "CampaignBegun",
    "EntryRefused",
    "LogEnded",
    "HeadUnproved",
    "AuthorSuspended",
    "SuspensionLifted",
    "HarmSeen",
    "HarmGone",
    "EntriesCompacted",
    "SnapshotProgress",
    "SnapshotAdopted",
    "MassReclaimed",
    "StoreOutdated",
    "MassReceived",
    "StoodStill",
)
"""Classes of events."""

TORN = "a write torn by a power cut"
DOUBT = "a site waits because its log may lack entries"
MARKS = (*TOLD, TORN, DOUBT, *(f"happening: {kind}" for kind in KINDS))


def missed(reached: Collection[str]) -> list[str]:
    """The marks that were never reached."""
    return [mark for mark in MARKS if mark not in reached]
