"""Builds the status document from a daemon's parts. Cheap enough to be asked for every second."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal

import psutil

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import Lane
from kmel_p2p.net.links import LinkPhase, LinkState
from kmel_p2p.site.observe.status import (
    EgressStatus,
    LedgerStatus,
    MemberStatus,
    ProcessStatus,
    PushSumStatus,
    StatusDocument,
    TrainerStatus,
)
from kmel_p2p.version import VERSION

if TYPE_CHECKING:
    from kmel_p2p.site.daemon import Daemon

SECOND_US = 1e6


def build_status(daemon: Daemon) -> StatusDocument:
    """The document for the control request `status`."""
    activity, site = daemon.activity, daemon.site
    return StatusDocument(
        site=site.rule.name,
        key=site.rule.key,
        federation=site.charter.federation,
        charter_id=site.charter.id.hex(),
        phase=_phase(daemon),
        reason=daemon.reason,
        process=_process(daemon),
        trainer=_trainer(daemon),
        mode=daemon.site.mode,
        ledger=_ledger(daemon),
        pushsum=_pushsum(daemon),
        ages=activity.ages,
        egress=_egress(daemon),
        members=_members(daemon),
        address=daemon.address,
        loss=activity.loss,
        scores=activity.scores,
        data=activity.data,
        alarms=activity.alarms,
        last_error=activity.last_error,
    )


def _phase(
    daemon: Daemon,
) -> Literal["preparing", "waiting", "training", "listening", "complete", "failed", "stopping"]:
    if daemon.stopping:
        return "stopping"
    if daemon.trainer.state.value == "failed":
        return "failed"
    averaging = daemon.peer.averaging
    if isinstance(averaging, LedgerAveraging) and daemon.site.identity.key in averaging.ledger.faults:
        return "failed"
    if averaging.phase is Phase.PREPARING:
        return "preparing"
    if averaging.phase is Phase.LISTENING:
        return "complete" if daemon.result is not None else "listening"
    return "waiting" if averaging.waiting else "training"


def _process(daemon: Daemon) -> ProcessStatus:
    process = psutil.Process()
    times = process.cpu_times()
    return ProcessStatus(
        pid=os.getpid(),
        rss_bytes=process.memory_info().rss,
        uptime_s=time.monotonic() - daemon.activity.started_at,
        cpu_s=times.user + times.system,
        loop_lag_ms=daemon.driver.worst_lag_us / 1000,
        version=VERSION,
        generation=daemon.generation,
    )


def _trainer(daemon: Daemon) -> TrainerStatus:
    trainer = daemon.trainer
    heard = None if trainer.heard_at is None else time.monotonic() - trainer.heard_at
    return TrainerStatus(
        state=trainer.state.value,
        pid=trainer.pid,
        rss_bytes=trainer.resident_bytes or None,
        progress=trainer.progress,
        heard_age_s=heard,
        restarts=trainer.restarts,
    )


def _ledger(daemon: Daemon) -> LedgerStatus | None:
    averaging, activity = daemon.peer.averaging, daemon.activity
    if not isinstance(averaging, LedgerAveraging):
        return None
    ledger, own = averaging.ledger, daemon.site.identity.key
    vector = ledger.vector
    names = daemon.site.names
    return LedgerStatus(
        vector={names.get(key, key.hex()): number for key, number in vector.items()},
        digest=daemon.digest(),
        published=vector.get(own, 0),
        applied=sum(number for key, number in vector.items() if key != own),
        refused=activity.refused,
        ended={names.get(key, key.hex()): fault.reason for key, fault in ledger.faults.items()},
        held=1 if activity.held else 0,
        entry_limit=daemon.site.charter.averaging.entry_limit,
        payload_bytes_mean=activity.entry_bytes / activity.published if activity.published else 0.0,
    )


def _pushsum(daemon: Daemon) -> PushSumStatus | None:
    averaging, activity = daemon.peer.averaging, daemon.activity
    if not isinstance(averaging, PushSumAveraging):
        return None
    state, names = averaging.state, daemon.site.names
    return PushSumStatus(
        vector={names.get(key, key.hex()): rounds for key, rounds in averaging.vector.items()},
        digest=daemon.digest(),
        published=state.rounds,
        applied=activity.shares_received,
        refused=activity.refused,
        held=1 if activity.held else 0,
        entry_limit=daemon.site.charter.averaging.entry_limit,
        payload_bytes_mean=activity.entry_bytes / activity.shares_sent if activity.shares_sent else 0.0,
        mass=state.holding.mass,
        weight=state.weight,
        level=state.level,
        reached=averaging.reached,
        age=state.age,
        outstanding={names.get(key, key.hex()): owed.mass for key, owed in sorted(state.owed.items())},
        shares_sent=activity.shares_sent,
        neighbours=daemon.config.network.neighbours,
    )


def _egress(daemon: Daemon) -> EgressStatus:
    traffic = [state.traffic for state in daemon.transport.links().values()]
    return EgressStatus(
        bytes_out=sum(sum(t.bytes_out.values()) for t in traffic),
        bytes_in=sum(sum(t.bytes_in.values()) for t in traffic),
        entry_bytes_out=sum(t.bytes_out[Lane.BULK] for t in traffic),
        records=daemon.egress.head.number,
    )


def _members(daemon: Daemon) -> tuple[MemberStatus, ...]:
    links = daemon.transport.links()
    vector = daemon.peer.averaging.vector
    names = daemon.site.names
    lines = []
    for view in daemon.peer.membership.members():
        link = links.get(view.key)
        lines.append(
            MemberStatus(
                name=names.get(view.key, view.key.hex()),
                key=view.key.hex(),
                state=view.state.value,
                state_age_s=view.state_age_us / SECOND_US,
                heard_age_s=_heard(daemon, link),
                rtt_ms=None if view.rtt_us is None else view.rtt_us / 1000,
                last_rtt_ms=None if view.last_rtt_us is None else view.last_rtt_us / 1000,
                address=view.addresses[0] if view.addresses else "",
                bytes_in=sum(link.traffic.bytes_in.values()) if link else 0,
                bytes_out=sum(link.traffic.bytes_out.values()) if link else 0,
                entries_applied=vector.get(SiteKey(view.key), 0),
                problem=link.last_error if link and link.phase is not LinkPhase.UP else "",
            )
        )
    return tuple(lines)


def _heard(daemon: Daemon, link: LinkState | None) -> float | None:
    if link is None or link.last_heard_us is None:
        return None
    return (daemon.now() - link.last_heard_us) / SECOND_US
