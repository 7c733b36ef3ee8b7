"""The status document: what a daemon says about itself, typed, on both ends of the control socket.

A peer that runs may not be a member yet, a member may not exchange yet, and one that exchanges may not train: the
document keeps the four apart, and gives the age in seconds of whatever can go stale (None: it never happened).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.in_words import fault_in_words
from kmel_p2p.site.observe.federation_payoff import FederationPayoff

SCHEMA = 1

SITES_NAMED = 8
"""Sites named in a line that people read; plain documents name all."""


class SitePhase(enum.StrEnum):
    """What a site is doing about the run: name, meaning, whether it publishes or will, colour on a terminal."""

    PREPARING = "preparing", "reads the data and computes features", True, "yellow"
    WAITING = "waiting", "cannot train now; the reason says what it is waiting for", True, "yellow"
    TRAINING = "training", "publishes entries", True, "green"
    LISTENING = "listening", "publishes no more entries, but still applies and relays them", False, "cyan"
    COMPLETE = "complete", "all reachable sites are listening; the models are compared and written", False, "bold green"
    FAILED = "failed", "cannot go on; see the reason and the last lines of the log", False, "bold red"
    STOPPING = "stopping", "tells the other peers that it leaves, and ends", False, "magenta"

    meaning: str
    publishes: bool
    style: str

    def __new__(cls, name: str, meaning: str, publishes: bool, style: str) -> SitePhase:
        """One row of the table."""
        phase = str.__new__(cls, name)
        phase._value_ = name
        phase.meaning, phase.publishes, phase.style = meaning, publishes, style
        return phase


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """Another site as seen from here."""

    name: str
    key: str
    state: Literal["unknown", "alive", "suspect", "dead", "left", "blocked"]
    """`blocked`: this site's operator does not listen to it; `problem` says why."""
    state_age_s: float
    heard_age_s: float | None = None
    rtt_ms: float | None = None
    """Smoothed round trip of probes."""
    last_rtt_ms: float | None = None
    """Round trip of the newest answered probe."""
    address: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    entries_applied: int = 0
    behind: int | None = None
    """Entries held here that it has not told that it holds; None: not known, or this mode keeps no entries."""
    problem: str = ""
    """Why there is no connection, in words for the operator; empty when there is one."""
    outbound: bool = False
    """This peer's own connection to the site works."""
    inbound: bool = False
    """The site's connection to this peer works."""

    @property
    def reachable(self) -> bool:
        """Whether the site counts as alive."""
        return self.state in ("alive", "suspect")


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """Something that this site waits for now."""

    reason: str
    sites: tuple[str, ...]
    """For whom, by name; empty when for nobody in particular."""
    since_s: float
    """For how long already."""
    until_s: float | None = None
    """For how much longer at most, if nothing changes; None: until what is awaited comes, or an operator ends it."""

    @property
    def text(self) -> str:
        """In one line, for people."""
        return self.beside("")

    def beside(self, shown: str, word: Callable[[str], str] = str) -> str:
        """In one line, for people who read `shown` above it: the reason is not said twice.

        Args:
            word: gives a text in the reader's language.
        """
        named, left_out = " ".join(self.sites[:SITES_NAMED]), len(self.sites) - SITES_NAMED
        if left_out > 0:
            named += " " + word("and {count} more").format(count=left_out)
        whom = word("for {sites}").format(sites=named) + " " if named else ""
        since = word("since {time}").format(time=span_text(self.since_s))
        left = word("without a limit")
        if self.until_s is not None:
            left = word("at most {time} more").format(time=span_text(self.until_s))
        why = "" if self.reason == shown else f": {word(self.reason)}"
        return f"{whom}{since}, {left}{why}"


@dataclass(frozen=True, slots=True)
class MembershipStatus:
    """How well this peer follows who is reachable."""

    health: int = 0
    """0: well. Each point above slows this peer's probing down by the same amount: it doubts itself first."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """How often each noteworthy decision was taken since the start."""


@dataclass(frozen=True, slots=True)
class TrainerStatus:
    """The trainer process."""

    state: Literal["starting", "preparing", "idle", "training", "finishing", "stopped", "failed"]
    pid: int | None = None
    rss_bytes: int | None = None
    progress: tuple[str, int, int] | None = None
    """(stage, done, total) while preparing."""
    heard_age_s: float | None = None
    restarts: int = 0
    limits: str = ""
    """What holds its processes to `[resources] cpus` and `memory_mb`, in words; empty without limits."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The daemon process."""

    pid: int
    rss_bytes: int
    uptime_s: float
    cpu_s: float = 0.0
    loop_lag_ms: float = 0.0
    """The latest the event loop ever ran since the start."""
    loop_lag_recent_ms: float = 0.0
    """The same within the last half minute to minute."""
    version: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class EgressStatus:
    """What left, since the daemon started."""

    bytes_out: int = 0
    bytes_in: int = 0
    entry_bytes_out: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class AveragingStatus:
    """How far averaging is. The mode fills it in; whoever reads it needs to know no mode."""

    vector: Mapping[str, int]
    """Site name -> newest number known of it."""
    digest: str
    """Of what the trunk here comes from, hex; empty while that changes faster than it can be computed."""
    published: int
    """Own entries or rounds."""
    applied: int
    """What was taken in from other sites."""
    refused: int = 0
    held: int = 0
    """Own entries or rounds that wait for the operator's approval."""
    entry_limit: int = 0
    payload_bytes_mean: float = 0.0
    """Of what this site sent."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What only this mode has; plain data. In the plain document these keys stand beside those above."""
    summary: tuple[tuple[str, str], ...] = ()
    """(label, text): the section in words, for people."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The section for a monitoring system."""


