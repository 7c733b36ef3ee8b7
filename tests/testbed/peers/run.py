"""Plays a schedule: tells what did not hold, how long progress took after healing, which branches were reached."""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import structlog

from kmel_p2p.core.effects import Machine
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.sparse import SparseDelta
from kmel_p2p.site.config import LedgerSection
from tests.testbed.ledger.hostile import Malice
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.happenings import Play
from tests.testbed.peers.hostile import hostile_machine
from tests.testbed.peers.marks import DOUBT, TORN
from tests.testbed.peers.oracle import LOOK_EVERY, Oracle
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.schedule import END_S, Schedule
from tests.testbed.peers.site import LAYOUT, make_world

PROGRESS_WITHIN: Micros = 900 * SECOND
"""From healing until the run is over everywhere."""
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a schedule.

    Attributes:
        violations: what did not hold, in words.
        liveness_s: virtual seconds from healing until the run was over everywhere; None: it never was.
        reached: names of branches, and how often each was taken.
        trace: hash over all steps.
        virtual_s: length of the run.
    """

    schedule: Schedule
    violations: tuple[str, ...]
    liveness_s: float | None
    reached: Counter[str]
    trace: str
    virtual_s: float


def play(schedule: Schedule) -> Played:
    """Play a schedule. An exception out of a peer is a violation, too."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder, quiet(), decoding_once():
        world = make_world(schedule.mode, schedule.founders, schedule.spares, schedule.entry_limit, schedule.epochs)
        if schedule.hear_s is not None:
            world = replace(world, ledger=LedgerSection(hear_s=schedule.hear_s))

        def wrap(site: PeerSite, machine: Machine) -> Machine:
            if not schedule.malice or site.index != schedule.founders - 1:
                return machine
            return hostile_machine(Malice[schedule.malice], site, machine)

        federation = PeerFederation(world, schedule.seed, Path(folder), wrap)
        course = Play(federation, schedule)
        oracle = Oracle(course)
        liveness_s: float | None = None
        try:
            liveness_s = _run(federation, oracle)
            oracle.conclude()
            if liveness_s is None:
                oracle.violations.append(f"liveness: {_where_it_stands(federation)}")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            oracle.violations.append(f"defect: {error!r} in {Path(place.filename).name}:{place.lineno}")
        reached = _reached(federation, course, oracle)
        federation.close()
        network = federation.network
        return Played(schedule, tuple(oracle.violations), liveness_s, reached, network.trace.hash, network.now / SECOND)


def _run(federation: PeerFederation, oracle: Oracle) -> float | None:
    network, end = federation.network, round(END_S * SECOND)
    while network.now < end:
        network.run_until(network.now + LOOK_EVERY)
        oracle.look()
    oracle.healed()
    while network.now < end + PROGRESS_WITHIN:
        network.run_until(network.now + LOOK_EVERY)
        oracle.look()
        if oracle.has_progressed():
            return (network.now - end) / SECOND
    return None


def _where_it_stands(federation: PeerFederation) -> str:
    lines = []
    for site in federation.running:
        document = site.document()
        waits = "; ".join(f"{wait.reason} ({' '.join(wait.sites)})" for wait in document.waits)
        lines.append(
            f"{document.site} {document.phase.value} {document.averaging.published}: {document.reason} {waits}"
        )
    return " | ".join(lines)


def _reached(federation: PeerFederation, course: Play, oracle: Oracle) -> Counter[str]:
    reached: Counter[str] = Counter()
    for site in federation.sites:
        reached.update(site.counters)
        if site.life is not None:
            reached.update(site.life.activity.events)
        reached[TORN] += site.disk.torn
    reached[DOUBT] += oracle.doubts
    reached.update(f"happening: {happening.what}" for happening in course.done)
    return +reached


@contextmanager
def decoding_once() -> Iterator[None]:
    """All sites decode the same payloads, and decoding is a pure function: once is enough."""
    decode = DeltaCodec.decode

    @lru_cache(maxsize=4096)
    def known(parameters: CodecParameters, payload: bytes) -> SparseDelta:
        return decode(DeltaCodec(LAYOUT, parameters), payload)

    DeltaCodec.decode = lambda self, payload: known(self.parameters, bytes(payload))  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeltaCodec.decode = decode  # type: ignore[method-assign]


@contextmanager
def quiet() -> Iterator[None]:
    """Peers log much, and nobody reads it here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)
