"""Sealed rounds by real daemons: what a round takes, and what kills and lost packets make of them."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.parts.daemons import found_federation, rounds_of, until
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status import SitePhase
from tests.testbed.hosts import Hosts

PORT = 7700
AWAY_S = (0.2, 3.0)
"""How long a killed daemon stays away."""


@dataclass(frozen=True)
class SealedRun:
    """What became of it.

    Attributes:
        digests: trunks that differ at the end.
        overhead_s: of a round, beside its training.
        seconds: of a round, all in all.
        kills: daemons ended with SIGKILL.
        void: reason -> rounds that ended without a sum, as the sites noted it.
        void_without_reason: of these, those without one.
        refused: messages that a site refused.
    """

    digests: int
    overhead_s: float
    seconds: float
    kills: int
    void: dict[str, int]
    void_without_reason: int
    refused: int


def run_sealed(
    folder: Path,
    rounds: int,
    steps: int,
    *,
    sites: int = 5,
    kills: int = 0,
    loss: float = 0.0,
    megabits: int = 0,
    delay_ms: int = 0,
    seed: int = 0,
) -> SealedRun:
    """A federation until all sums are everywhere.

    Args:
        rounds: sums.
        steps: of each round.
        sites: how many.
        kills: how often a daemon is killed, at moments spread over the run.
        loss: share of packets that are dropped, each way.
        megabits: bandwidth of each site's link, each way; 0 is unlimited.
        delay_ms: from one site to another, one way. With any of the three above 0, the sites run in network namespaces
            (root); with this one, their charter is timed for a wide-area network.

    Raises:
        FederationFailedError: it was not over in time.
        LocalError: namespaces cannot be made.
    """
    with _federation(folder, rounds, steps, sites, loss, megabits, delay_ms) as federation:
        federation.start()
        peers, rng = list(federation), random.Random(seed)
        done = _Kills(peers, rng, rounds, kills)
        until("all rounds are over", done.over, 120.0 + (60 if loss else 20) * rounds, federation)
        documents = [document for site in peers if (document := site.status()) is not None]
        rows = [rounds_of(site) for site in peers]
        void = Counter(reason for site in peers for reason in _void(site))
    found = [_seconds(site) for site in rows if len(site) > 1]
    return SealedRun(
        digests=len({document.averaging.digest for document in documents}) if len(documents) == sites else sites,
        overhead_s=statistics.mean(whole - training for whole, training in found),
        seconds=statistics.mean(whole for whole, _ in found),
        kills=done.killed,
        void={reason: count for reason, count in void.items() if reason},
        void_without_reason=void[""],
        refused=sum(document.averaging.refused for document in documents),
    )


class _Kills:
    """Ends a daemon whenever the federation has come so much further, and starts it again a little later."""

    def __init__(self, sites: Sequence[SiteProcess], rng: random.Random, rounds: int, kills: int) -> None:
        self.killed = 0
        self._sites, self._rng, self._rounds = sites, rng, rounds
        # From the first sum on, and not after the last but one.
        self._at = sorted(rng.uniform(1, rounds - 1) for _ in range(kills))
        self._back_at: dict[str, float] = {}

    def over(self) -> bool:
        """Kill and start what is due; whether all sites hold all sums."""
        now = time.monotonic()
        for site in self._sites:
            if self._back_at.get(site.name, now + 1) <= now:
                del self._back_at[site.name]
                site.start()
        documents = [site.status() for site in self._sites if site.name not in self._back_at]
        furthest = max((document.averaging.applied for document in documents if document is not None), default=0)
        if self.killed < len(self._at) and furthest >= self._at[self.killed]:
            up = [site for site in self._sites if site.name not in self._back_at]
            if len(up) == len(self._sites):  # one at a time: who is away cannot be asked
                victim = self._rng.choice(up)
                victim.signal(signal.SIGKILL)
                victim.wait(5)
                self.killed += 1
                self._back_at[victim.name] = now + self._rng.uniform(*AWAY_S)
                return False
        ended = (SitePhase.LISTENING, SitePhase.COMPLETE)
        return len(documents) == len(self._sites) and all(
            document is not None and document.phase in ended and document.averaging.applied >= self._rounds
            for document in documents
        )


@contextlib.contextmanager
def _federation(
    folder: Path, rounds: int, steps: int, sites: int, loss: float, megabits: int, delay_ms: int
) -> Iterator[LocalFederation]:
    with contextlib.ExitStack() as parts:
        addresses: list[str] = []
        apart = loss or megabits or delay_ms
        hosts = parts.enter_context(Hosts(sites, megabits, delay_ms)) if apart else None
        if hosts is not None:
            addresses = [f"tcp://{hosts.address(at)}:{PORT}" for at in range(sites)]
            share = str(round(1000 * loss))
            for at in range(sites if loss else 0):
                hosts.drop(at, "meta", "l4proto", "tcp", "numgen", "random", "mod", "1000", "<", share)
        federation = found_federation(
            folder, sites, hidden=(128, 64), steps=steps, entries=rounds, tiny=True, mode="sealed", trunk="projected",
            addresses=addresses, preset="wan" if delay_ms else "lan",
        )  # fmt: skip
        for at, site in enumerate(federation):
            if hosts is not None:
                site.prefix = hosts.prefix(at)
        yield parts.enter_context(federation)


def _seconds(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Of a round: from one to the next, and of training alone."""
    whole = (rows[-1]["at"] - rows[0]["at"]) / max(1, len(rows) - 1)
    return whole, statistics.mean(row["seconds"] for row in rows[1:])


def _void(site: SiteProcess) -> Iterator[str]:
    """The reason of each round without a sum that the site noted."""
    for line in (site.state_dir / "peer.log").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a line that a kill cut off
            record = json.loads(line)
            if record["event"] == "round void":
                yield record["reason"]
