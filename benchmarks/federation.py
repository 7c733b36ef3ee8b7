"""How cost grows with the number of sites, in virtual time on one core: `python benchmarks/federation.py`.

Every site is the shipped state machine of its averaging mode; every message is encoded and decoded; rounds last 20 s of
virtual time, links 15 to 25 ms. The trunk is small, so that the protocol is what costs: payload bytes come on top.

  pushsum     whole federations up to `--largest` sites, 20 rounds each
  ledger      whole federations up to `--largest-ledger` sites, 20 entries each, and for more sites one whole peer: it
              is given the entries that all others would make and checks and applies them, at the point where a round's
              entries name everybody (the dearest). `ledger_alone_cpu_s_<n>` is 20 (n - 1) times its time per entry.
              `ledger_alone_300` sums this up for 300 sites: received and payload megabytes, processor time, and the
              milliseconds that judging an entry takes beside its signature, when all bases are equal and when each
              misses entries that others were made on (`judge_crossing_ms`). Each is the median of single entries;
              `signature_ms` is that of checking a signature, which tells how busy the machine was (0.054 on a quiet
              one). `control_share` is the share of everything but entries in all bytes sent, by sites, with payloads
              of 3 kB, as the demo's sites send; `control_share_bare` is the same with payloads of 9 bytes.

The periodic exchange of pushsum's statements, whose size grows with n, is set to n / 50 seconds (at least 1, at most a
round).
Processor times include the simulator (queue, disks, trainers), a small part. `--plot` draws bytes and processor time
per peer against n.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, this_machine
from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.effects import Effect, Emit, Machine, Persist, Send
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.core.membership.events import MemberJoined
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.messages import SCHEMAS
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings
from kmel_p2p.core.pushsum.state import PushSumState
from kmel_p2p.core.rounds import COMMANDS, Ready, RoundOpened, RoundTrained
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.core.wire import Wire
from tests.testbed.ledger.federation import LedgerFederation, SizeClass
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk, toy_world
from tests.testbed.network.carrier import BytesCarrier
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.network.network import Network

ROUNDS = 20
ROUND_US: Micros = 20 * SECOND
LINKS = Conditions(latency_us=15 * MILLISECOND, jitter_us=10 * MILLISECOND)
PUSHSUM_SIZES = (4, 10, 30, 100, 300, 1000)
LEDGER_SIZES = (4, 8, 16, 32, 64, 100)
CONTROL_SIZES = (4, 16, 32)
DEMO_PAYLOAD = 3000
PEER_SIZES = (100, 300, 1000)
PEER_SAMPLE = 100
ALONE = 300
VALUES = 256
GOALS: dict[str, Goal] = {
    "pushsum_wall_s_1000": at_most(600.0),
    "pushsum_agree_1000": at_least(1.0),
    "ledger_wall_s_100": at_most(600.0),
    "ledger_agree_100": at_least(1.0),
    "control_share.4": at_most(0.05),
    "control_share.16": at_most(0.08),
    "control_share.32": at_most(0.15),
    "ledger_alone_300.received_mb": at_most(25.0),
    "ledger_alone_300.cpu_s": at_most(3.0),
    "ledger_alone_300.judge_ms": at_most(0.15),
}
SMOKE: dict[str, Any] = {"largest": 4, "largest_ledger": 4, "largest_peer": 100}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one federation."""

    sites: int
    cpu_s: float
    bytes_per_peer: float
    messages_per_peer: float
    agree: bool
    virtual_s: float
    control_share: float

    @property
    def cpu_per_peer(self) -> float:
        return self.cpu_s / self.sites


