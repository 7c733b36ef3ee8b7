"""What a hostile site does, one function per attack, numbered as the threats that they try out.

An attack runs until it is cancelled. It may change what the site's own machine believes of itself: then everything
that follows from the lie goes out in valid messages, whatever their format is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import msgpack

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Machine, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.log.entry import Entry, create, decode
from kmel_p2p.core.ledger.sync.messages import Bodies, EntryRange, Have, Holdings, Want
from kmel_p2p.core.ledger.sync.own_states import state_digest
from kmel_p2p.core.membership import commands
from kmel_p2p.core.pushsum.messages import MassTransfer
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import Lane
from kmel_p2p.net.inbox import Intake
from tests.testbed.hostile.raw_sockets import endless_message, silent_connections
from tests.testbed.puppet import Puppet

FAR = 2**39
"""A number that no log reaches."""

BULK_BYTES = 8 * 1024 * 1024
PAUSE_S = 0.25
HUGE_MASS = 2**43


class Rewriting:
    """A machine whose messages are rewritten on their way out once an attack wants it."""

    def __init__(self, peer: Machine) -> None:
        self._peer = peer
        self.rewrite: Callable[[Send], Effect] = lambda send: send
        self.receive, self.command = peer.receive, peer.command
        self.advance, self.deadline = peer.advance, peer.deadline

    def poll(self) -> Effect | None:
        effect = self._peer.poll()
        return self.rewrite(effect) if isinstance(effect, Send) else effect


@dataclass
class Hostile:
    """A site with a valid key, and what an attack needs of it."""

    puppet: Puppet
    machine: Rewriting
    sockets: list[object] = field(default_factory=list)
    """What raw connections keep open."""

    @property
    def ledger(self) -> LedgerAveraging:
        averaging = self.puppet.peer.averaging
        assert isinstance(averaging, LedgerAveraging), "this attack is against averaging mode ledger"
        return averaging

    @property
    def daemons(self) -> list[tuple[SiteKey, str]]:
        """Key and address of the other sites."""
        roster = self.puppet.site.charter.roster
        return [(key, roster[key].addresses[0]) for key in self.puppet.others]

    def claim(self, lies: dict[SiteKey, int]) -> None:
        """From now on this site says that logs go as far as in `lies`, and shows nothing for it."""
        accepted = self.ledger.ledger.accepted

        def lied(send: Send) -> Effect:
            if not isinstance(send.message, (Have, Holdings)):
                return send
            numbers = accepted.held.padded(len(accepted.order))
            for key, number in lies.items():
                numbers[accepted.order.place(key)] = number
            vector, chains = RosterVector.of(numbers), accepted.chains(accepted.held)
            assert chains is not None
            if isinstance(send.message, Holdings):
                return dataclasses.replace(send, message=dataclasses.replace(send.message, vector=vector))
            state = state_digest(accepted.amendment_hash, vector, chains, {})
            return dataclasses.replace(send, message=dataclasses.replace(send.message, state=state))

        self.machine.rewrite = lied

    def tell_all(self) -> None:
        """Tell everybody what this site says it holds."""
        self.ledger.antientropy.states.announce()
        for key in self.puppet.others:
            self.ledger.antientropy.states._send_holdings(key, (), reply=False)
        self.puppet.driver.command(commands.Recall(()))  # any input drains the machine


async def claims_everybodys_entries(hostile: Hostile) -> None:
    """A2: every receiver's own log goes further than that site knows."""
    hostile.claim(dict.fromkeys(hostile.puppet.others, FAR))
    async for _ in Ticks(1.0):
        hostile.tell_all()


async def claims_own_entries(hostile: Hostile) -> None:
    """A3: the own log goes far, and none of it is ever given."""
    hostile.claim({hostile.puppet.site.identity.key: FAR})
    async for _ in Ticks(1.0):
        hostile.tell_all()


async def never_ends_a_message(hostile: Hostile) -> None:
    """A4: parts of one message without an end, to every site."""
    while True:
        for key, address in hostile.daemons:
            await endless_message(hostile.puppet.site.identity, key, address)
        await asyncio.sleep(PAUSE_S)


async def sends_empty_lists(hostile: Hostile) -> None:
    """A5: 8 MiB that are small on the wire and large in memory, one message every 4 s to each site."""
    empty = hostile.puppet.wire.encode(Bodies(()))
    # The list of entries is the last field; a list of 8 million empty lists takes its place.
    body = empty[:-1] + b"\xdd" + BULK_BYTES.to_bytes(4, "big") + b"\x90" * BULK_BYTES
    async for _ in Ticks(4.0):
        for key in hostile.puppet.others:
            hostile.puppet.transport.send(key, body[:BULK_BYTES], Lane.BULK, label="Bodies")


async def connects_and_says_nothing(hostile: Hostile) -> None:
    """A6: a stranger opens 3,000 connections to each site and says nothing."""
    async for _ in Ticks(5.0):
        for _, address in hostile.daemons:
            hostile.sockets = [*hostile.sockets[-4000:], *await silent_connections(address, 3000)]


async def denies_the_sum(hostile: Hostile) -> None:
    """A7: signs another digest of every sum, so that honest sites doubt theirs or each other's."""
    hostile.ledger.ledger.digest_work = lambda vector: lambda: b"x" * 32  # type: ignore[method-assign]
    async for _ in Ticks(1.0):
        hostile.ledger.maintenance.claims.tell_all()
        hostile.puppet.driver.command(commands.Recall(()))


