"""`kill -9` at random moments of a real federation, and what must hold after each kill and at the end.

A seeded generator picks the pause before each kill, the victim, whether its daemon or its trainer dies, and how long
it stays down; several sites may be down at once. What the stores show is remembered from kill to kill: an entry that
any site ever kept must be in every log at the end, with the same hash.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kmel_p2p.agreement.errors import KmelError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes.stored_ledger import open_ledger
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from kmel_p2p.site.state.own_state import own_entries, own_state
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.testbed.damage import Damage

POLL_S = 0.05
UP_S = 180.0
"""A restarted site must publish again within this time."""
END_S = 120.0
"""All sites must hold the same entries within this time after the last one was told to listen."""


@dataclass(frozen=True, slots=True)
class KillPlan:
    """What the generator draws from.

    Attributes:
        kills: how many.
        longest_pause_s: before each kill, uniform.
        longest_down_s: of a killed daemon, uniform.
        daemon_share: probability that the daemon is the victim rather than its trainer.
        damage_share: probability that the disk of a killed daemon is lost or replaced by an old copy before it starts
            again, each by a third: see `damage.KINDS`.
        busy_share: probability that the kill waits until the victim trains again, and up to a second more; the others
            hit a site wherever it is, often while it starts.
    """

    kills: int
    longest_pause_s: float = 4.0
    longest_down_s: float = 3.0
    daemon_share: float = 0.6
    busy_share: float = 0.7
    damage_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when (seconds since the first), whom, and what the site was doing, by its last status."""

    at_s: float
    site: str
    what: str
    phase: str
    trainer: str


