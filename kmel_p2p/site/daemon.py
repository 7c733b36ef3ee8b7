"""The peer daemon of a site: composes transport, protocol, store and trainer on one event loop.

The loop never computes for long and never waits for a disk: torch is in the trainer process, SQLite in a thread.
Startup either reaches a working peer or ends with an error that names its cause; there is no half-run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from kmel_p2p.agreement.errors import ConfigError, KmelError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event
from kmel_p2p.core.ledger.sync.pull import MAX_ANSWER_BYTES
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.membership.events import LeaveFinished
from kmel_p2p.core.peer import make_wire
from kmel_p2p.core.rounds import (
    CharterAmended,
    Computed,
    Listen,
    Persisted,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunComplete,
)
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.delta.layout import Layout
from kmel_p2p.files import private_directory
from kmel_p2p.learn.worker.process import main as trainer_main
from kmel_p2p.net.driver import Commands, Driver
from kmel_p2p.net.links import Egress
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.conclusion import Conclusion
from kmel_p2p.site.config import SiteConfig, load_config
from kmel_p2p.site.control.requests import OperatorRequests
from kmel_p2p.site.control.server import ControlServer
from kmel_p2p.site.loaded_site import load_site, trainer_plan
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.egress import EGRESS_NAME, EgressLog
from kmel_p2p.site.observe.egress_head import keep_head
from kmel_p2p.site.observe.logs import LOG_NAME, configure_logging
from kmel_p2p.site.observe.metrics import MetricsServer
from kmel_p2p.site.observe.reporting import Reporter
from kmel_p2p.site.observe.status_builder import build_status
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site, stored_constitution
from kmel_p2p.site.state.lockfile import SiteLock
from kmel_p2p.site.state.recording import Recorder, known_descriptors
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.state.store_writer import StoreWriter
from kmel_p2p.site.trainer.answers import TrainerAnswers
from kmel_p2p.site.trainer.supervisor import TrainerSupervisor

log = structlog.get_logger()

TICK_S = 2.0
"""Between two samples for the report and two flushes of the egress log."""
MESSAGE_SLACK_BYTES = 64 * 1024
"""Room for entry headers and the frame of a message around the payloads."""
MAX_NAMES = 2000
"""Characters of tensor names in a line of the egress log."""
GOODBYE_LINGER_MS = 500
"""How long the transport tries to get rid of what was said last."""
LEAVE_GRACE_S = 2.0
"""How long the others may take to hear that we leave."""


def run(config_path: Path) -> int:
    """Run the peer of a site until it is told to stop; returns the exit code.

    Raises:
        ConfigError, DataError: this site's files are wrong; the peer did not start, or has left again.
    """
    config = load_config(config_path)
    private_directory(config.site.state_dir)
    with SiteLock(config.site.state_dir):
        log_file = config.site.state_dir / LOG_NAME
        configure_logging(config.log.level, config.log.format, log_file, site=config.site.name)
        return asyncio.run(Daemon(config, config_path).serve())


class Daemon:
    """One life of a peer. See the module docstring."""

    def __init__(self, config: SiteConfig, config_path: Path) -> None:
        self.config = config
        self._config_path = config_path
        self.site: Site = load_site(config)
        self._tensors = describe_tensors(self.site.layout)
        self.activity = Activity(time.monotonic)
        self.stopping = False
        self.conclusion = Conclusion(self)
        self.generation = 0
        self.address = ""
        self._stop = asyncio.Event()
        self._fatal: KmelError | None = None
        self._left = asyncio.Event()
        self._digest: tuple[object, str] = (None, "")
        self._digesting = asyncio.Lock()
        self.writer = StoreWriter(config.site.state_dir / STORE_NAME)

    # ---- what status asks ---------------------------------------------------------------------------------------

    @staticmethod
    def now() -> Micros:
        """Monotonic time in microseconds: the clock of everything below."""
        return time.monotonic_ns() // 1000

    @property
    def result(self) -> Mapping[str, Any] | None:
        """The comparison of models; None until the run is complete and they are written."""
        return self.conclusion.result

    @property
    def reason(self) -> str:
        """Why this peer is in its phase, for people."""
        if self._fatal is not None:
            return str(self._fatal)
        return self.peer.averaging.waiting

    def digest(self) -> str:
        """Digest of what the present trunk comes from, hex; empty until `refresh_digest` has computed it."""
        revision, text = self._digest
        return text if revision == self.peer.averaging.revision else ""

    async def refresh_digest(self) -> None:
        """Compute the digest of what is here now, on a copy and off the event loop: a large trunk takes a while."""
        averaging = self.peer.averaging
        async with self._digesting:
            revision = averaging.revision
            work = averaging.digest_work() if revision != self._digest[0] else None
            if work is not None:
                self._digest = (revision, (await asyncio.to_thread(work)).hex())

    # ---- life ---------------------------------------------------------------------------------------------------

    async def serve(self) -> int:
        """Start, run until stopped, end in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with contextlib.AsyncExitStack() as parts:
            await self._start(parts)
            await self._stop.wait()
            self.stopping = True
            log.info("stopping")
            await self._say_goodbye()
        if self._fatal is not None:
            raise self._fatal
        log.info("stopped")
        return 0

    async def _start(self, parts: contextlib.AsyncExitStack) -> None:
        await self.writer.start()
        parts.push_async_callback(self.writer.close)
        self.generation = await self.writer.call(Store.bump_generation)
        constitution = await self.writer.call(lambda store: stored_constitution(self.site, store))
        self.site = dataclasses.replace(self.site, constitution=constitution)
        history = await self.writer.call(lambda store: mode_of(self.site.charter).open(self.site, store))
        await self.writer.call(self.conclusion.recall)
        self.egress = EgressLog(self.config.site.state_dir / EGRESS_NAME, time.time())
        parts.callback(lambda: self.egress.close(time.time()))
        self._control = ControlServer(self.config.site.state_dir, OperatorRequests(self).answer)
        self._reporter = Reporter(self.activity, lambda: self.site.names, self._control.publish)

        rng = random.Random(secrets.randbits(64))
        addresses = self.config.network.advertise or self.site.rule.addresses
        self.peer = make_peer(self.site, history, self.generation, addresses, rng, self.now())
        self.trainer = TrainerSupervisor(
            trainer_main,
            trainer_plan(self.site, reproducible_seed=int.from_bytes(self.site.identity.key[:4], "big")),
            self.site.layout.size,
            lambda: self.writer.call(lambda store: mode_of(self.site.charter).own_state_file(self.site, store)),
            TrainerAnswers(self),
            time.monotonic,
        )
        parts.push_async_callback(self.trainer.stop)
        await self._open_network(parts)
        known = await self.writer.call(known_descriptors)
        self.driver.command(membership_commands.Recall(known))
        if self.conclusion.was_reached:
            self.driver.command(Listen("the run was complete before this start"))
        await self._control.start()
        parts.push_async_callback(self._control.close)
        await self._open_metrics(parts)
        await self.trainer.start()
        parts.push_async_callback(self.conclusion.close)
        ticker = asyncio.create_task(self._tick(), name="tick")
        parts.push_async_callback(_end, ticker)
        rounds = sum(self.peer.averaging.vector.values())
        log.info("peer started", address=self.address, generation=self.generation, mode=self.site.mode, entries=rounds)

    async def _open_metrics(self, parts: contextlib.AsyncExitStack) -> None:
        if not self.config.metrics.listen:
            return
        host, _, port = self.config.metrics.listen.rpartition(":")
        server = MetricsServer(lambda: build_status(self), self.activity.events)
        bound = await server.start(host.strip("[]"), int(port))
        parts.push_async_callback(server.close)
        log.info("metrics", address=f"http://{host}:{bound}/")

    async def _say_goodbye(self) -> None:
        self.driver.command(membership_commands.Leave())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), LEAVE_GRACE_S)

    def _reload(self) -> None:
        """SIGHUP: take over the log settings; say which other changed settings need a restart."""
        try:
            fresh = load_config(self._config_path)
        except ConfigError as error:
            log.error("reload refused", reason=str(error))
            return
        old, new = self.config.model_dump(), fresh.model_dump()
        waiting = [name for name in new if name != "log" and new[name] != old[name]]
        self.config = self.config.model_copy(update={"log": fresh.log})
        log_file = self.config.site.state_dir / LOG_NAME
        configure_logging(fresh.log.level, fresh.log.format, log_file, site=self.config.site.name)
        log.info("settings reloaded", level=fresh.log.level, need_restart=waiting)

    def fail(self, error: KmelError) -> None:
        """Something local makes going on pointless: leave, end, and let the caller see why."""
        if self._fatal is None:
            log.error("cannot go on", reason=str(error))
            self.activity.last_error = str(error)
            self._fatal = error
        self._stop.set()

    async def _open_network(self, parts: contextlib.AsyncExitStack) -> None:
        """Start the protocol, bind the port and prove that strangers are refused."""
        mode, charter = mode_of(self.site.charter), self.site.charter
        largest = max(MAX_ANSWER_BYTES, mode.max_payload_bytes(charter, self.site.layout)) + MESSAGE_SLACK_BYTES
        limits = {"max_message": largest}
        for name in ("queue", "reassembly"):
            limits[name] = max(largest, TransportSettings.model_fields[name].default)
        self.driver = Driver(
            self.peer,
            make_wire(charter.id, mode.messages),
            commands=Commands(
                link_up=membership_commands.LinkUp,
                link_down=membership_commands.LinkDown,
                send_failed=lambda key, lane: membership_commands.SendFailed(key),
                loop_lag=membership_commands.LoopLag,
                persisted=Persisted,
                computed=Computed,
            ),
            clock=self.now,
            on_emit=self._on_event,
            store=Recorder(self.writer, self.site).keep,
            on_fault=self._on_fault,
            on_bad_message=self._reporter.bad_message,
            on_link=self._reporter.link,
        )
        self.transport = Transport(
            self.site.identity,
            lambda: self.site.constitution.roster.keys(),
            "" if self.config.network.outbound_only else self.config.network.bind,
            settings=TransportSettings(**limits),
            on_message=self._on_message,
            on_link=self.driver.link,
            on_egress=self._on_egress,
            clock=self.now,
            rng=random.Random(secrets.randbits(64)),
        )
        self.driver.start(self.transport)
        parts.push_async_callback(self.driver.stop)
        self.address = await self.transport.start()
        parts.push_async_callback(self.transport.close, GOODBYE_LINGER_MS)
        if self.address and not (self.config.network.advertise or self.site.rule.addresses):
            self.driver.command(membership_commands.DescribeSelf(addresses=(self.address,)))

    # ---- protocol -> site ---------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """An event of the protocol: for the trainer first, then for people."""
        match event:
            case RoundOpened(number=number, steps=steps, norm_bound=bound):
                self.trainer.train(number, steps, bound, self.peer.averaging.trunk)
            case RoundCommitted(number=number):
                self.trainer.commit(number)
            case CharterAmended(constitution=constitution):
                self.site = dataclasses.replace(self.site, constitution=constitution)
            case RoundAbandoned(number=number):
                self.trainer.abandon(number)
            case RunComplete():
                self.conclusion.begin()
            case LeaveFinished():
                self._left.set()
        self._reporter.report(event)

    def note(self, work: Callable[[Store], None]) -> None:
        """Store something nobody waits for; a failure ends the peer like that of any other write."""
        self.writer.submit(work).add_done_callback(self._noted)

    def _noted(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None and not self.stopping:
            self._on_fault("store", error)

    def _on_message(self, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        self.activity.received_at = self.activity.clock()
        self.driver.message(sender, data, lane)

    def _on_fault(self, where: str, error: BaseException) -> None:
        """A defect of ours, or the store: the first is survived and counted, the second ends the peer."""
        log.error("fault", where=where, error=repr(error), exc_info=error)
        self.activity.last_error = f"{where}: {error}"
        self.activity.alarm(f"fault {where}", f"{where}: {error!r}; please report it")
        if where == "store":
            self.fail(error if isinstance(error, KmelError) else ConfigError(f"the store failed: {error!r}"))

    def _on_egress(self, egress: Egress) -> None:
        """Every byte that leaves is on record before it does; what cannot be recorded must not leave."""
        name = self._reporter.name(egress.to)
        self.activity.sent_at = self.activity.clock()
        if egress.lane is Lane.BULK:
            self.egress.record(time.time(), name, egress.label, self._tensors, egress.size_bytes, egress.digest)
        else:
            self.egress.add(name, egress.label, egress.size_bytes, egress.digest)

    # ---- the end ------------------------------------------------------------------------------------------------

    def concluded(self) -> None:
        """Trunk and models are written: nothing is left to do here but to relay."""
        if self.config.ledger.on_complete == "exit":
            self._stop.set()

    def stop(self) -> None:
        """End in order, as SIGTERM does."""
        self._stop.set()

    # ---- time ---------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Sample for the report and flush the egress log."""
        while True:
            await asyncio.sleep(TICK_S)
            names = self.site.names
            averaging = self.peer.averaging
            status = build_status(self)
            row = {
                "phase": status.phase,
                "vector": {names.get(key, key.hex()): number for key, number in averaging.vector.items()},
                "bytes_out": status.egress.bytes_out,
                "bytes_in": status.egress.bytes_in,
                "alive": sum(1 for m in status.members if m.state in ("alive", "suspect")),
            }
            self.note(partial(Store.add_history, kind="sample", at=time.time(), values=row))
            try:
                head = self.egress.write_sums(time.time())
                await asyncio.to_thread(self.egress.sync)
            except ConfigError as error:
                self.fail(error)
            else:
                self.note(partial(keep_head, head=head))


def describe_tensors(layout: Layout) -> str:
    """What an entry or a share is made from, for the egress log: names of all tensors, cut where they are many."""
    names = ", ".join(spec.name for spec in layout.specs)
    text = names if len(names) <= MAX_NAMES else f"{names[:MAX_NAMES]}... ({len(layout.specs)} tensors)"
    return f"{text} (layout {layout.hash.hex()[:16]})"


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