async def invents_mass(hostile: Hostile) -> None:
    """A8: every transfer carries a mass that no site can have."""

    def inflated(send: Send) -> Effect:
        if not isinstance(send.message, MassTransfer):
            return send
        return dataclasses.replace(send, message=dataclasses.replace(send.message, mass=HUGE_MASS))

    hostile.machine.rewrite = inflated
    await asyncio.Event().wait()


async def never_finishes(hostile: Hostile) -> None:
    """A9: says that it trains, and publishes nothing more."""
    hostile.ledger.antientropy.states.phase = Phase.TRAINING
    async for _ in Ticks(1.0):
        hostile.tell_all()


async def boasts(hostile: Hostile) -> None:
    """A10: says that it has 2**62 measurements and that its steps take no time."""
    hostile.puppet.driver.command(commands.DescribeSelf(size_class=63))
    async for _ in Ticks(1.0):
        hostile.ledger.antientropy.states.step_us = 1
        hostile.tell_all()


async def floods_bad_entries(hostile: Hostile) -> None:
    """A11: 80 small messages a second with 64 bad entries each."""
    bad = Bodies(tuple(msgpack.packb([os.urandom(40), os.urandom(64), b""]) for _ in range(64)))
    body = hostile.puppet.wire.encode(bad)
    async for _ in Ticks(1 / 80):
        for key in hostile.puppet.others:
            hostile.puppet.transport.send(key, body, Lane.BULK, label="Bodies")


async def asks_and_never_takes(hostile: Hostile) -> None:
    """A14: asks for every entry again and again, and grants no credit for the answers."""
    ranges = tuple(EntryRange(key, 1, 1000) for key in hostile.puppet.others)
    body = hostile.puppet.wire.encode(Want(ranges, ()))
    for link in hostile.puppet.transport._links.values():
        inbox = link.transfers.inbox
        inbox.grants = list  # type: ignore[method-assign]
        inbox.chunk = lambda header, data, now: Intake()  # type: ignore[method-assign]
    async for _ in Ticks(0.05):
        for key in hostile.puppet.others:
            hostile.puppet.transport.send(key, body, Lane.CONTROL, label="Want")


async def signs_anothers_payload(hostile: Hostile) -> None:
    """A16: the payload of an honest site's entry, signed again as an own entry."""
    averaging = hostile.ledger
    rules, books = averaging.ledger.rules, averaging.ledger.accepted
    while True:
        others = [entry for entry in averaging.ledger.entries() if entry.author != hostile.puppet.site.identity.key]
        if others:
            entry = copied(hostile, others[-1], rules.charter_id, books.basis_for(hostile.puppet.site.identity.key))
            body = hostile.puppet.wire.encode(Bodies((entry.encode(),)))
            for key in hostile.puppet.others:
                hostile.puppet.transport.send(key, body, Lane.BULK, label="Bodies")
        await asyncio.sleep(1.0)


def copied(hostile: Hostile, entry: Entry, charter_id: bytes, basis: object) -> Entry:
    """`entry`'s payload as the next entry of this site."""
    ledger, identity = hostile.ledger.ledger, hostile.puppet.site.identity
    entry = decode(entry.encode())
    return create(
        identity,
        charter_id=charter_id,
        number=ledger.head(identity.key) + 1,
        previous=ledger.head_hash(identity.key),
        basis=basis,  # type: ignore[arg-type]
        weight=min(entry.weight, ledger.rules.weight_cap),
        head_weights={},
        steps=entry.steps,
        norm_squared=entry.norm_squared,
        codec_id=entry.codec_id,
        payload=entry.payload,
    )


class Ticks:
    """`async for` over even moments, the first at once."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._count: Iterator[int] = itertools.count()

    def __aiter__(self) -> Ticks:
        return self

    async def __anext__(self) -> int:
        number = next(self._count)
        if number:
            await asyncio.sleep(self._period_s)
        return number


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table.

    Attributes:
        run: what the site does.
        alarm: beginning of the alarm that names it; `{name}` is the site. Empty: there is none to be had.
        trains: whether the site trains honestly besides.
        mode: averaging mode of the federation.
        entries: entries of a run, where its end is what is attacked; 0: it never ends.
    """

    run: Callable[[Hostile], Awaitable[None]]
    alarm: str
    trains: bool = False
    mode: str = "ledger"
    entries: int = 0


ATTACKS = {
    "A2": Attack(claims_everybodys_entries, "unproved head {name}"),
    "A3": Attack(claims_own_entries, "unproved head {name}"),
    "A4": Attack(never_ends_a_message, "misbehaved {name}"),
    "A5": Attack(sends_empty_lists, "bad messages {name}"),
    "A6": Attack(connects_and_says_nothing, "stranger"),
    "A7": Attack(denies_the_sum, "divergence {name}"),
    "A8": Attack(invents_mass, "refused from {name}", trains=True, mode="pushsum"),
    "A9": Attack(never_finishes, "run held up {name}", entries=6),
    "A10": Attack(boasts, "size of {name}", trains=True),
    "A11": Attack(floods_bad_entries, "refused from {name}"),
    "A14": Attack(asks_and_never_takes, "bulk {name}"),
    "A16": Attack(signs_anothers_payload, "log ended {name}"),
}
"""By number."""
