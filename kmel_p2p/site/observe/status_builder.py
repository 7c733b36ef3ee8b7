"""Builds the status document from the parts of a daemon. Cheap enough to be asked for every second."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterable

import psutil

from kmel_p2p.agreement.amendment_words import left_in_words
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership import MemberState
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.driver import Driver
from kmel_p2p.net.link_events import LinkPhase, LinkState
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.final_models import FinalModels, TrunkDigest
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.drift_alarms import drift_alarms
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.federation_payoff import FederationPayoff
from kmel_p2p.site.observe.headline import against_best_local
from kmel_p2p.site.observe.status import (
    Alarm,
    EgressStatus,
    MembershipStatus,
    MemberStatus,
    ProcessStatus,
    SitePhase,
    StatusDocument,
    TrainerStatus,
    WaitStatus,
)
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor
from kmel_p2p.version import VERSION

SECOND_US = 1e6
NEVER_REACHED_S = 60.0
"""After so long an unknown site is worth an alarm: the others start at about the same time, and dials are repeated."""


def _problem(link: LinkState | None) -> str:
    """Why a site cannot be reached, or only with small messages."""
    if link is None:
        return ""
    return link.bulk_problem if link.phase is LinkPhase.UP else link.last_error


def _resident_bytes() -> int:
    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        # No descriptor left to read /proc with: the peak is better than no status.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


RELAYED = "relayed through other sites: both sites only dial out"
"""Beside a site of which no more can be expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class StatusBuilder:
    """The parts of a daemon that have something to tell. `clock` gives the monotonic microseconds of the transport."""

    site: Callable[[], Site]
    peer: Peer
    activity: Activity
    digest: TrunkDigest
    trainer: TrainerSupervisor
    final_models: FinalModels
    transport: Transport
    driver: Driver
    egress: EgressLog
    orders: OrderBook
    clock: Callable[[], Micros]
    generation: int
    address: str
    federation_payoff: Callable[[], FederationPayoff | None]

    def build(self) -> StatusDocument:
        """The document as of now."""
        activity, site = self.activity, self.site()
        mode = mode_of(site.charter)
        return StatusDocument(
            site=site.rule.name,
            key=site.rule.key,
            federation=site.charter.federation,
            charter_id=site.charter.id.hex(),
            phase=self._phase(site),
            reason=activity.fatal or self.peer.averaging.waiting,
            process=self._process(),
            trainer=self._trainer(),
            mode=site.mode,
            averaging=mode.status(site, self.peer.averaging, activity, self.digest.text),
            ages=activity.ages,
            egress=self._egress(),
            members=(*self._members(site), *self._blocked(site)),
            waits=self._waits(site),
            membership=MembershipStatus(
                self.peer.membership.health, dataclasses.asdict(self.peer.membership.counters())
            ),
            address=self.address,
            loss=activity.loss,
            scores=activity.scores,
            compared=against_best_local(self.final_models.last_result),
            federation_payoff=self.federation_payoff(),
            data=activity.data,
            alarms=(
                *activity.alarms,
                *self._left_the_roster(site),
                *self._never_reached(site),
                *drift_alarms(site.config.site.state_dir),
            ),
            last_error=activity.last_error,
        )

    def _phase(self, site: Site) -> SitePhase:
        averaging = self.peer.averaging
        if self.activity.stopping:
            return SitePhase.STOPPING
        if self.trainer.state is TrainerState.FAILED or mode_of(site.charter).has_failed(site, averaging):
            return SitePhase.FAILED
        if averaging.phase is Phase.PREPARING:
            return SitePhase.WAITING if averaging.waiting else SitePhase.PREPARING
        if averaging.phase is Phase.LISTENING:
            return SitePhase.LISTENING if self.final_models.result is None else SitePhase.COMPLETE
        return SitePhase.WAITING if averaging.waiting else SitePhase.TRAINING

    def _process(self) -> ProcessStatus:
        times = os.times()
        return ProcessStatus(
            pid=os.getpid(),
            rss_bytes=_resident_bytes(),
            uptime_s=time.monotonic() - self.activity.started_at,
            cpu_s=times.user + times.system,
            loop_lag_ms=self.driver.worst_lag_us / 1000,
            loop_lag_recent_ms=self.driver.recent_lag_us / 1000,
            version=VERSION,
            generation=self.generation,
        )

    def _trainer(self) -> TrainerStatus:
        trainer = self.trainer
        return TrainerStatus(
            state=trainer.state.value,
            pid=trainer.pid,
            rss_bytes=trainer.resident_bytes or None,
            progress=trainer.progress,
            heard_age_s=None if trainer.heard_at is None else time.monotonic() - trainer.heard_at,
            restarts=trainer.restarts,
            limits=trainer.limits,
        )

    def _egress(self) -> EgressStatus:
        traffic = [state.traffic for state in self.transport.links().values()]
        return EgressStatus(
            bytes_out=sum(sum(t.bytes_out.values()) for t in traffic),
            bytes_in=sum(sum(t.bytes_in.values()) for t in traffic),
            entry_bytes_out=sum(t.bytes_out[Lane.BULK] for t in traffic),
            records=self.egress.head.number,
        )

    def _members(self, site: Site) -> tuple[MemberStatus, ...]:
        links, vector, names = self.transport.links(), self.peer.averaging.vector, site.names
        mode = mode_of(site.charter)
        only_dials = site.config.network.outbound_only
        members = []
        for view in self.peer.membership.members():
            link = links.get(view.key)
            members.append(
                MemberStatus(
                    name=names.get(view.key, view.key.hex()),
                    key=view.key.hex(),
                    state=view.state.value,
                    state_age_s=view.state_age_us / SECOND_US,
                    heard_age_s=self._heard(link),
                    rtt_ms=None if view.rtt_us is None else view.rtt_us / 1000,
                    last_rtt_ms=None if view.last_rtt_us is None else view.last_rtt_us / 1000,
                    address=view.addresses[0] if view.addresses else "",
                    bytes_in=sum(link.traffic.bytes_in.values()) if link else 0,
                    bytes_out=sum(link.traffic.bytes_out.values()) if link else 0,
                    entries_applied=vector.get(SiteKey(view.key), 0),
                    behind=mode.behind(self.peer.averaging, SiteKey(view.key)),
                    problem=RELAYED if view.degraded and view.outbound_only and only_dials else _problem(link),
                    outbound=link is not None and link.outbound,
                    inbound=link is not None and link.inbound,
                )
            )
        return tuple(members)

    def _blocked(self, site: Site) -> tuple[MemberStatus, ...]:
        """The sites that the operator has blocked, as far as they are on the roster."""
        vector = self.peer.averaging.vector
        return tuple(
            MemberStatus(
                name=site.names[key],
                key=key.hex(),
                state="blocked",
                state_age_s=max(0.0, time.time() - block.at),
                entries_applied=vector.get(key, 0),
                problem=block.reason or "blocked by the operator",
            )
            for key, block in self.orders.orders.blocked.items()
            if key in site.constitution.roster
        )

    def _left_the_roster(self, site: Site) -> Iterable[Alarm]:
        """An alarm where this site's key is on it no longer."""
        if site.identity.key in site.constitution.retired:
            up_s = time.monotonic() - self.activity.started_at
            yield Alarm("left the roster", left_in_words(site.constitution, site.identity.key), up_s)

    def _never_reached(self, site: Site) -> Iterable[Alarm]:
        """An alarm for each site that was not heard of once since this peer started, long enough after that."""
        up_s = time.monotonic() - self.activity.started_at
        if up_s < NEVER_REACHED_S:
            return
        links = self.transport.links()
        for view in self.peer.membership.members():
            if view.state is MemberState.UNKNOWN and view.key not in self.orders.blocked:
                link = links.get(view.key)
                why = link.last_error if link and link.last_error else "nothing is known of its address"
                yield Alarm(f"never reached {site.names.get(view.key, view.key.hex())}", why, up_s)

    def _waits(self, site: Site) -> tuple[WaitStatus, ...]:
        now, names = self.clock(), site.names
        return tuple(
            WaitStatus(
                reason=wait.reason,
                sites=tuple(names.get(key, key.hex()) for key in wait.sites),
                since_s=max(0, now - wait.since_us) / SECOND_US,
                until_s=None if wait.until_us is None else max(0, wait.until_us - now) / SECOND_US,
            )
            for wait in self.peer.averaging.waits
        )

    def _heard(self, link: LinkState | None) -> float | None:
        if link is None or link.last_heard_us is None:
            return None
        return (self.clock() - link.last_heard_us) / SECOND_US
