"""An operator blocks a site: kept over restarts, refused at once, waited for no longer; what it signed still counts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from unittest.mock import Mock

import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.main import invoke
from kmel_p2p.core.effects import Dial, Emit, Event, LinkUp, Send
from kmel_p2p.core.membership.events import MemberLeft, MemberRemoved
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.rounds import Begin, Blocked, Conclude, RoundAllowance, SiteBlocked, SiteUnblocked
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import create_federation
from kmel_p2p.site.config import load_config
from kmel_p2p.site.control.requests import OperatorRequests
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.orders import MAX_REASON, ORDERS_NAME, OrderBook, Orders
from kmel_p2p.site.state.store import STORE_NAME, Store

NAMES = ("north", "south", "east")


@pytest.fixture(params=["ledger", "pushsum"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The directory of site north, with a charter of either averaging mode."""
    (tmp_path / "t.csv").write_text("smiles,logS\nCCO,1\n")
    simulation = Simulation.model_validate(
        {
            "task": "trial",
            "data": {"kind": "csv", "train": Path("t.csv"), "test": Path("t.csv")},
            "sites": {"names": NAMES},
            "charter": {
                "federation": "trial",
                "model": {"hidden": (8,)},
                "features": {"bits": 64},
                "averaging": {"mode": request.param, "entry_limit": 9},
                "pace": {"start_sites": 3},
                "assay_endpoints": ({"name": "solubility", "column": "logS", "head": "shared"},),
            },
        }
    )
    create_federation(simulation, tmp_path, [tmp_path / "t.csv"] * 3, tmp_path / "t.csv", "0" * 64)
    return tmp_path / "sites" / "north"


@pytest.fixture
def site(folder: Path) -> Site:
    return loaded(folder)


def loaded(folder: Path) -> Site:
    return load_site(load_config(folder / "site.toml"))


class Three:
    """The protocol machines of three sites that hand each other every message."""

    def __init__(self, folder: Path, blocked: dict[str, str] | None = None) -> None:
        self.peers: dict[SiteKey, Peer] = {}
        self.events: dict[SiteKey, list[Event]] = {}
        self.sent: list[tuple[SiteKey, SiteKey]] = []
        self.dialled: list[tuple[SiteKey, SiteKey]] = []
        self.now: Micros = 0
        for name in NAMES:
            site = loaded(folder.parent / name)
            state_dir = site.config.site.state_dir
            state_dir.mkdir(parents=True, exist_ok=True)
            store = Store(state_dir / STORE_NAME)
            history = mode_of(site.charter).open(site, store)
            store.close()
            out = (blocked or {}).get(name)
            without = frozenset({site.charter.site_named(out).site_key}) if out else frozenset[SiteKey]()
            addresses = site.rule.addresses
            self.peers[site.identity.key] = make_peer(site, history, 1, addresses, random.Random(name), 0, without)
            self.events[site.identity.key] = []

    def link(self) -> None:
        """Connect everybody with everybody."""
        for one in self.peers:
            for other in self.peers.keys() - {one}:
                self.peers[one].command(LinkUp(other), 0)

    def run(self, seconds: int) -> None:
        for _ in range(4 * seconds):
            self.now += SECOND // 4
            for peer in self.peers.values():
                peer.advance(self.now)
            while sum(self._deliver(key, peer) for key, peer in self.peers.items()):
                pass

    def _deliver(self, key: SiteKey, peer: Peer) -> bool:
        effect = peer.poll()
        if isinstance(effect, Emit):
            self.events[key].append(effect.event)
        elif isinstance(effect, Dial):
            self.dialled.append((key, effect.to))
        elif isinstance(effect, Send):
            self.sent.append((key, effect.to))
            self.peers[effect.to].receive(key, effect.message, self.now)
        return effect is not None


def test_a_blocked_site_is_neither_heard_nor_told_anything_and_may_come_back(folder: Path) -> None:
    three = Three(folder)
    three.link()
    north, south, east = three.peers
    three.run(5)
    peer = three.peers[north]
    assert set(peer.membership.alive()) == {south, east}
    peer.command(Blocked(frozenset({south})), three.now)
    three.sent.clear()
    three.run(30)
    told = three.events[north]
    assert SiteBlocked(south) in told
    # It left, for all that averaging knows: a retired site's mass would be taken back for good.
    assert MemberLeft(south) in told
    assert not any(isinstance(event, MemberRemoved) for event in told)
    assert peer.membership.alive() == (east,)
    assert (south, north) in three.sent
    assert (north, south) not in three.sent
    # Nobody else is drawn into it.
    assert set(three.peers[east].membership.alive()) == {north, south}
    peer.command(Blocked(frozenset()), three.now)
    peer.command(LinkUp(south), three.now)
    three.run(10)
    assert SiteUnblocked(south) in told
    assert south in peer.membership.alive()
    assert (north, south) in three.sent


