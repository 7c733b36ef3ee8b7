"""Follows the daemons of a simulation until all are complete, and asks each for its results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.simulate.errors import SiteFailedError
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.modes import MODES
from kmel_p2p.site.observe.egress import EGRESS_NAME, verify
from kmel_p2p.site.observe.status import SitePhase, StatusDocument
from kmel_p2p.site.state.store import STORE_NAME, Store

POLL_S = 0.5
RESULT_TIMEOUT_S = 10.0
SILENCE_S = 60.0
"""A daemon that is alive but gave no answer for this long has failed."""


class Watcher(Protocol):
    """Shows the run to people."""

    def __enter__(self) -> Watcher: ...
    def __exit__(self, *reason: object) -> None: ...
    def show(self, documents: Mapping[str, StatusDocument | None], elapsed_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one site."""

    at_s: float
    phase: str
    vector: dict[str, int]
    loss: float | None
    bytes_out: int
    bytes_in: int
    alive: int


@dataclass(slots=True)
class Course:
    """What was seen of a run: samples by site, and the largest memory of daemon and trainer, bytes."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    daemon_rss: dict[str, int] = field(default_factory=dict)
    trainer_rss: dict[str, int] = field(default_factory=dict)
    longest_answer_s: float = 0.0

    def note(self, name: str, at_s: float, document: StatusDocument) -> None:
        """Keep what the report needs of a status document."""
        sample = Sample(
            at_s=at_s,
            phase=document.phase.value,
            vector=dict(document.averaging.vector),
            loss=document.loss,
            bytes_out=document.egress.bytes_out,
            bytes_in=document.egress.bytes_in,
            alive=document.reachable,
        )
        self.samples.setdefault(name, []).append(sample)
        self.daemon_rss[name] = max(self.daemon_rss.get(name, 0), document.process.rss_bytes)
        self.trainer_rss[name] = max(self.trainer_rss.get(name, 0), document.trainer.rss_bytes or 0)


@dataclass(frozen=True, slots=True)
class Final:
    """What one site ended with.

    Attributes:
        status: its last status document.
        result: its comparison of models (see `learn.evaluate.comparison`).
        entries: own entries, or rounds where sites keep no entries.
        entry_bytes: size of each own entry kept, whole: header, vector, signature and payload; else empty.
        entry_bytes_mean: of own entries, or of the shares sent.
        steps: optimiser steps over all own entries.
        egress: (messages, bytes) that left, by kind.
        egress_problem: what is wrong with the egress log; empty when it stands.
    """

    status: StatusDocument
    result: dict[str, Any]
    entries: int
    entry_bytes: list[int]
    entry_bytes_mean: float
    steps: int
    egress: dict[str, tuple[int, int]]
    egress_problem: str


def follow(federation: LocalFederation, watcher: Watcher, deadline_s: float) -> Course:
    """Watch until every site is complete.

    Raises:
        SiteFailedError: a daemon ended, fell silent, reports failure, or time is up; names the site.
    """
    began = time.monotonic()
    course = Course()
    heard = {site.name: began for site in federation}
    with watcher:
        while True:
            documents = {site.name: _look(site, course, began, heard) for site in federation}
            now = time.monotonic()
            watcher.show(documents, now - began)
            if all(document is not None and document.phase is SitePhase.COMPLETE for document in documents.values()):
                return course
            _require_progress(federation, documents, heard, now)
            if now - began > deadline_s:
                raise SiteFailedError(_late(federation, documents, deadline_s))
            time.sleep(POLL_S)


def collect(federation: LocalFederation) -> dict[str, Final]:
    """Results of every site, in order; daemons have to be running and complete.

    Raises:
        SiteFailedError: a site does not answer.
    """
    finals = {}
    for site in federation:
        try:
            result = site.request("result", timeout_s=RESULT_TIMEOUT_S)
            status = StatusDocument.parse(site.request("status", timeout_s=RESULT_TIMEOUT_S))
        except LocalError as error:
            raise SiteFailedError(f"site {site.name!r} gave no result: {error}\n{site.last_lines()}") from error
        finals[site.name] = _final(site, status, result)
    return finals


def _look(site: SiteProcess, course: Course, began: float, heard: dict[str, float]) -> StatusDocument | None:
    asked = time.monotonic()
    document = site.status()
    if document is not None:
        now = heard[site.name] = time.monotonic()
        course.longest_answer_s = max(course.longest_answer_s, now - asked)
        course.note(site.name, now - began, document)
    return document


def _require_progress(
    federation: LocalFederation,
    documents: Mapping[str, StatusDocument | None],
    heard: Mapping[str, float],
    now: float,
) -> None:
    for site in federation:
        code = site.exit_code
        if code is not None:
            raise SiteFailedError(f"site {site.name!r} ended with code {code}; its last lines:\n{site.last_lines()}")
        document = documents[site.name]
        if document is not None and document.phase is SitePhase.FAILED:
            raise SiteFailedError(f"site {site.name!r} failed: {document.reason}\n{site.last_lines()}")
        if now - heard[site.name] > SILENCE_S:
            raise SiteFailedError(f"site {site.name!r} gave no answer for {SILENCE_S:g} s\n{site.last_lines()}")


def _late(federation: LocalFederation, documents: Mapping[str, StatusDocument | None], deadline_s: float) -> str:
    lines = [f"not complete after {deadline_s:g} s (sites.deadline_s):"]
    for site in federation:
        document = documents[site.name]
        state = "no answer" if document is None else f"{document.phase}: {document.reason}"
        lines.append(f"site {site.name!r}: {state}\n{site.last_lines()}")
    return "\n".join(lines)


def _final(site: SiteProcess, status: StatusDocument, result: dict[str, Any]) -> Final:
    verdict = verify(site.state_dir / EGRESS_NAME)
    egress: dict[str, tuple[int, int]] = {}
    for (_, kind), total in verdict.totals.items():
        messages, size = egress.get(kind, (0, 0))
        egress[kind] = (messages + total.messages, size + total.bytes)
    store = Store(site.state_dir / STORE_NAME, read_only=True)
    try:
        work = MODES[status.mode].own_work(SiteKey(bytes.fromhex(status.key)), store, status.averaging, egress)
    finally:
        store.close()
    return Final(
        status=status,
        result=result,
        entries=work.entries,
        entry_bytes=work.entry_bytes,
        entry_bytes_mean=work.mean_bytes,
        steps=work.steps,
        egress=egress,
        egress_problem=verdict.problem,
    )


def sample_rows(course: Course) -> dict[str, list[dict[str, Any]]]:
    """Samples as plain data, by site."""
    return {name: [dataclasses.asdict(sample) for sample in samples] for name, samples in course.samples.items()}