class Traffic:
    """A watcher of the network: what all hosts sent."""

    def __init__(self) -> None:
        self.bytes = 0
        self.messages = 0
        self.entry_bytes = 0

    def stepped(self, host: Host, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        if type(effect) is Send:
            self.bytes += size_bytes
            self.messages += 1
            if isinstance(effect.message, Bodies):
                self.entry_bytes += size_bytes

    @property
    def control_share(self) -> float:
        """Of everything but entries in all bytes."""
        return 1 - self.entry_bytes / self.bytes


# ---- ledger -----------------------------------------------------------------------------------------------------


def ledger_federation(sites: int, rounds: int = ROUNDS, padding: int = 0) -> Cost:
    """A whole federation until everybody is complete; `padding`: further bytes of a payload."""
    world = toy_world(
        sites, {"entry_limit": rounds}, padding=padding, conditions=LINKS, step_us=lambda index: ROUND_US // 10
    )
    federation = LedgerFederation(world, seed=0)
    traffic = Traffic()
    federation.network.watchers.append(traffic)
    began = time.process_time()
    federation.start_all()
    complete = federation.run((rounds + 30) * ROUND_US, until=federation.all_complete)
    cpu_s = time.process_time() - began
    agree = complete and len(federation.digests()) == 1
    now = federation.network.now / SECOND
    share = traffic.control_share
    return Cost(sites, cpu_s, traffic.bytes / sites, traffic.messages / sites, agree, now, share)


@dataclass(frozen=True, slots=True)
class PeerCost:
    """Of one entry at one whole peer."""

    cpu_s: float
    entry_bytes: float
    payload_bytes: float
    judge_s: float
    """To judge and apply it, without reading its bytes and without its signature."""
    signature_s: float
    """To check its signature."""


def ledger_peer(sites: int, sample: int = PEER_SAMPLE, crossing: bool = False) -> PeerCost:
    """What an entry costs one whole peer in a federation of `sites`.

    All sites publish in step, three rounds; of the last round, whose entries name everybody and whose predecessors did,
    `sample` entries are measured. Encoded entries are what is given to the peer, as they arrive.

    Args:
        sites: of the federation.
        sample: entries measured.
        crossing: before those, the other sites publish theirs and then one entry is made on all of them: so every base
            that is measured lacks entries which others were made on.
    """
    identities = toy_identities(sites)
    rules = Rules.of(toy_charter(identities), ToyCodec.codec_id, toy_trunk())
    codec = ToyCodec()
    authors = Ledger(Accumulator.from_trunk(toy_trunk()), codec, rules)
    peer = Ledger(Accumulator.from_trunk(toy_trunk()), codec, rules)
    outbox: deque[Effect] = deque()
    publishers = [Publisher(identity, authors, outbox) for identity in identities]
    for number in (1, 2):
        for encoded in _publish(publishers, authors, outbox, number):
            _apply(peer, decode(encoded))
    # The third round's entries are made against the same base, but the sample alone is made and applied.
    chosen, others = publishers[: min(sample, sites - 1)], publishers[min(sample, sites - 1) :]
    for publisher in chosen:
        publisher.open(1)
    if crossing:
        between = _publish(others, authors, outbox, 3)
        between += _publish(others[:1], authors, outbox, 4)
        for encoded in between:
            _apply(peer, decode(encoded))
    measured = _publish(chosen, authors, outbox, 3, opened=True)
    gc.collect()
    began = time.process_time()
    entries = [decode(encoded) for encoded in measured]
    judged = [_seconds(partial(_apply, peer, entry)) for entry in entries]
    applied = time.process_time()
    signatures = [_seconds(entry.signature_is_good) for entry in entries]
    # Of two processors with other work a single entry may take any time: the median entry tells.
    signature_s = statistics.median(signatures)
    count = len(measured)
    return PeerCost(
        cpu_s=(applied - began) / count,
        entry_bytes=sum(map(len, measured)) / count,
        payload_bytes=sum(entry.payload_bytes for entry in entries) / count,
        judge_s=statistics.median(judged) - signature_s,
        signature_s=signature_s,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ledger_alone(sites: int, cost: PeerCost, crossing: PeerCost) -> dict[str, float]:
    """The whole of a run for one peer."""
    entries = ROUNDS * (sites - 1)
    return {
        "received_mb": entries * cost.entry_bytes / 1e6,
        "payload_mb": entries * cost.payload_bytes / 1e6,
        "cpu_s": entries * cost.cpu_s,
        "judge_ms": 1e3 * cost.judge_s,
        "judge_crossing_ms": 1e3 * crossing.judge_s,
        "signature_ms": 1e3 * cost.signature_s,
    }


def _publish(
    publishers: list[Publisher], authors: Ledger, outbox: deque[Effect], number: int, opened: bool = False
) -> list[bytes]:
    """Encoded entry `number` of each; all have the same base, for none is applied before all are made."""
    for publisher in publishers if not opened else ():
        publisher.open(1)
    outbox.clear()
    # Of about one norm: larger ones would not stand beside the others.
    first = 100_000 + number * 10_000 + (5000 if opened else 0)
    for at, publisher in enumerate(publishers):
        payload = ToyCodec.encode([at % VALUES % 16], [first + at])  # no two alike
        publisher.store(RoundTrained(number, payload, 10, ROUND_US, ""))
    tickets = [effect for effect in outbox if isinstance(effect, Persist)]
    outbox.clear()
    encoded = []
    for publisher, stored in zip(publishers, tickets, strict=True):
        entry = publisher.persisted(stored.ticket or 0)
        if entry is None or authors.offer(entry).verdict is not Verdict.APPLIED:
            raise SystemExit("an entry was not published")
        encoded.append(entry.encode())
    outbox.clear()
    return encoded


def _apply(ledger: Ledger, entry: Entry) -> None:
    if not ledger.offer(entry).applied:
        raise SystemExit("an entry was not applied")


# ---- pushsum ----------------------------------------------------------------------------------------------------


class Everybody:
    """Membership at a site: all others are alive."""

    def __init__(self, keys: list[SiteKey], own: SiteKey) -> None:
        self._alive = tuple(key for key in keys if key != own)
        self._descriptor = SizeClass()

    def alive(self) -> tuple[SiteKey, ...]:
        return self._alive

    def descriptor(self, key: SiteKey) -> SizeClass:
        return self._descriptor


class PushSumHost:
    """A machine for the network; membership's news are commands."""

    def __init__(self, averaging: PushSumAveraging) -> None:
        self.averaging = averaging
        self.receive = averaging.receive
        self.advance = averaging.advance
        self.deadline = averaging.deadline
        self.poll = averaging.poll

    def command(self, cmd: Any, now: Micros) -> None:
        if isinstance(cmd, MemberJoined):
            self.averaging.member_event(cmd, now)
        elif isinstance(cmd, COMMANDS):
            self.averaging.command(cmd, now)


class PushSumFederation:
    """Sites of the second averaging mode on the virtual network. Also the watcher that trains."""

    def __init__(self, sites: int, rounds: int) -> None:
        self.identities = [Identity((n + 1).to_bytes(4, "big") * 8) for n in range(sites)]
        keys = [identity.key for identity in self.identities]
        self.rules = PushSumRules(
            charter_id=b"p" * 32,
            roster=frozenset(keys),
            start_sites=1,
            averaging=PushSumRule(entry_limit=rounds, steps_per_entry=10),
            pace=PaceRule(),
        )
        self.settings = PushSumSettings(interval_us=min(ROUND_US, SECOND * max(1, sites // 50)))
        self.views = [Everybody(keys, key) for key in keys]
        self.base = np.linspace(-1, 1, VALUES, dtype=np.float32)
        wire = Wire(self.rules.charter_id, SCHEMAS)
        self.network = Network(0, BytesCarrier(wire), LINKS, TransportModel(dialled=False))
        self.network.watchers.append(self)
        self.hosts = [self.network.add(k, f"site{n}", partial(self._boot, n)) for n, k in enumerate(keys)]

    def start(self) -> None:
        for host in self.hosts:
            self.network.start(host)
            self.network.command(host, Ready())

    def averaging(self, host: Host) -> PushSumAveraging:
        machine = host.machine
        assert isinstance(machine, PushSumHost)
        return machine.averaging

    def run(self, duration: Micros) -> bool:
        """Until everybody is complete."""
        end = self.network.now + duration
        while self.network.now < end:
            if all(self.averaging(host).complete for host in self.hosts):
                return True
            self.network.run_until(self.network.now + SECOND)
        return False

    def spread(self) -> float:
        """RMS distance of the sites' trunks from their mean, over that of the mean from where all began."""
        trunks = np.stack([self.averaging(host).trunk() for host in self.hosts]).astype(np.float64)
        mean = trunks.mean(axis=0)
        return float(np.sqrt(np.mean((trunks - mean) ** 2) / np.mean((mean - self.base) ** 2)))

    def _boot(self, n: int, now: Micros) -> Machine:
        return PushSumHost(
            PushSumAveraging(
                self.identities[n],
                self.rules,
                self.views[n],
                self.network.generator(f"pushsum {n}"),
                self.settings,
                PushSumState.fresh(self.base, n.to_bytes(8, "big")),
                1,
                now,
            )
        )

    def stepped(self, host: Host, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        if isinstance(effect, Emit) and isinstance(effect.event, RoundOpened):
            rng = np.random.default_rng([host.index, effect.event.number])
            # A common direction and each site's own: about what averaging is for.
            drift = (0.01 + 0.02 * rng.standard_normal(VALUES)).astype("<f4").tobytes()
            done = RoundTrained(effect.event.number, drift, 10, ROUND_US, f"round-{effect.event.number}")
            self.network.call_at(now + ROUND_US, partial(self.network.command, host, done))


def pushsum_federation(sites: int, rounds: int = ROUNDS) -> tuple[Cost, float]:
    """A whole federation until everybody is complete, and how far its trunks are apart."""
    federation = PushSumFederation(sites, rounds)
    traffic = Traffic()
    federation.network.watchers.append(traffic)
    began = time.process_time()
    federation.start()
    complete = federation.run((rounds + 60) * ROUND_US)
    cpu_s = time.process_time() - began
    now = federation.network.now / SECOND
    share = traffic.control_share
    cost = Cost(sites, cpu_s, traffic.bytes / sites, traffic.messages / sites, complete, now, share)
    return cost, federation.spread()


# ---- all --------------------------------------------------------------------------------------------------------


def measure(largest: int, largest_ledger: int, largest_peer: int) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}
    for n in [size for size in LEDGER_SIZES if size <= largest_ledger]:
        began = time.perf_counter()
        cost = ledger_federation(n)
        _note(figures, "ledger", cost)
        figures[f"ledger_wall_s_{n}"] = time.perf_counter() - began
        if n in CONTROL_SIZES:
            figures.setdefault("control_share_bare", {})[str(n)] = cost.control_share
            real = ledger_federation(n, padding=DEMO_PAYLOAD)
            figures.setdefault("control_share", {})[str(n)] = real.control_share
    for n in [size for size in PEER_SIZES if size <= largest_peer]:
        peer = ledger_peer(n)
        figures[f"ledger_alone_cpu_s_{n}"] = ROUNDS * (n - 1) * peer.cpu_s
        figures[f"ledger_alone_bytes_{n}"] = ROUNDS * (n - 1) * peer.entry_bytes
        figures[f"ledger_entry_bytes_{n}"] = peer.entry_bytes
        figures[f"ledger_entry_ms_{n}"] = 1e3 * peer.cpu_s
        if n == ALONE:
            figures[f"ledger_alone_{n}"] = ledger_alone(n, peer, ledger_peer(n, crossing=True))
    for n in [size for size in PUSHSUM_SIZES if size <= largest]:
        began = time.perf_counter()
        cost, apart = pushsum_federation(n)
        _note(figures, "pushsum", cost)
        figures[f"pushsum_apart_{n}"] = apart
        figures[f"pushsum_wall_s_{n}"] = time.perf_counter() - began
    return figures


def _note(figures: dict[str, Any], mode: str, cost: Cost) -> None:
    figures[f"{mode}_cpu_s_{cost.sites}"] = cost.cpu_s
    figures[f"{mode}_peer_cpu_s_{cost.sites}"] = cost.cpu_per_peer
    figures[f"{mode}_peer_bytes_{cost.sites}"] = cost.bytes_per_peer
    figures[f"{mode}_peer_messages_{cost.sites}"] = cost.messages_per_peer
    figures[f"{mode}_agree_{cost.sites}"] = int(cost.agree)
    say(f"{mode} {cost}")


def plot(figures: dict[str, Any], path: Path) -> None:
    """Bytes and processor time per peer against the number of sites."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    quantities = (("bytes", "bytes sent (alone: received) per peer"), ("cpu_s", "processor seconds per peer"))
    series = (
        ("ledger_peer", LEDGER_SIZES, "ledger", "C0o-"),
        ("ledger_alone", PEER_SIZES, "ledger, one peer's share of entries alone", "C0o:"),
        ("pushsum_peer", PUSHSUM_SIZES, "pushsum", "C1o-"),
    )
    for axis, (quantity, label) in zip(axes, quantities, strict=True):
        for name, sizes, title, style in series:
            points = [(n, figures[f"{name}_{quantity}_{n}"]) for n in sizes if f"{name}_{quantity}_{n}" in figures]
            if points:
                axis.loglog(*zip(*points, strict=True), style, label=title)
        axis.set_xlabel("sites")
        axis.set_title(label, fontsize=10)
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(f"{ROUNDS} rounds, protocol only (trunk of {VALUES} values)", fontsize=11)
    figure.savefig(path)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1000, help="whole federations of the pushsum mode")
    parser.add_argument("--largest-ledger", type=int, default=32, help="whole federations of the ledger mode")
    parser.add_argument("--largest-peer", type=int, default=1000, help="single peers of the ledger mode")
    parser.add_argument("--plot", type=Path, help="draw to this SVG file")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    figures = measure(options.largest, options.largest_ledger, options.largest_peer)
    if options.plot:
        plot(figures, options.plot)
    publish("cost by number of sites", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