@dataclass(slots=True)
class Figures:
    """What was seen.

    Attributes:
        kills: every kill.
        entries: entries that any store showed at any time.
        published: newest entry of each site at the end.
        digests: different digests at the end; 1 is right.
        vectors: different vectors at the end; 1 is right.
        missing: entries that some store showed once and that some log does not hold at the end.
        contradictions: (author, number) that were seen with two hashes.
        balances: site -> gap of its books (`site.state.own_state`), the worst of all looks.
        looks: how often the books of a stopped site were checked against all its entries.
        unseen: looks that could not, for an own entry was compacted before any look.
        damages: site and kind of every disk that was lost or replaced.
        doubled: payloads that some log has twice at the end.
        epochs: epochs that logs began.
        problems: everything that did not hold, in words.
        restart_s: per killed daemon, seconds from its start to its next answer.
    """

    kills: list[Kill] = field(default_factory=list)
    entries: int = 0
    published: dict[str, int] = field(default_factory=dict)
    digests: int = 0
    vectors: int = 0
    missing: int = 0
    contradictions: int = 0
    balances: dict[str, float] = field(default_factory=dict)
    residual_norms: dict[str, float] = field(default_factory=dict)
    looks: int = 0
    unseen: int = 0
    damages: list[tuple[str, str]] = field(default_factory=list)
    doubled: int = 0
    epochs: int = 0
    problems: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def by_kind(self) -> dict[str, int]:
        """Kills by what was killed and what the trainer was doing."""
        return dict(sorted(Counter(f"{kill.what} while {kill.trainer or 'starting'}" for kill in self.kills).items()))


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry that was in a store.

    Attributes:
        payload: its hash.
        holders: sites in whose store it was; empty: it may have gone with their disks.
    """

    author: SiteKey
    number: int
    payload: bytes
    holders: set[str]


class Witness:
    """Remembers what the stores showed."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._seen: dict[bytes, Seen] = {}
        self._damaged: set[str] = set()
        self._own: dict[SiteKey, dict[int, Entry]] = {}

    def look(self, site: SiteProcess) -> None:
        """Read a site's store: every entry, the own ones in full, and the trainer's state beside them."""
        made = load_site(load_config(site.folder / "site.toml"))
        path = site.state_dir / STORE_NAME
        if not path.exists():
            return
        with contextlib.closing(Store(path, read_only=True)) as store:
            for stored in store.load_entries():
                seen = Seen(stored.author, stored.number, digest(stored.payload), set())
                self._seen.setdefault(stored.hash, seen).holders.add(site.name)
            if site.name in self._damaged:
                # Its trainer began anew, or where it was long ago: there are no books to check.
                return
            own = self._own.setdefault(made.identity.key, {})
            own.update(own_entries(made, store))
            try:
                state = own_state(made, store, own)
            except KmelError as error:
                self._say(f"{site.name}: {error}")
                return
        if state is None:
            return
        if state.gap is None:
            self._figures.unseen += 1
            return
        self._figures.looks += 1
        if state.first != 1 or state.steps != sum(
            entry.steps for number, entry in own.items() if number <= state.round
        ):
            self._say(f"{site.name}: the trainer's state counts {state.steps} steps from entry {state.first} on")
        if state.problem:
            self._say(f"{site.name}: {state.problem}")
        self._figures.balances[site.name] = max(self._figures.balances.get(site.name, 0.0), state.gap)
        self._figures.residual_norms[site.name] = state.residual_norm

    def conclude(self, sites: list[SiteProcess]) -> None:
        """Recompute every stopped site's ledger from its store, and compare with all that was ever seen."""
        digests, vectors = set(), set()
        for site in sites:
            made = load_site(load_config(site.folder / "site.toml"))
            with contextlib.closing(Store(site.state_dir / STORE_NAME, read_only=True)) as store:
                for problem in store.check():
                    self._say(f"{site.name}: {problem}")
                ledger = open_ledger(made, store)
            digests.add(ledger.digest())
            vectors.add(tuple(sorted(ledger.vector.items())))
            self._figures.published[site.name] = ledger.head(made.identity.key)
            epochs = ledger.accepted.epochs
            self._figures.epochs = max(self._figures.epochs, len(list(epochs)))
            contents = Counter(header.payload_hash for log in ledger.accepted.logs.values() for header in log.headers())
            self._figures.doubled += sum(count > 1 for count in contents.values())
            for hash_, seen in self._seen.items():
                if not seen.holders:
                    continue
                header = ledger.accepted.header(seen.author, seen.number)
                # What its author disowned is there under another number.
                again = seen.payload in contents and (header is None or header.hash != hash_)
                self._figures.missing += seen.number > ledger.head(seen.author) and not again
                self._figures.contradictions += header is not None and header.hash != hash_ and not again
            for author, fault in ledger.faults.items():
                self._say(f"{site.name}: the log of {made.names[author]} was ended: {fault.reason}")
            audit = verify(site.state_dir / EGRESS_NAME)
            if audit.problem:
                self._say(f"{site.name}: egress: {audit.problem}")
        self._figures.digests, self._figures.vectors = len(digests), len(vectors)
        self._figures.entries = len(self._seen)

    def damaged(self, site: SiteProcess) -> None:
        """The site's disk was lost or replaced: what nobody else was seen to hold may have gone with it."""
        self._damaged.add(site.name)
        for seen in self._seen.values():
            seen.holders.discard(site.name)

    def _say(self, problem: str) -> None:
        if problem not in self._figures.problems:
            self._figures.problems.append(problem)


def kill_at_random(
    federation: LocalFederation, plan: KillPlan, seed: int, report: Callable[[int], None] = lambda done: None
) -> Figures:
    """Start a federation, kill as planned, let it come to its end, stop it, and check.

    Args:
        report: called with the number of kills so far.

    Raises:
        SiteFailedError: something did not happen in time, or a site ended by itself; shows its last lines.
    """
    run = _Run(federation, plan, random.Random(seed))
    began = time.monotonic()
    federation.start()
    run.await_("every site has published", lambda: all(_published(site) >= 1 for site in federation), UP_S)
    while len(run.figures.kills) < plan.kills:
        run.pause(run.rng.uniform(0.0, plan.longest_pause_s))
        run.kill()
        report(len(run.figures.kills))
    run.finish()
    run.figures.seconds = time.monotonic() - began
    return run.figures


