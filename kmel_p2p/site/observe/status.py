"""The status document: what a daemon tells about itself, as plain data. One document for both averaging modes.

A process that is up is not yet a member, a member does not yet exchange, and one that exchanges may not train:
the four are kept apart, and every fact that can go stale carries its age in seconds (None: it never happened).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["ledger", "pushsum"]
Phase = Literal["preparing", "waiting", "training", "listening", "complete", "failed", "stopping"]
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One remote site as seen from here."""

    name: str
    key: str
    state: Literal["unknown", "alive", "suspect", "dead", "left"]
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
    problem: str = ""
    """Why there is no connection, in words for the operator; empty when there is one."""


@dataclass(frozen=True, slots=True)
class TrainerStatus:
    """The trainer process."""

    state: Literal["starting", "preparing", "idle", "training", "evaluating", "finishing", "stopped", "failed"]
    pid: int | None = None
    rss_bytes: int | None = None
    progress: tuple[str, int, int] | None = None
    """(stage, done, total) while preparing."""
    heard_age_s: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The daemon process."""

    pid: int
    rss_bytes: int
    uptime_s: float
    cpu_s: float = 0.0
    loop_lag_ms: float = 0.0
    """The latest the event loop ever ran since the start."""
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
    """What both averaging modes tell."""

    vector: Mapping[str, int]
    """Site name -> newest entry applied; in mode pushsum: rounds trained, as far as known."""
    digest: str
    """Of the trunk at `vector` (mode pushsum: of this site's mass and sum), hex; empty while that moves on faster than
    it can be computed."""
    published: int
    """Own entries, or rounds."""
    applied: int
    """Entries of the other sites; in mode pushsum: shares received since the start."""
    refused: int = 0
    held: int = 0
    entry_limit: int = 0
    payload_bytes_mean: float = 0.0
    """Of own entries, or of shares sent."""


@dataclass(frozen=True, slots=True)
class LedgerStatus(AveragingStatus):
    """Where this site's ledger stands."""

    ended: Mapping[str, str] = field(default_factory=dict)
    """Site name -> why its log was ended."""


@dataclass(frozen=True, slots=True)
class PushSumStatus(AveragingStatus):
    """What this site holds of the federation's weighted sum. Masses: 1024 are one measurement's weight."""

    mass: int = 0
    weight: int = 0
    """Mass this site brought in; what it holds settles around it. 0 before its first round."""
    level: int = 0
    """Round of the federation this site has reached."""
    reached: int = 0
    """Round the federation has reached, as far as reachable sites tell."""
    age: int = 0
    """Round up to which others' work is mixed into the trunk here."""
    outstanding: Mapping[str, int] = field(default_factory=dict)
    """Site name -> mass on its way to it, without receipt yet."""
    shares_sent: int = 0
    neighbours: tuple[str, ...] = ()
    """The only sites shares are sent to; empty: all."""


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
    phase: Phase
    reason: str
    """Why it is in this phase, or what it waits for."""
    process: ProcessStatus
    trainer: TrainerStatus
    mode: Mode
    """Averaging mode: names the one of the two sections below that is there."""
    ledger: LedgerStatus | None = None
    pushsum: PushSumStatus | None = None
    ages: Ages = Ages()
    egress: EgressStatus = EgressStatus()
    members: tuple[MemberStatus, ...] = ()
    address: str = ""
    """Where this peer listens."""
    loss: float | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Assay endpoint -> metric -> value."""
    data: Mapping[str, int] = field(default_factory=dict)
    """Rows in, used, rejected, aggregated, train, valid, test."""
    alarms: tuple[Alarm, ...] = ()
    last_error: str = ""
    schema: int = SCHEMA

    @property
    def averaging(self) -> AveragingStatus:
        """The section of the averaging mode."""
        section = self.ledger if self.mode == "ledger" else self.pushsum
        assert section is not None, "a document has the section of its mode"
        return section

    def as_dict(self) -> dict[str, Any]:
        """Plain maps and lists, as the control socket and `--json` carry them."""
        return dataclasses.asdict(self)


def averaging_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of a plain status document that its averaging mode fills (`AveragingStatus`)."""
    # A daemon that started before an upgrade knows only the ledger.
    section: Mapping[str, Any] = document[document.get("mode", "ledger")]
    return section
