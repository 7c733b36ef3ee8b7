"""Follow the daemons of a simulation until all are complete, show how far they are, and ask each for its results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate.interrupts import Interrupts
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes import MODES
from kmel_p2p.site.observe.contribution import stored_report
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from kmel_p2p.site.observe.status import SitePhase, StatusDocument
from kmel_p2p.site.state.store import STORE_NAME, Store

POLL_S = 0.5
LINE_EVERY_S = 5.0
RESULT_TIMEOUT_S = 10.0
SILENCE_S = 60.0
"""A daemon that is alive but has not answered for this long has failed."""


class Watcher(Protocol):
    """Shows the run on screen."""

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
class RunRecord:
    """What was observed: samples by site, and the peak memory of each daemon and trainer in bytes."""

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
        contribution: what each author's entries were worth to it (`site.observe.contribution`).
    """

    status: StatusDocument
    result: dict[str, Any]
    entries: int
    entry_bytes: list[int]
    entry_bytes_mean: float
    steps: int
    egress: dict[str, tuple[int, int]]
    egress_problem: str
    contribution: dict[str, Any]


def follow(federation: LocalFederation, watcher: Watcher, deadline_s: float, interrupts: Interrupts) -> RunRecord:
    """Watch until every site is complete.

    Raises:
        SiteFailedError: a daemon ended, fell silent, reports failure, or time is up; names the site.
        KeyboardInterrupt: interrupted.
    """
    began = time.monotonic()
    record = RunRecord()
    heard = {site.name: began for site in federation}
    with watcher:
        while True:
            documents = {site.name: _look(site, record, began, heard) for site in federation}
            interrupts.check()
            now = time.monotonic()
            watcher.show(documents, now - began)
            if all(document is not None and document.phase is SitePhase.COMPLETE for document in documents.values()):
                return record
            _require_progress(federation, documents, heard, now)
            if now - began > deadline_s:
                raise SiteFailedError(_late(federation, documents, deadline_s))
            time.sleep(POLL_S)


def collect(federation: LocalFederation) -> dict[str, Final]:
    """Results of every site, in order; the daemons must be running and complete.

    Raises:
        SiteFailedError: a site does not answer.
    """
    finals = {}
    for site in federation:
        try:
            result = site.request("result", timeout_s=RESULT_TIMEOUT_S)
            status = StatusDocument.parse(site.request("status", timeout_s=RESULT_TIMEOUT_S))
        except LocalError as error:
            raise SiteFailedError(f"site {site.name!r} returned no result: {error}\n{site.last_lines()}") from error
        finals[site.name] = _final(site, status, result)
    return finals


def _look(site: SiteProcess, record: RunRecord, began: float, heard: dict[str, float]) -> StatusDocument | None:
    asked = time.monotonic()
    document = site.status()
    if document is not None:
        now = heard[site.name] = time.monotonic()
        record.longest_answer_s = max(record.longest_answer_s, now - asked)
        record.note(site.name, now - began, document)
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
            raise SiteFailedError(f"site {site.name!r} has not answered for {SILENCE_S:g} s\n{site.last_lines()}")


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
        contribution = stored_report(load_site(load_config(site.folder / "site.toml")), store)
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
        contribution=contribution,
    )


def sample_rows(record: RunRecord) -> dict[str, list[dict[str, Any]]]:
    """Samples as plain data, by site."""
    return {name: [dataclasses.asdict(sample) for sample in samples] for name, samples in record.samples.items()}


class View:
    """Shows the sites of a run. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._last_line_s = -LINE_EVERY_S

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, documents: Mapping[str, StatusDocument | None], elapsed_s: float) -> None:
        """Show the newest status documents; None for a site that does not answer."""
        if self._live is not None:
            self._live.update(_table(documents, elapsed_s), refresh=True)
        elif elapsed_s - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = elapsed_s
            parts = [f"{name} {_brief(document)}" for name, document in documents.items()]
            self._console.print(f"{elapsed_s:6.1f} s  " + "   ".join(parts), soft_wrap=True, highlight=False)


def _table(documents: Mapping[str, StatusDocument | None], elapsed_s: float) -> Table:
    table = Table(title=f"federation, {elapsed_s:.0f} s", title_justify="left")
    table.add_column("site", style="bold")
    table.add_column("phase", min_width=24)
    for column in ("published", "applied", "loss", "test", "out", "in", "alive", "digest"):
        table.add_column(column, justify="right")
    for name, document in documents.items():
        if document is None:
            table.add_row(name, Text("no answer yet", "dim"), *[""] * 8)
            continue
        averaging, egress = document.averaging, document.egress
        table.add_row(
            name,
            _phase(document),
            f"{averaging.published}/{averaging.entry_limit}",
            str(averaging.applied),
            "" if document.loss is None else f"{document.loss:.4f}",
            _test_score(document),
            f"{egress.bytes_out / 1e6:.2f} MB",
            f"{egress.bytes_in / 1e6:.2f} MB",
            f"{document.reachable}/{len(document.members)}",
            averaging.digest[:8],
        )
    return table


def _phase(document: StatusDocument) -> Text:
    text = Text(document.phase.value, document.phase.style)
    text.append(_work(document), "dim")
    return text


def _work(document: StatusDocument) -> str:
    """How far the trainer is with what a phase waits for, if it waits; begins with a space."""
    progress = document.trainer.progress
    if not progress or document.phase not in (SitePhase.PREPARING, SitePhase.LISTENING):
        return ""
    stage, done, total = progress
    return f" {stage} {done}/{total}"


def _brief(document: StatusDocument | None) -> str:
    if document is None:
        return "no answer yet"
    averaging = document.averaging
    entries = f"{averaging.published}/{averaging.entry_limit}+{averaging.applied}"
    return f"{document.phase} {entries}{_work(document)}"


def _test_score(document: StatusDocument) -> str:
    values = [scores["test"] for scores in document.scores.values() if "test" in scores]
    return f"{sum(values) / len(values):.3f}" if values else ""