class _Run:
    """The state of one run."""

    def __init__(self, federation: LocalFederation, plan: KillPlan, rng: random.Random) -> None:
        self.figures = Figures()
        self.rng = rng
        self._federation, self._plan = federation, plan
        self._witness = Witness(self.figures)
        self._damage = Damage(next(iter(federation)).folder.parent / "backups", plan.damage_share, rng)
        self._began = time.monotonic()
        self._due: dict[str, float] = {}
        """Killed site -> when it is started again."""
        self._rising: dict[str, float] = {}
        """Site that does not answer yet -> when it was started."""

    def kill(self) -> None:
        """Kill the daemon or the trainer of one site; a site that is down or has no trainer is passed over."""
        up = [site for site in self._federation if site.name not in self._due]
        if not up:
            return
        site = self.rng.choice(up)
        daemon = self.rng.random() < self._plan.daemon_share
        if self.rng.random() < self._plan.busy_share:
            self.await_(f"{site.name} trains again", lambda: _trains(site), UP_S)
            self.pause(self.rng.uniform(0.0, 1.0))
        status = site.status()
        trainer = None if status is None else status.trainer
        kill = Kill(
            round(time.monotonic() - self._began, 3),
            site.name,
            "daemon" if daemon else "trainer",
            "" if status is None else status.phase.value,
            "" if trainer is None else trainer.state,
        )
        if daemon:
            site.signal(signal.SIGKILL)
            site.wait(5.0)
            self._rising.pop(site.name, None)
            self._witness.look(site)
            self._due[site.name] = time.monotonic() + self.rng.uniform(0.0, self._plan.longest_down_s)
        elif trainer is not None and trainer.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer.pid, signal.SIGKILL)
        else:
            return
        self.figures.kills.append(kill)

    def pause(self, seconds: float) -> None:
        """Let time pass, starting again whoever's time has come."""
        end = time.monotonic() + seconds
        while True:
            self._attend()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(POLL_S, left))

    def await_(self, what: str, probe: Callable[[], Any], deadline_s: float) -> None:
        """Poll until `probe` gives something true.

        Raises:
            SiteFailedError: it did not by the deadline.
        """
        end = time.monotonic() + deadline_s
        while not probe():
            if time.monotonic() > end:
                tails = "\n".join(f"--- {site.name}\n{site.last_lines(5)}" for site in self._federation)
                raise SiteFailedError(f"not within {deadline_s:g} s: {what}\n{tails}")
            self.pause(2 * POLL_S)

    def finish(self) -> None:
        """All up again, each publishes once more, then all listen, agree and stop."""
        self.await_("all sites run again", lambda: not self._due and not self._rising, UP_S)
        before = {site.name: _published(site) for site in self._federation}
        self.await_(
            "every site publishes again",
            lambda: all(_published(site) > before[site.name] for site in self._federation),
            UP_S,
        )
        for site in self._federation:
            site.request("listen", timeout_s=10.0)
        self.await_("all sites listen and hold the same entries", self._ended, END_S)
        self._federation.stop()
        codes = {site.name: site.exit_code for site in self._federation}
        if set(codes.values()) != {0}:
            self.figures.problems.append(f"exit codes {codes}")
        for site in self._federation:
            self._witness.look(site)
        self._witness.conclude(list(self._federation))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        now = time.monotonic()
        for name in [name for name, at in self._due.items() if at <= now]:
            del self._due[name]
            kind = self._damage.draw(name, self._federation[name].state_dir)
            if kind:
                self.figures.damages.append((name, kind))
                self._witness.damaged(self._federation[name])
            self._federation[name].start()
            self._rising[name] = now
        for name, since in list(self._rising.items()):
            if self._federation[name].status(timeout_s=0.2) is not None:
                self.figures.restart_s.append(round(now - since, 3))
                del self._rising[name]
        for site in self._federation:
            if site.name not in self._due and not site.running:
                raise SiteFailedError(f"{site.name} ended by itself with {site.exit_code}\n{site.last_lines()}")

    def _ended(self) -> bool:
        """Whether all compare their models, or are done with it: before, a round may be open."""
        documents = [site.status() for site in self._federation]
        return all(
            document is not None and (document.trainer.state == "finishing" or document.phase == "complete")
            for document in documents
        )


def _trains(site: SiteProcess) -> bool:
    status = site.status()
    if status is None or status.ages.trained_s is None:
        return False
    return status.trainer.state in ("training", "idle")


def _published(site: SiteProcess) -> int:
    status = site.status()
    return status.averaging.published if status else 0
