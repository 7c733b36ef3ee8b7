"""Figures for a monitoring system, made from the status document and the event counters: nothing can disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kmel_p2p.site.observe.status import SitePhase, StatusDocument


class StatusCollector(Collector):
    """Prometheus metrics made from a status document at the moment they are asked for."""

    def __init__(self, status: Callable[[], StatusDocument], events: Mapping[str, int]) -> None:
        self._status = status
        self._events = events

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: a status document exists only once the peer runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metric families."""
        status = self._status()
        yield from _peer_metrics(status)
        yield from _member_metrics(status)
        events = CounterMetricFamily("kmel_events", "Events of the protocol and the links", labels=["event"])
        for name, count in sorted(self._events.items()):
            events.add_metric([name], count)
        yield events


def _peer_metrics(status: StatusDocument) -> Iterable[Metric]:
    phase = GaugeMetricFamily("kmel_phase", "1 for the phase this peer is in", labels=["phase"])
    for each in SitePhase:
        phase.add_metric([each.value], float(each is status.phase))
    yield phase
    yield GaugeMetricFamily("kmel_entry_limit", "rounds of this run", value=float(status.averaging.entry_limit))
    for what, value in (
        *((f"kmel_{name}", value) for name, value in status.averaging.figures.items()),
        ("kmel_membership_health", status.membership.health),
        ("kmel_alarms", len(status.alarms)),
        ("kmel_waits", len(status.waits)),
        ("kmel_held_entries", status.averaging.held),
        ("kmel_sites_blocked", sum(member.state == "blocked" for member in status.members)),
        ("kmel_trainer_restarts", status.trainer.restarts),
        ("kmel_daemon_resident_bytes", status.process.rss_bytes),
        ("kmel_trainer_resident_bytes", status.trainer.rss_bytes or 0),
        ("kmel_event_loop_lag_seconds", status.process.loop_lag_ms / 1000),
        ("kmel_bytes_out", status.egress.bytes_out),
        ("kmel_bytes_in", status.egress.bytes_in),
    ):
        yield GaugeMetricFamily(what, what.removeprefix("kmel_").replace("_", " "), value=float(value))
    if status.loss is not None:
        yield GaugeMetricFamily("kmel_train_loss", "mean loss of the newest round", value=status.loss)
    if status.ages.published_s is not None:
        yield GaugeMetricFamily("kmel_published_age_seconds", "since the newest own entry", status.ages.published_s)
    decisions = CounterMetricFamily("kmel_membership", "Decisions of membership", labels=["decision"])
    for name, count in status.membership.counters.items():
        decisions.add_metric([name], count)
    yield decisions


def _member_metrics(status: StatusDocument) -> Iterable[Metric]:
    alive = GaugeMetricFamily("kmel_member_alive", "1 while the site counts as reachable", labels=["site"])
    entries = GaugeMetricFamily("kmel_member_entries", "newest entry applied of the site", labels=["site"])
    behind = GaugeMetricFamily(
        "kmel_member_behind_entries", "entries held here that the site has not told it holds", labels=["site"]
    )
    trip = GaugeMetricFamily("kmel_member_round_trip_seconds", "probe round trip", labels=["site"])
    for member in status.members:
        alive.add_metric([member.name], float(member.reachable))
        entries.add_metric([member.name], member.entries_applied)
        if member.behind is not None:
            behind.add_metric([member.name], member.behind)
        if member.rtt_ms is not None:
            trip.add_metric([member.name], member.rtt_ms / 1000)
    yield from (alive, entries, behind, trip)


def why_not_ready(status: StatusDocument) -> str:
    """Why this peer does not take part in the run at the moment; empty when it does."""
    if status.phase in (SitePhase.PREPARING, SitePhase.FAILED, SitePhase.STOPPING):
        return f"{status.phase.value}: {status.reason or status.phase.meaning}"
    if status.members and not status.reachable:
        return "no other site is reachable"
    return ""
