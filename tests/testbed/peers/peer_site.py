"""One virtual site: what a daemon composes around the protocol, with stand-ins for trainer, sockets and models.

Store, orders, reporting, status and the operator's requests are the shipped ones.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey, curve_public
from kmel_p2p.core.effects import Event
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.rounds import CharterAmended, Listen, Ready, RoundAllowance, RoundTrained
from kmel_p2p.core.rounds.contract import RoundOpened
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.net.admission import AdmittedSites
from kmel_p2p.site.control.requests import OperatorRequests
from kmel_p2p.site.desk.amendment_lane import AmendmentLane
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.modes.stored_ledger import codec_of
from kmel_p2p.site.notice_board import NoticeBoard
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.reporting import Reporter
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.observe.status_builder import StatusBuilder
from kmel_p2p.site.pausing import Pausing
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site, stored_constitution
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.state.recording import known_descriptors
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.trainer.supervisor import TrainerState
from tests.testbed.peers.disk import FULL, VirtualDisk
from tests.testbed.peers.site import World, make_site

SIZE_CLASS = 8
MODELS_BLOB = "virtual models"
"""Under this name the store keeps what was allowed when the models were written."""


@dataclass(slots=True)
class Life:
    """What ends with the process."""

    number: int
    site: Site
    peer: Peer
    activity: Activity
    reporter: Reporter
    orders: OrderBook
    status: StatusBuilder
    open_round: int | None = None
    """Not committed yet."""
    training: int | None = None
    """The round that the trainer is at."""
    trainer_is_up: bool = True
    bad_messages: Counter[SiteKey] = field(default_factory=Counter)
    leaving: bool = False


class PeerSite:
    """See the module docstring.

    Args:
        world: charter and identities.
        index: of its identity.
        number: tells copies of one identity apart.
        constitution: what its files say.
        disk: its disk.
        seed: of its made-up training.
    """

    def __init__(
        self, world: World, index: int, number: int, constitution: Constitution, disk: VirtualDisk, seed: int
    ) -> None:
        self.world = world
        self.index = index
        self.number = number
        self.constitution = constitution
        self.disk = disk
        self.key = world.identities[index].key
        self.lives = 0
        self.life: Life | None = None
        self.step_us: Micros = SECOND // 10
        self.bytes_out = 0
        self.counters: Counter[str] = Counter()
        """Events of all lives."""
        self._seed = seed
        self._trainings = 0

    # ---- a life -------------------------------------------------------------------------------------------------

    def start(self, rng: random.Random, now: Micros, clock: Callable[[], Micros]) -> Peer:
        """Begin a life, as `site.daemon` does. Raises ConfigError where the store cannot be used."""
        store = self.disk.open()
        generation = store.bump_generation()
        site = make_site(self.world, self.index, self.constitution, self.disk.folder)
        site = site.amended(stored_constitution(site, store))
        mode = mode_of(site.charter)
        history = mode.open(site, store)
        orders = OrderBook(self.disk.folder)
        peer = make_peer(site, history, generation, site.rule.addresses, rng, now, orders.blocked)
        activity = Activity(lambda: clock() / SECOND)
        reporter = Reporter(activity, mode, lambda: self.site.names, lambda document: None)
        self.lives += 1
        self.life = Life(
            self.lives,
            site,
            peer,
            activity,
            reporter,
            orders,
            self._status(peer, activity, orders, clock, generation),
        )
        return peer

    def first_commands(self) -> list[Any]:
        """What a daemon tells its peer right after the start."""
        store, life = self.disk.store, self._living
        assert store is not None
        found: list[Any] = [membership_commands.Recall(known_descriptors(store))]
        written = store.get_blob(MODELS_BLOB)
        if written is not None:
            found.append(Listen("the run was complete before this start", RoundAllowance(*json.loads(written))))
        found += life.orders.first_commands()
        Pausing(life.orders, (), found.append).look()
        return found

    def prepared(self) -> list[Any]:
        """What follows when the trainer has prepared its data."""
        self._living.trainer_is_up = True
        return [membership_commands.DescribeSelf(size_class=SIZE_CLASS), Ready()]

    def end(self) -> None:
        """The process is gone."""
        if self.life is not None:
            self.counters.update(self.life.activity.events)
        self.life = None

    # ---- what is there ------------------------------------------------------------------------------------------

    @property
    def site(self) -> Site:
        """As amended so far."""
        return self._living.site

    @property
    def _living(self) -> Life:
        assert self.life is not None, "the site is off"
        return self.life

    def admits(self, key: SiteKey, now: Micros) -> bool:
        """Whether this site's gate lets a key in."""
        if self.life is None:
            return False
        peer, blocked = self.life.peer, self.life.orders.blocked
        gate = AdmittedSites(lambda: peer.admitted, self.key, lambda: now, lambda: blocked)
        return gate.site(curve_public(key)) is not None

    def document(self) -> StatusDocument:
        """What `kmel-peer status` shows now."""
        life = self._living
        life.reporter.disk_is_full(FULL if self.disk.full else "")
        return life.status.build()

    # ---- events and orders --------------------------------------------------------------------------------------

    def told(self, event: Event) -> None:
        """An event of the protocol, as `site.daemon` takes it."""
        life = self._living
        if isinstance(event, CharterAmended):
            life.site = life.site.amended(event.constitution)
        life.reporter.report(event)

    def train(self, opened: RoundOpened, life: int) -> RoundTrained:
        """Made-up training: no delta is like another, not even where a round has the number of an earlier one."""
        self._trainings += 1
        rng = np.random.default_rng((self._seed, self.number, life, self._trainings))
        site = self.site
        drift = rng.standard_normal(site.layout.size).astype(np.float32) * np.float32(1e-3)
        keeps = mode_of(site.charter).keeps_entries
        payload = codec_of(site).encode(drift, opened.norm_bound) if keeps else drift.tobytes()
        state = f"round-{opened.number}"
        return RoundTrained(opened.number, payload, opened.steps, opened.steps * self.step_us, state)

    def lane(self, command: Callable[[Any], None]) -> AmendmentLane:
        """What it gives and takes at desks."""
        return AmendmentLane(lambda: self.site, self._living.peer.averaging, command)

    def order(self, command: Callable[[Any], None], name: str, arguments: Mapping[str, Any]) -> None:
        """An order of the operator over the control socket.

        Raises:
            LocalError: it cannot be carried out now.
        """
        life = self._living
        requests = OperatorRequests(
            site=lambda: self.site,
            averaging=life.peer.averaging,
            activity=life.activity,
            writer=cast(Any, None),
            orders=life.orders,
            command=command,
            status=cast(Any, None),
            result=lambda: None,
            stop=lambda: None,
            pause=Pausing(life.orders, (), command).tell,
        )
        asyncio.run(requests.answer(name, arguments))

    def leave_order(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Keep an order for the next start, as the command line does where no peer runs; whether it can be kept."""
        book = OrderBook(self.disk.folder)
        match name:
            case "unblock":
                rule = self.constitution.site_named(arguments["site"])
                if rule is None or rule.site_key not in book.blocked:
                    return False
                book.unblock(rule.site_key)
            case "resume":
                book.pause(None)
            case _:
                return False
        return True

    # ---- inner --------------------------------------------------------------------------------------------------

    def _status(
        self, peer: Peer, activity: Activity, orders: OrderBook, clock: Callable[[], Micros], generation: int
    ) -> StatusBuilder:
        trainer = SimpleNamespace(
            state=TrainerState.IDLE, pid=None, resident_bytes=0, progress="", heard_at=None, restarts=0, limits=""
        )
        return StatusBuilder(
            site=lambda: self.site,
            peer=peer,
            activity=activity,
            digest=cast(Any, SimpleNamespace(text="")),
            trainer=cast(Any, trainer),
            final_models=cast(Any, SimpleNamespace(result=None, last_result=None)),
            transport=cast(Any, SimpleNamespace(links=dict)),
            driver=cast(Any, SimpleNamespace(worst_lag_us=0, recent_lag_us=0)),
            egress=cast(Any, SimpleNamespace(head=SimpleNamespace(number=0))),
            orders=orders,
            clock=clock,
            generation=generation,
            address="",
            federation_payoff=NoticeBoard(
                lambda: self.site, peer.board, peer.membership.alive, lambda cmd: None
            ).federation_payoff,
        )


def keep_models(allowed: RoundAllowance) -> Callable[[Store], None]:
    """The models are written: the store keeps what was allowed then."""
    return lambda store: store.put_blob(MODELS_BLOB, json.dumps(allowed).encode())
