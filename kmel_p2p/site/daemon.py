"""The peer daemon of a site: composes transport, protocol, store and trainer on one event loop.

The loop never computes for long and never waits for a disk: torch runs in the trainer process, SQLite in a thread.
A start either ends in a working peer or in an error that names its cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import time
from pathlib import Path

import structlog

from kmel_p2p.agreement.errors import KmelError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core import rounds
from kmel_p2p.core.effects import Event
from kmel_p2p.core.ledger.sync.pull import MAX_ANSWER_BYTES
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.membership.events import LeaveFinished
from kmel_p2p.core.peer import make_wire
from kmel_p2p.core.types import Lane
from kmel_p2p.files import private_directory
from kmel_p2p.learn.worker.launch import entry_of
from kmel_p2p.net.driver import Driver
from kmel_p2p.net.link_events import Egress, LinkEvent
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.clock import now_us, wall_us
from kmel_p2p.site.config import SiteConfig, load_config
from kmel_p2p.site.control.requests import OperatorRequests
from kmel_p2p.site.control.server import ControlServer
from kmel_p2p.site.desk.reception import Reception
from kmel_p2p.site.desk.start_file_fetch import fetch_start_file
from kmel_p2p.site.final_models import FinalModels, TrunkDigest
from kmel_p2p.site.life import Life
from kmel_p2p.site.loaded_site import describe_tensors, load_site, own_seed, require_trunk, trainer_plan
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.notice_board import NoticeBoard, today
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.audit import Audit
from kmel_p2p.site.observe.course import Course
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_head import HeadKeeper
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME
from kmel_p2p.site.observe.logs import LOG_NAME, configure_logging
from kmel_p2p.site.observe.reporting import Reporter
from kmel_p2p.site.observe.sampling import Sampler
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.observe.status_builder import StatusBuilder
from kmel_p2p.site.page.serving import PageParts
from kmel_p2p.site.pausing import Pausing
from kmel_p2p.site.payoff_statement import PayoffStating
from kmel_p2p.site.peer_machine import addresses_of, make_peer
from kmel_p2p.site.site import Site, stored_constitution
from kmel_p2p.site.state.lockfile import SiteLock
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.state.recording import Recorder, known_descriptors, known_notices
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.state.store_writer import StoreWriter
from kmel_p2p.site.trainer.answers import TrainerAnswers
from kmel_p2p.site.trainer.campaigns import campaign_training
from kmel_p2p.site.trainer.contribution_book import BLOB as BOOK
from kmel_p2p.site.trainer.contribution_book import ContributionBook
from kmel_p2p.site.trainer.contributions import ContributionMeasuring
from kmel_p2p.site.trainer.following import DataFollowed, DataReload
from kmel_p2p.site.trainer.limits import TrainerLimits
from kmel_p2p.site.trainer.looks import TrunkLooks
from kmel_p2p.site.trainer.supervisor import TrainerSupervisor

log = structlog.get_logger()

MESSAGE_SLACK_BYTES = 64 * 1024
"""Room for entry headers and the frame of a message around the payloads."""
GOODBYE_LINGER_MS = 500
"""How long the transport keeps trying to deliver the last messages."""
LEAVE_GRACE_S = 2.0
"""How long the other peers have to hear that this one leaves."""


def run(config_path: Path, *, train: bool = True) -> int:
    """Run the peer of a site until it is told to stop; returns the exit code. Without `train` it reads no measurements.

    Raises:
        ConfigError, DataError: this site's files are wrong; the peer did not start, or has left again.
        LocalError: no site gives the file that the charter's trunk starts from.
    """
    config = load_config(config_path)
    private_directory(config.site.state_dir)
    with SiteLock(config.site.state_dir):
        log_file = config.site.state_dir / LOG_NAME
        configure_logging(config.log.level, config.log.format, log_file, site=config.site.name)
        return asyncio.run(Daemon(config, config_path, train=train).serve())


class Daemon:
    """One life of a peer: makes the parts, connects them and ends them in order."""

    def __init__(self, config: SiteConfig, config_path: Path, *, train: bool = True) -> None:
        self._train = train
        self._config_path = config_path
        self._site: Site = load_site(config)
        fetch_start_file(self._site, lambda name, size: log.info("fetching the start file", giver=name, bytes=size))
        require_trunk(self._site)
        self._mode = mode_of(self._site.charter)
        self._activity = Activity(time.monotonic)
        self._orders = OrderBook(config.site.state_dir)
        self._pausing = Pausing(self._orders, config.resources.hours, lambda command: self._driver.command(command))
        self._limits = TrainerLimits(config.resources)
        self._writer = StoreWriter(config.site.state_dir / STORE_NAME)
        self._life = Life(self._activity, self._writer)
        self._left = asyncio.Event()

    @property
    def _config(self) -> SiteConfig:
        return self._site.config

    # ---- life ---------------------------------------------------------------------------------------------------

    async def serve(self) -> int:
        """Start, run until stopped, end in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._life.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with contextlib.AsyncExitStack() as parts:
            await self._start(parts)
            await self._life.stopped()
            log.info("stopping")
            await self._say_goodbye()
        if self._life.fatal is not None:
            raise self._life.fatal
        log.info("stopped")
        return 0

    async def _start(self, parts: contextlib.AsyncExitStack) -> None:
        writer, state_dir = self._writer, self._config.site.state_dir
        await writer.start()
        parts.push_async_callback(writer.close)
        generation = await writer.call(Store.bump_generation)
        constitution = await writer.call(lambda store: stored_constitution(self._site, store))
        self._site = self._site.amended(constitution)
        history = await writer.call(lambda store: self._mode.open(self._site, store))
        egress = EgressLog(state_dir / EGRESS_NAME, time.time(), self._config.egress.rotation)
        self._audit = Audit(
            egress,
            HeadKeeper(egress, writer, self._life.note),
            describe_tensors(self._site.layout),
            lambda key: self._reporter.name(key),
            lambda problem: self._reporter.egress_stands(problem),
        )
        parts.push_async_callback(self._audit.close)
        await self._audit.recall_today()
        course = await writer.call(lambda store: Course(store, self._life.note))
        rng = random.Random(secrets.randbits(64))
        addresses = self._config.network.advertise or self._site.rule.addresses
        notices = await writer.call(known_notices)
        blocked = self._orders.blocked
        self._peer = make_peer(self._site, history, generation, addresses, rng, now_us(), blocked, notices, today())
        averaging = self._peer.averaging
        self._board = NoticeBoard(
            lambda: self._site, self._peer.board, self._peer.membership.alive, lambda each: self._driver.command(each)
        )
        digest = TrunkDigest(averaging)
        plan = trainer_plan(self._site, own_seed(self._site))
        self._trainer = TrainerSupervisor(
            entry_of(plan),
            plan,
            self._site.layout.size,
            lambda: writer.call(lambda store: self._mode.own_state_file(self._site, store)),
            time.monotonic,
            self._limits,
        )
        parts.push_async_callback(self._trainer.stop)
        self._followed = DataFollowed(
            self._config_path, self._trainer, lambda each: self._driver.command(each), self._activity
        )
        parts.push_async_callback(self._followed.close)
        whole_trunk = asyncio.Lock()
        self._measuring = ContributionMeasuring(
            state_dir,
            ContributionBook.decode(await writer.call(lambda store: store.get_blob(BOOK))),
            lambda mark: self._mode.stretch_since(self._site, averaging, mark),
            self._trainer.examine,
            lambda book: self._life.note(lambda store: store.put_blob(BOOK, book)),
            whole_trunk,
        )
        self._final_models = FinalModels(
            site=lambda: self._site,
            averaging=averaging,
            trainer=self._trainer,
            digest=digest,
            note=self._life.note,
            written=self._all_is_written,
            fail=self._life.fail,
        )
        self._stating = PayoffStating(lambda: self._site, self._final_models, self._board, self._activity)
        await writer.call(self._final_models.recall)
        requests = OperatorRequests(
            site=lambda: self._site,
            averaging=averaging,
            activity=self._activity,
            writer=writer,
            orders=self._orders,
            command=lambda command: self._driver.command(command),
            status=lambda: self._status_with_digest(digest),
            result=lambda: self._final_models.result,
            stop=self._life.stop,
            desk=lambda name, arguments: self._reception.operate(name, arguments),
            pause=self._pausing.tell,
            board=self._board.answer,
            read_data=self._read_data,
            data_read=lambda: self._followed.newest,
        )
        control = ControlServer(state_dir, requests.answer)
        self._reporter = Reporter(
            self._activity, self._mode, lambda: self._site.names, control.publish, lambda: self._site.assay_endpoints
        )
        self._reception = Reception(
            site=lambda: self._site,
            averaging=averaging,
            command=lambda command: self._driver.command(command),
            addresses=lambda key: addresses_of(self._peer, self._site, key),
            blocked=lambda: self._orders.blocked,
            activity=self._activity,
            record=self._on_egress,
        )
        parts.push_async_callback(self._reception.close)
        address = await self._open_network(parts)
        self._status = StatusBuilder(
            site=lambda: self._site,
            peer=self._peer,
            activity=self._activity,
            digest=digest,
            trainer=self._trainer,
            final_models=self._final_models,
            transport=self._transport,
            driver=self._driver,
            egress=egress,
            orders=self._orders,
            clock=now_us,
            generation=generation,
            address=address,
            federation_payoff=self._board.federation_payoff,
        )
        self._driver.command(membership_commands.Recall(await writer.call(known_descriptors)))
        if self._final_models.were_written:
            allowed = self._final_models.allowed_before
            self._driver.command(rounds.Listen("the run was complete before this start", allowed))
        for command in self._orders.first_commands():
            self._driver.command(command)
        self._pausing.look()
        await control.start()
        parts.push_async_callback(control.close)
        looks = TrunkLooks(
            state_dir, lambda turn: self._mode.trunks_without(self._site, averaging, turn), self._trainer.examine,
            self._driver.command, self._measuring.book, whole_trunk,
        )  # fmt: skip
        answers = TrainerAnswers(
            activity=self._activity,
            command=self._driver.command,
            final_models=self._final_models,
            looks=looks,
            measuring=self._measuring,
            note=self._life.note,
            course=course,
            data=self._followed,
            fail=self._life.fail,
        )
        if self._train:
            await self._trainer.start(answers)
            self._followed.tell(self._site)
        else:
            self._trainer.leave_out()
        parts.push_async_callback(self._final_models.close)
        parts.push_async_callback(looks.close)
        self._reception.start()
        parts.push_async_callback(self._measuring.close)
        sampler = Sampler(
            looks=(self._pausing.look, self._board.look, self._stating.look),
            status=self._status.build,
            activity=self._activity,
            course=course,
            disk_full=lambda: writer.disk_full,
            tell_disk=self._reporter.disk_is_full,
            audit=self._audit,
            seen=self._saw,
        )
        sampler.start()
        parts.callback(course.close)
        parts.push_async_callback(sampler.close)
        page = PageParts(
            lambda: self._site, self._status.build, self._activity, course, self._audit, self._orders,
            self._final_models, self._measuring.book, self._board,
        )  # fmt: skip
        if (served := await page.serve(self._config.metrics)) is not None:
            parts.push_async_callback(served.close)
        writer.wait_for_room = True
        entries = sum(averaging.vector.values())
        log.info("peer started", address=address, generation=generation, mode=self._site.mode, entries=entries)

    async def _status_with_digest(self, digest: TrunkDigest) -> StatusDocument:
        await digest.refresh()
        return self._status.build()

    def _saw(self, site: SiteKey, reachable: bool) -> None:
        size = rounds.size_class(self._peer.membership, site)
        self._measuring.book.saw(site, reachable=reachable, size_class=size)

    async def _say_goodbye(self) -> None:
        self._driver.command(membership_commands.Leave())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), LEAVE_GRACE_S)

    def _reload(self) -> None:
        """SIGHUP."""
        with contextlib.suppress(KmelError):  # the log has said what is wrong
            self._read_data(accept_removed=False)

    def _read_data(self, accept_removed: bool) -> DataReload:
        self._site = self._followed.reread(self._site, accept_removed=accept_removed)
        return self._followed.newest

    async def _open_network(self, parts: contextlib.AsyncExitStack) -> str:
        """Start the protocol, bind the port and prove that strangers are refused; returns the address bound."""
        charter = self._site.charter
        largest = max(MAX_ANSWER_BYTES, self._mode.max_payload_bytes(charter, self._site.layout)) + MESSAGE_SLACK_BYTES
        settings = TransportSettings.carrying(largest, self._config.network.proxy_address)
        self._driver = Driver(
            self._peer,
            make_wire(charter.id, self._mode.messages),
            clock=now_us,
            on_emit=self._on_event,
            store=Recorder(self._writer, self._site).keep,
            on_fault=self._life.fault,
            on_bad_message=self._reporter.bad_message,
            on_link=self._on_link,
            label=self._mode.label,
            wall=wall_us,
        )
        self._transport = Transport(
            self._site.identity,
            lambda: self._peer.admitted,
            "" if self._config.network.outbound_only else self._config.network.bind,
            settings=settings,
            on_message=self._on_message,
            on_link=self._driver.link,
            on_egress=self._on_egress,
            blocked=lambda: self._orders.blocked,
            clock=now_us,
            rng=random.Random(secrets.randbits(64)),
            desk=self._reception.desk,
        )
        self._driver.start(self._transport)
        parts.push_async_callback(self._driver.stop)
        address = await self._transport.start()
        parts.push_async_callback(self._transport.close, GOODBYE_LINGER_MS)
        if address and not (self._config.network.advertise or self._site.rule.addresses):
            self._driver.command(membership_commands.DescribeSelf(addresses=(address,)))
        return address

    def _on_link(self, event: LinkEvent) -> None:
        self._reporter.link(event)
        self._reception.link(event)

    # ---- protocol -> site ---------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """An event of the protocol: for the trainer first, then for people."""
        match event:
            case rounds.RoundOpened():
                self._trainer.train(
                    event, self._peer.averaging.trunk, campaign_training(self._site.constitution, event)
                )
            case rounds.RoundCommitted(number=number):
                self._trainer.commit(number)
            case rounds.CharterAmended(constitution=constitution):
                self._site = self._followed.amended(self._site, constitution)
                self._reception.amended()
            case rounds.RoundAbandoned():
                self._trainer.abandon(event)
            case rounds.RunComplete():
                self._measuring.measure_the_rest()
                self._final_models.begin()
            case LeaveFinished():
                self._left.set()
        self._reporter.report(event)

    def _on_message(self, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        self._activity.received_at = self._activity.clock()
        self._driver.message(sender, data, lane)

    def _on_egress(self, egress: Egress) -> bool:
        self._activity.sent_at = self._activity.clock()
        return self._audit.leaves(egress)

    def _all_is_written(self) -> None:
        """Trunk and models are written: all that is left to do here is to relay."""
        self._stating.look()  # before a site that is to exit does
        run_over = self._peer.averaging.phase is rounds.Phase.LISTENING
        if self._config.ledger.on_complete == "exit" and run_over:
            self._life.stop()
