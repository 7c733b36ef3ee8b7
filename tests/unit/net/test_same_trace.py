"""One protocol, two adapters: what three peers did over real ZeroMQ, the bare machines do again, effect by effect.

The run over ZeroMQ is recorded at the machine's boundary: every message (as it was decoded), command and moment that
went in, every effect that came out. Fresh machines that are given the same inputs by the virtual-time simulator's own
means (messages through its byte carrier, time as numbers) must put out the same effects in the same order. Whatever
reached the machine in another way, such as a clock, a thread, the order of a set or a shared object, would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.board.board import Board
from kmel_p2p.core.effects import Compute, Dial, Effect, Emit, Hangup, Message, Persist, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.sync.messages import SCHEMAS
from kmel_p2p.core.membership import Membership, OwnDescription, RosterSite, preset
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.peer import Peer, make_wire
from kmel_p2p.core.rounds import Ready, RoundOpened, RoundTrained
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.core.wire import Wire
from kmel_p2p.net.driver import Driver
from kmel_p2p.net.transport import Transport
from kmel_p2p.simulate.sites import free_ports
from tests.support.net_peers import monotonic, short_settings, until
from tests.testbed.ledger.toy import ToyCodec, ToyTrainer, toy_charter, toy_identities, toy_trunk
from tests.testbed.network.carrier import BytesCarrier

ENTRIES = 6
IDENTITIES = toy_identities(3)
CHARTER = toy_charter(IDENTITIES, {"entry_limit": ENTRIES}, {"start_sites": 3})
NAMES = {identity.key: f"site{index}" for index, identity in enumerate(IDENTITIES)}


def machine(identity: Identity, addresses: dict[SiteKey, str], now: Micros) -> Peer:
    """Membership and ledger of one site, from nothing but its arguments."""
    rng = random.Random(NAMES[identity.key])
    rules = Rules.of(CHARTER, ToyCodec.codec_id, toy_trunk())
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), rules)
    roster = {key: RosterSite(key, name, (addresses[key],)) for key, name in sorted(NAMES.items())}
    own = OwnDescription(generation=1, addresses=(addresses[identity.key],))
    membership = Membership(identity, CHARTER.id, roster, own, preset("sim"), rng, now)
    settings = LedgerSettings(settle_us=200 * MILLISECOND)
    averaging = LedgerAveraging(identity, CHARTER, ledger, membership, rng, settings, 1 << 16, now)
    board = Board(identity.key, CHARTER.id, membership.alive, frozenset(NAMES), rng, (), 0, now)
    return Peer(identity.key, membership, averaging, board, Constitution(CHARTER))


@dataclass
class Recorded:
    """A machine whose inputs and effects are written down, in the order in which they happened."""

    inner: Peer
    born: Micros
    steps: list[tuple[str, Any, Micros, list[Effect]]] = field(default_factory=list)

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        self.steps.append(("receive", (sender, message), now, []))
        self.inner.receive(sender, message, now)

    def command(self, cmd: Any, now: Micros) -> None:
        self.steps.append(("command", cmd, now, []))
        self.inner.command(cmd, now)

    def advance(self, now: Micros) -> None:
        self.steps.append(("advance", None, now, []))
        self.inner.advance(now)

    def deadline(self) -> Micros | None:
        # Recorded, too: membership measures from it how late a timer is served.
        self.steps.append(("deadline", None, self.born, []))
        return self.inner.deadline()

    def poll(self) -> Effect | None:
        effect = self.inner.poll()
        if effect is not None:
            if not self.steps:
                self.steps.append(("start", None, self.born, []))
            self.steps[-1][3].append(effect)
        return effect


def plain(effect: Effect, wire: Wire) -> tuple[Any, ...]:
    """What an effect does, comparable: messages as their bytes, everything else by its text."""
    match effect:
        case Send(to, message, lane):
            return ("send", NAMES[to], lane, wire.encode(message))
        case Persist(record, ticket):
            return ("store", repr(record), ticket)
        case Emit(event):
            return ("emit", repr(event))
        case Compute():
            return ("compute", effect.ticket)
        case Dial() | Hangup():
            return (repr(effect),)
    raise AssertionError(f"an effect of an unknown kind: {effect!r}")


class Site:
    """A recorded machine on a real transport, with a trainer that answers at once and a disk that forgets nothing."""

    def __init__(self, index: int, addresses: dict[SiteKey, str]) -> None:
        self.identity = IDENTITIES[index]
        born = monotonic()
        self.machine = Recorded(machine(self.identity, addresses, born), born)
        self.faults: list[Any] = []
        self._trainer = ToyTrainer(index)
        self.driver = Driver(
            self.machine,
            make_wire(CHARTER.id, SCHEMAS),
            clock=monotonic,
            on_emit=self._on_emit,
            store=self._store,
            on_fault=lambda where, error: self.faults.append((where, error)),
        )
        self.transport = Transport(
            self.identity,
            NAMES.keys,
            addresses[self.identity.key],
            settings=short_settings(
                dial_timeout_us=10 * SECOND, connect_timeout_us=5 * SECOND, handshake_timeout_us=5 * SECOND
            ),
            on_message=self.driver.message,
            on_link=self.driver.link,
            clock=monotonic,
            rng=random.Random(index),
        )

    @property
    def ledger(self) -> Ledger:
        averaging = self.machine.inner.averaging
        assert isinstance(averaging, LedgerAveraging)
        return averaging.ledger

    def _on_emit(self, event: Any) -> None:
        if isinstance(event, RoundOpened):
            payload, name = self._trainer.train(toy_trunk(), event.number, event.steps, event.norm_bound)
            trained = RoundTrained(event.number, payload, event.steps, event.steps, name)
            asyncio.get_running_loop().call_soon(self.driver.command, trained)

    async def _store(self, record: Any) -> None:
        await asyncio.sleep(0)


async def run_over_zeromq() -> tuple[list[Site], dict[SiteKey, str]]:
    """Three peers meet, publish `ENTRIES` entries each, lose one that says goodbye, and end."""
    addresses = {who.key: f"tcp://127.0.0.1:{port}" for who, port in zip(IDENTITIES, free_ports(3), strict=True)}
    sites = [Site(index, addresses) for index in range(3)]
    async with AsyncExitStack() as parts:
        for site in sites:
            site.driver.start(site.transport)
            parts.push_async_callback(site.driver.stop)
            await site.transport.start()
            parts.push_async_callback(site.transport.close)
            site.driver.command(Ready())
        await until(lambda: all(site.machine.inner.averaging.complete for site in sites), 60.0, "all are complete")
        sites[2].driver.command(membership_commands.Leave())
        await until(lambda: len(sites[0].machine.inner.membership.alive()) == 1, 20.0, "one has left")
    return sites, addresses


def replayed(site: Site, addresses: dict[SiteKey, str], carrier: BytesCarrier) -> Iterator[tuple[Any, Any]]:
    """Pairs of (effects then, effects now) for every input of a recorded run, given to a fresh machine."""
    again = machine(site.identity, addresses, site.machine.born)
    for kind, what, now, effects in site.machine.steps:
        match kind:
            case "receive":
                sender, message = what
                # A hostile or late message that was refused then is refused now.
                with contextlib.suppress(RemoteError):
                    again.receive(sender, carrier.unpack(carrier.pack(message)), now)
            case "command":
                again.command(what, now)
            case "advance":
                again.advance(now)
            case "deadline":
                again.deadline()
        found = []
        while (effect := again.poll()) is not None:
            found.append(effect)
        yield effects, found


async def test_a_run_over_zeromq_is_repeated_effect_by_effect() -> None:
    sites, addresses = await run_over_zeromq()
    wire = make_wire(CHARTER.id, SCHEMAS)
    assert all(site.faults == [] for site in sites)
    assert len({site.ledger.digest() for site in sites}) == 1
    assert sites[0].ledger.vector == dict.fromkeys(sorted(NAMES), ENTRIES)
    dials = 0
    for site in sites:
        kinds: Counter[str] = Counter()
        for number, (then, again) in enumerate(replayed(site, addresses, BytesCarrier(wire))):
            assert [plain(effect, wire) for effect in again] == [plain(effect, wire) for effect in then], (
                f"{NAMES[site.identity.key]}, input {number}: {site.machine.steps[number][:3]}"
            )
            kinds.update(type(effect).__name__ for effect in then)
        assert {"Send", "Emit", "Persist"} <= kinds.keys()
        dials += kinds["Dial"]
        assert kinds["Send"] > 2 * ENTRIES
    assert dials >= 2  # on a busy machine a site may be dialled by both others before its own turn comes
    # The comparison sees more than that both put out something: without one message the rest comes out otherwise.
    steps = sites[0].machine.steps
    del steps[next(number for number, step in enumerate(steps) if step[0] == "receive" and step[3])]
    pairs = replayed(sites[0], addresses, BytesCarrier(wire))
    assert any([plain(e, wire) for e in then] != [plain(e, wire) for e in again] for then, again in pairs)
