"""Random messages under random faults: each bulk message arrives exactly once, and everything is given back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.effects import SendFailed
from kmel_p2p.core.types import SECOND, Lane
from kmel_p2p.net.link_events import LinkFault, PeerMisbehaved
from tests.support.net_peers import Federation, Peer, Proxy, short_settings, until

STEPS = 250
STEP_S = 0.008
SIZES = (10, 1000, 300_000, 1_500_000)


class Storm:
    """Sites behind proxies; one only dials."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.peers: list[Peer] = []
        self.proxies: dict[bytes, Proxy] = {}
        self.sent: Counter[tuple[bytes, bytes, bytes]] = Counter()
        self._got: Counter[tuple[bytes, bytes, bytes]] = Counter()

    def dial(self, one: Peer, other: Peer) -> None:
        if other.key in self.proxies:
            one.dial(other, self.proxies[other.key].address)

    def send(self) -> None:
        one, other = self.rng.sample(self.peers, 2)
        data = self.rng.randbytes(self.rng.choice(SIZES))
        if one.transport.send(other.key, data, Lane.BULK):
            self.sent[one.key, other.key, digest(data)] += 1

    def break_something(self) -> None:
        proxy = self.rng.choice(list(self.proxies.values()))
        fault = self.rng.random()
        if fault < 0.08:
            proxy.reset()
        elif fault < 0.10:
            proxy.half_close()
        elif fault < 0.13:
            proxy.black_hole = not proxy.black_hole
        elif fault < 0.16:
            one, other = self.rng.sample(self.peers, 2)
            one.transport.hangup(other.key, "storm")
            self.dial(one, other)

    def got(self) -> Counter[tuple[bytes, bytes, bytes]]:
        """What arrived. Each message is hashed once and let go: hashing them all at each look would starve the loop."""
        for peer in self.peers:
            for sender, data, _ in peer.messages:
                self._got[sender, peer.key, digest(data)] += 1
            peer.messages.clear()
        return self._got


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_of_faults_loses_and_repeats_nothing(federation: Federation, proxy_before, seed: int) -> None:
    storm = Storm(seed)
    limits = short_settings(stall_us=9 * SECOND, resume_us=30 * SECOND)
    for number in range(1, 5):
        peer = await federation.add(number, settings=limits, bind="" if number == 4 else "tcp://127.0.0.1:0")
        storm.peers.append(peer)
        if peer.address:
            storm.proxies[peer.key] = await proxy_before(peer.address)
    pairs = [(one, other) for one in storm.peers for other in storm.peers if one is not other]
    for one, other in pairs:
        storm.dial(one, other)
    await until(lambda: all(one.up(other) for one, other in pairs))
    for step in range(STEPS):
        storm.send()
        storm.break_something()
        due = time.monotonic() + STEP_S
        await until(lambda due=due: time.monotonic() >= due, what=f"step {step}")
    for proxy in storm.proxies.values():
        proxy.black_hole = False
    await until(lambda: storm.got() == storm.sent, within=120)
    await until(lambda: all(one.link(other).queue_bytes == 0 for one, other in pairs), within=60)
    for peer in storm.peers:
        assert peer.told(SendFailed) + peer.told(LinkFault) + peer.told(PeerMisbehaved) == []
        assert peer.transport._budget.free == limits.reassembly
    assert sum(storm.sent.values()) > STEPS // 4
    await asyncio.sleep(0)
