"""Numbers taken from one finished run. A figure that could not be reached is infinite, never missing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from types import ModuleType
from typing import Literal

import pydantic

from kmel_p2p.agreement import errors
from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.core.effects import Event
from kmel_p2p.core.membership import MembershipCounters, MemberState, events
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.membership.action import Seconds
from tests.testbed.membership.federation import membership_of
from tests.testbed.membership.observe import Seen
from tests.testbed.membership.stage import Stage

Over = Literal["max", "min", "median", "p99", "mean", "sum", "baseline ratio"]


class Bound(StrictModel):
    """One figure and the number it must keep, over all seeds."""

    figure: str
    over: Over = "max"
    at_most: float | None = None
    at_least: float | None = None
    after: str = ""
    """Mark from which the figure counts (default: the beginning)."""
    until: str = ""
    """Mark up to which it counts (default: the end)."""
    event: str = ""
    """Class of a membership event, for figures that count events."""
    name: str = ""
    """A counter, an error class or a second event class: what the figure asks for."""
    observers: str = "all"
    subject: str = "all"
    healthy: bool = False
    idle_after: str = ""
    idle_until: str = ""
    window_s: Seconds = 1.0

    @pydantic.field_validator("figure")
    @classmethod
    def _figure_exists(cls, figure: str) -> str:
        return known(figure, FIGURES, "figure")

    @pydantic.field_validator("event")
    @classmethod
    def _event_exists(cls, event: str) -> str:
        return known(event, EVENTS, "event of a membership") if event else event

    @pydantic.field_validator("name")
    @classmethod
    def _name_exists(cls, name: str, info: pydantic.ValidationInfo) -> str:
        figure = info.data.get("figure", "")
        if not name or not figure:
            return name
        if figure not in NAMES:
            raise ValueError(f"figure {figure!r} takes no name")
        what, names = NAMES[figure]
        return known(name, names, what)

    @pydantic.model_validator(mode="after")
    def _bounds_something(self) -> Bound:
        if self.at_most is None and self.at_least is None:
            raise ValueError("a bound needs at_most or at_least")
        if not self.event and self.figure in NEED_EVENT:
            raise ValueError(f"figure {self.figure!r} needs an event")
        return self


def measure(stage: Stage, bound: Bound) -> float:
    """The figure that `bound` names."""
    return FIGURES[bound.figure](stage, bound)


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name` if it is one of `names`.

    Raises:
        ValueError: it is not; says which one is nearest.
    """
    names = sorted(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    raise ValueError(f"there is no {what} {name!r}; {hint}")


def _since(stage: Stage, bound: Bound) -> Micros:
    return stage.marks.get(bound.after, 0)


def _until(stage: Stage, bound: Bound) -> Micros:
    return stage.marks.get(bound.until, stage.network.now) if bound.until else stage.network.now


def _chosen(stage: Stage, bound: Bound) -> Iterator[Seen]:
    since, until = _since(stage, bound), _until(stage, bound)
    observers = {h.index for h in stage.hosts(bound.observers)}
    subjects = {h.index for h in stage.hosts(bound.subject)} if bound.subject != "all" else None
    for seen in stage.observer.events:
        in_time = since <= seen.at_us <= until
        if in_time and seen.observer in observers and (subjects is None or seen.subject in subjects):
            yield seen


def _settled_s(stage: Stage, bound: Bound) -> float:
    """Seconds from the mark until every view was the truth, for good."""
    if not stage.observer.settled:
        return math.inf
    return max(0.0, (stage.observer.settled_us - _since(stage, bound)) / SECOND)


def _wrong_views(stage: Stage, bound: Bound) -> float:
    return float(len(stage.observer.wrong_pairs()))


def _first_event_s(stage: Stage, bound: Bound) -> float:
    """Seconds from the mark to the first event of this name."""
    times = [seen.at_us for seen in _chosen(stage, bound) if seen.event == bound.event]
    return (min(times) - _since(stage, bound)) / SECOND if times else math.inf


def _known_to_all_s(stage: Stage, bound: Bound) -> float:
    """Seconds from the mark until every running observer told this event about every subject."""
    first: dict[tuple[int, int], Micros] = {}
    for seen in _chosen(stage, bound):
        if seen.event == bound.event:
            first.setdefault((seen.observer, seen.subject), seen.at_us)
    pairs = [
        (o.index, s.index)
        for o in stage.hosts(bound.observers)
        for s in stage.hosts(bound.subject)
        if o is not s and o.running and stage.observer.truth[o.key] is MemberState.ALIVE
    ]
    if not pairs or any(pair not in first for pair in pairs):
        return math.inf
    return (max(first[p] for p in pairs) - _since(stage, bound)) / SECOND


def _share(stage: Stage, bound: Bound) -> float:
    """Share of (running observer, subject) pairs that told this event and never `name`."""
    told: dict[tuple[int, int], None] = {}
    spoiled: dict[tuple[int, int], None] = {}
    for seen in _chosen(stage, bound):
        if seen.event == bound.event:
            told[seen.observer, seen.subject] = None
        elif seen.event == bound.name:
            spoiled[seen.observer, seen.subject] = None
    subjects = stage.hosts(bound.subject)
    observers = [o for o in stage.hosts(bound.observers) if o.running and o not in subjects]
    total = len(observers) * len(subjects)
    good = sum((o.index, s.index) in told and (o.index, s.index) not in spoiled for o in observers for s in subjects)
    return good / total if total else math.inf


def _events(stage: Stage, bound: Bound) -> float:
    """How often this event was told."""
    return float(sum(seen.event == bound.event for seen in _chosen(stage, bound)))


def _false(stage: Stage, bound: Bound, event: str) -> float:
    return float(
        sum(
            seen.event == event and seen.truth is MemberState.ALIVE and not seen.blocked
            and not (bound.healthy and seen.unwell)
            for seen in _chosen(stage, bound)
        )
    )  # fmt: skip


def _false_deaths(stage: Stage, bound: Bound) -> float:
    """Verdicts `unreachable` about a running, connected site; with `healthy`, both sides unimpaired (FP-)."""
    return _false(stage, bound, "MemberUnreachable")


def _false_suspicions(stage: Stage, bound: Bound) -> float:
    return _false(stage, bound, "MemberSuspected")


def _accused(stage: Stage, bound: Bound) -> float:
    """Suspicions about others that these observers began by themselves."""
    handles = {h.index: h.key[:8] for h in stage.hosts(bound.observers)}
    return float(sum(s.event == "MemberSuspected" and s.accuser == handles[s.observer] for s in _chosen(stage, bound)))


def _bytes_per_member_s(stage: Stage, bound: Bound) -> float:
    """Mean bytes sent per running member and second, framing included."""
    first, last = _since(stage, bound) // SECOND, _until(stage, bound) // SECOND
    total = sum(stage.observer.bytes_in_second[s] for s in range(first, last))
    running = sum(h.running for h in stage.federation.hosts)
    return total / max(1, last - first) / max(1, running)


def _peak_ratio(stage: Stage, bound: Bound) -> float:
    """Busiest window after the mark, per running member, over the idle mean before it."""
    idle_bound = bound.model_copy(update={"after": bound.idle_after, "until": bound.idle_until})
    first, last = _since(stage, idle_bound) // SECOND, _until(stage, idle_bound) // SECOND
    everybody = len(stage.federation.roster)
    idle = sum(stage.observer.bytes_in_second[s] for s in range(first, last)) / max(1, last - first) / everybody
    window = max(1, round(bound.window_s))
    start, end = _since(stage, bound) // SECOND, _until(stage, bound) // SECOND
    running = sum(h.running for h in stage.federation.hosts)
    peak = max(
        sum(stage.observer.bytes_in_second[s] for s in range(second, second + window)) / window
        for second in range(start, max(start + 1, end - window))
    )
    return peak / max(1, running) / idle if idle else math.inf


def _quiet_after_s(stage: Stage, bound: Bound) -> float:
    """Seconds from the mark until traffic stays under 1.5 times the idle mean (in 5 s windows)."""
    idle_bound = bound.model_copy(update={"after": bound.idle_after, "until": bound.idle_until})
    limit = 1.5 * _bytes_per_member_s(stage, idle_bound) * 5 * sum(h.running for h in stage.federation.hosts)
    start, end = _since(stage, bound) // SECOND, _until(stage, bound) // SECOND
    busy = [
        second
        for second in range(start, end - 5)
        if sum(stage.observer.bytes_in_second[s] for s in range(second, second + 5)) > limit
    ]
    return float(busy[-1] + 5 - start) if busy else 0.0


def _queue_peak(stage: Stage, bound: Bound) -> float:
    return float(stage.checks.queue_peak)


def _largest_probe_bytes(stage: Stage, bound: Bound) -> float:
    return float(stage.observer.largest_probe_bytes)


def _counter(stage: Stage, bound: Bound) -> float:
    """A counter of the running memberships, summed."""
    found = [membership_of(h) for h in stage.hosts(bound.observers)]
    return float(sum(getattr(m.counters(), bound.name) for m in found if m is not None))


def _refused(stage: Stage, bound: Bound) -> float:
    """Messages refused as a remote fault; `name` picks one error type."""
    refusals = stage.observer.refusals
    return float(refusals[bound.name] if bound.name else sum(refusals.values()))


def _local_refusals(stage: Stage, bound: Bound) -> float:
    return float(stage.local_refusals[bound.name] if bound.name else sum(stage.local_refusals.values()))


def _stale_descriptors(stage: Stage, bound: Bound) -> float:
    """(Observer, subject) pairs of running hosts whose held version or address is not the subject's own."""
    wrong = 0
    for observer in stage.hosts(bound.observers):
        view = membership_of(observer)
        for subject in stage.hosts(bound.subject):
            own = membership_of(subject)
            if view is None or own is None or observer is subject:
                continue
            wrong += view.descriptor(subject.key) != own.descriptor(subject.key)
    return float(wrong)


def _learned_s(stage: Stage, bound: Bound) -> float:
    """Seconds from the mark until the last observer learned the subjects' new descriptor."""
    subjects = {h.index for h in stage.hosts(bound.subject)}
    observers = {h.index for h in stage.hosts(bound.observers) if h.running}
    since = _since(stage, bound)
    last: dict[tuple[int, int], Micros] = {}
    for at_us, observer, subject in stage.observer.learned:
        if at_us >= since and subject in subjects and observer in observers:
            last.setdefault((observer, subject), at_us)
    wanted = [(o, s) for o in observers for s in subjects if o != s]
    if any(pair not in last for pair in wanted):
        return math.inf
    return (max(last[p] for p in wanted) - since) / SECOND


def _extra_records(stage: Stage, bound: Bound) -> float:
    """Records in any table beyond one per other roster site."""
    sites = len(stage.federation.roster)
    found = [membership_of(h) for h in stage.hosts("all")]
    return float(max(len(m.members()) - (sites - 1) for m in found if m is not None))


def _steps_per_member_s(stage: Stage, bound: Bound) -> float:
    return stage.network.trace.steps / len(stage.federation.roster) / (stage.network.now / SECOND)


def _dials_per_site_interval(stage: Stage, bound: Bound) -> float:
    """Dials to each subject per reconnect interval, by the whole federation, from the mark on."""
    interval = stage.federation.settings.reconnect_interval_us
    since, until = _since(stage, bound), _until(stage, bound)
    subjects = {h.index for h in stage.hosts(bound.subject)}
    dials = sum(since <= at <= until and subject in subjects for at, _, subject in stage.observer.dials)
    return dials * interval / max(1, until - since) / len(subjects)


def _health_peak(stage: Stage, bound: Bound) -> float:
    observers = {h.index for h in stage.hosts(bound.observers)}
    return float(max((score for index, score in stage.checks.health_peak.items() if index in observers), default=0))


def _unread_events(stage: Stage, bound: Bound) -> float:
    """Most events that ever waited for a slow operator."""
    return float(max((operator.unread_peak for operator in stage.operators), default=0))


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


FIGURES: dict[str, Callable[[Stage, Bound], float]] = {
    "settled_s": _settled_s,
    "wrong_views": _wrong_views,
    "first_event_s": _first_event_s,
    "known_to_all_s": _known_to_all_s,
    "share": _share,
    "events": _events,
    "false_deaths": _false_deaths,
    "false_suspicions": _false_suspicions,
    "accused": _accused,
    "bytes_per_member_s": _bytes_per_member_s,
    "peak_ratio": _peak_ratio,
    "quiet_after_s": _quiet_after_s,
    "queue_peak": _queue_peak,
    "largest_probe_bytes": _largest_probe_bytes,
    "counter": _counter,
    "refused": _refused,
    "local_refusals": _local_refusals,
    "stale_descriptors": _stale_descriptors,
    "learned_s": _learned_s,
    "extra_records": _extra_records,
    "steps_per_member_s": _steps_per_member_s,
    "dials_per_site_interval": _dials_per_site_interval,
    "health_peak": _health_peak,
    "unread_events": _unread_events,
}

NEED_EVENT = ("first_event_s", "known_to_all_s", "share", "events")


def _classes(module: ModuleType, kind: type) -> tuple[str, ...]:
    return tuple(name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, kind))


EVENTS = _classes(events, Event)
COUNTERS = [field.name for field in fields(MembershipCounters)]
ERRORS = _classes(errors, errors.KmelError)
NAMES: Mapping[str, tuple[str, Iterable[str]]] = {
    "counter": ("counter of a membership", COUNTERS),
    "refused": ("error", ERRORS),
    "local_refusals": ("error", ERRORS),
    "share": ("event of a membership", EVENTS),
}
"""Figure -> (what its `name` names, the known ones)."""