@dataclass(frozen=True, slots=True)
class Ages:
    """Seconds since each last happened; None: never."""

    published_s: float | None = None
    applied_s: float | None = None
    trained_s: float | None = None
    sent_s: float | None = None
    received_s: float | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something the operator should look at; stays until the daemon restarts."""

    what: str
    text: str
    age_s: float


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """Answer to the control request `status`."""

    site: str
    key: str
    federation: str
    charter_id: str
    phase: SitePhase
    reason: str
    """Why it is in this phase, or what it waits for; may be empty."""
    process: ProcessStatus
    trainer: TrainerStatus
    mode: str
    """Averaging mode; in the plain document also the key of the section `averaging`."""
    averaging: AveragingStatus
    ages: Ages = Ages()
    egress: EgressStatus = EgressStatus()
    members: tuple[MemberStatus, ...] = ()
    """The other sites."""
    waits: tuple[WaitStatus, ...] = ()
    """What this site waits for: before its next round, or at the end of the run."""
    membership: MembershipStatus = MembershipStatus()
    address: str = ""
    """Where this peer listens."""
    loss: float | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Assay endpoint -> metric -> value, of this site's newest round."""
    compared: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Assay endpoint -> `predicts` (error of what this site predicts with) and `best_local` -> on the test fold, when
    the run last ended."""
    federation_payoff: FederationPayoff | None = None
    """What all sites state of their payoff; None: nobody states any."""
    data: Mapping[str, int] = field(default_factory=dict)
    """Rows in, used, rejected, aggregated, train, valid, test."""
    alarms: tuple[Alarm, ...] = ()
    last_error: str = ""
    schema: int = SCHEMA

    @property
    def reachable(self) -> int:
        """Number of other sites that count as alive."""
        return sum(member.reachable for member in self.members)

    def as_dict(self) -> dict[str, Any]:
        """The plain document, as the control socket and `--json` carry it. `parse` reads it back."""
        plain = dataclasses.asdict(self)
        plain["phase"] = self.phase.value
        section = plain.pop("averaging")
        plain[self.mode] = {**section.pop("facts"), **section}
        return plain

    @classmethod
    def parse(cls, plain: Any) -> StatusDocument:
        """Read a plain document.

        Raises:
            LocalError: not a status document of this version; names each wrong key.
        """
        if not isinstance(plain, Mapping) or plain.get("schema") != SCHEMA:
            raise LocalError(f"not a status document of schema {SCHEMA}; use the kmel-peer that the daemon came with")
        raw = dict(plain)
        section = raw.pop(str(raw.get("mode")), None)
        if isinstance(section, Mapping):
            own = {name.name for name in dataclasses.fields(AveragingStatus)}
            facts = {key: value for key, value in section.items() if key not in own}
            raw["averaging"] = {**{key: section[key] for key in section if key in own}, "facts": facts}
        try:
            document = _reader().validate_python(raw)
        except pydantic.ValidationError as error:
            problems = (f"{'.'.join(map(str, each['loc']))}: {fault_in_words(each)}" for each in error.errors())
            raise LocalError("the status document cannot be read: " + "; ".join(problems)) from None
        return document


@functools.cache
def _reader() -> pydantic.TypeAdapter[StatusDocument]:
    return pydantic.TypeAdapter(StatusDocument)


def age_text(seconds: float | None) -> str:
    """An age in words."""
    return "never" if seconds is None else f"{span_text(seconds)} ago"


def span_text(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def bytes_text(count: float | None) -> str:
    """A byte count for people."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def vector_text(vector: Mapping[str, int]) -> str:
    """Site names with their numbers, in one line."""
    return " ".join(f"{name}:{number}" for name, number in vector.items()) or "the charter's initial trunk"