def test_a_site_that_was_blocked_before_the_start_is_never_dialled(folder: Path) -> None:
    three = Three(folder, {"north": "south"})
    north, south, east = three.peers
    three.run(5)
    assert {to for key, to in three.dialled if key == north} == {east}
    assert {to for key, to in three.dialled if key == south} == {north, east}
    three.link()
    three.run(30)
    assert (north, south) not in three.sent
    assert three.peers[north].membership.alive() == (east,)


def test_orders_outlive_a_restart_and_a_damaged_file_says_what_to_do(site: Site, tmp_path: Path) -> None:
    south = site.charter.site_named("south").site_key
    book = OrderBook(tmp_path / "state")
    with pytest.raises(LocalError, match=f"at most {MAX_REASON} characters, and this one has 1000"):
        book.block(south, "x" * 1000)
    assert book.blocked == frozenset()
    book.block(south, "x" * MAX_REASON)
    book.conclude("enough", 1)
    book.begin("the fourth has no machine yet")
    again = OrderBook(tmp_path / "state")
    assert again.orders == book.orders
    assert again.blocked == {south}
    assert len(again.orders.blocked[south].reason) == MAX_REASON
    again.block(south, "another reason")
    assert again.orders.blocked[south].at == book.orders.blocked[south].at
    again.unblock(south)
    with pytest.raises(LocalError, match="not blocked"):
        again.unblock(south)
    assert OrderBook(tmp_path / "state").orders.concluded == "enough"
    assert Begin("the fourth has no machine yet", again=True) in OrderBook(tmp_path / "state").first_commands()
    for text in ("{", '{"blocked": {"00": {"reason": "", "at": 1}}}', '{"blocked": {}, "else": 1}', "[]"):
        (tmp_path / "state" / ORDERS_NAME).write_text(text)
        with pytest.raises(ConfigError, match=r"orders\.json: cannot be read.*give those orders again"):
            OrderBook(tmp_path / "state")


async def test_an_order_is_kept_before_it_takes_force(site: Site, tmp_path: Path) -> None:
    given: list[tuple[object, Orders]] = []
    book = OrderBook(tmp_path / "state")

    def command(order: object) -> None:
        # What a crash right here would leave behind holds already.
        given.append((order, OrderBook(tmp_path / "state").orders))

    parts = dict.fromkeys(("activity", "writer", "status", "result", "stop", "pause"), Mock())
    averaging = Mock(vector={site.charter.site_named("south").site_key: 7}, allowance=RoundAllowance(1, 6))
    requests = OperatorRequests(site=lambda: site, averaging=averaging, orders=book, command=command, **parts)
    answer = await requests.answer("block", {"site": "south", "reason": "lies"})
    assert answer["entries"] == 7
    await requests.answer("conclude", {"reason": "enough"})
    await requests.answer("unblock", {"site": "south"})
    south = site.charter.site_named("south").site_key
    (blocked, first), (concluded, second), (unblocked, _) = given
    assert blocked == Blocked(frozenset({south}))
    assert first.blocked[south].reason == "lies"
    assert concluded == Conclude("enough")
    assert second.concluded == "enough"
    assert unblocked == Blocked(frozenset())
    for name, problem in (("north", "this site itself"), ("west", "lists: east, north, south")):
        with pytest.raises(LocalError, match=problem):
            await requests.answer("block", {"site": name})


def test_a_peer_that_does_not_run_is_given_the_order_for_its_next_start(
    folder: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = str(folder / "site.toml")
    assert invoke(["block", "south", "--reason", "lies", "-c", settings]) == 0
    assert "still counts where other sites hand it on" in capsys.readouterr().out
    assert OrderBook(site.config.site.state_dir).blocked == {site.charter.site_named("south").site_key}
    assert invoke(["block", "west", "-c", settings]) == ExitCode.REFUSED
    assert "it lists: east, north, south" in capsys.readouterr().err
    assert invoke(["unblock", "south", "-c", settings]) == 0
    assert invoke(["unblock", "south", "-c", settings]) == ExitCode.REFUSED
    stored = json.loads((site.config.site.state_dir / ORDERS_NAME).read_text())
    assert stored == {
        "blocked": {},
        "concluded": None,
        "approved_until": 0,
        "paused": None,
        "begun": None,
        "concluded_in": 1,
    }
