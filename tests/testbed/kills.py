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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kmel_p2p.core.ledger.own_log import IN_DOUBT, NOT_HEARD
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status import StatusDocument
from tests.testbed.damage import Damage
from tests.testbed.witness import Figures, Kill, Witness

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
    if plan.damage_share and len(list(federation)) > 2:
        run.put_back_unnoticed()
    run.finish()
    run.figures.seconds = time.monotonic() - began
    return run.figures


class _Run:
    """The state of one run."""

    def __init__(self, federation: LocalFederation, plan: KillPlan, rng: random.Random) -> None:
        self.figures = Figures()
        self.rng = rng
        self._federation, self._plan = federation, plan
        # Drawn before anything happens: how often a site is passed over, and so what is drawn next, is the machine's.
        self._daemons = [rng.random() < plan.daemon_share for _ in range(plan.kills)]
        self._witness = Witness(self.figures)
        self._damage = Damage(next(iter(federation)).folder.parent / "backups", plan.damage_share, rng)
        self._began = time.monotonic()
        self._due: dict[str, float] = {}
        """Killed site -> when it is started again."""
        self._held: set[str] = set()
        """Sites that are down on purpose."""
        self._rising: dict[str, float] = {}
        """Site that does not answer yet -> when it was started."""

    def kill(self) -> None:
        """Kill the daemon or the trainer of one site; a site that is down or has no trainer is passed over."""
        up = [site for site in self._federation if site.name not in self._due]
        if not up:
            return
        site = self.rng.choice(up)
        daemon = self._daemons[len(self.figures.kills)]
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
            site.wait(UP_S)
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
                raise SiteFailedError(f"not within {deadline_s:g} s: {what}\n{self._so_far()}\n{tails}")
            self.pause(2 * POLL_S)

    def _so_far(self) -> str:
        """What was done to whom, for whoever has to find out what went wrong."""
        disks = "; ".join(f"{name} {kind}" for name, kind in self.figures.damages) or "none"
        kills = "; ".join(f"{kill.at_s:.0f} s {kill.site} {kill.what}" for kill in self.figures.kills[-10:])
        return f"disks damaged, in order: {disks}\nnewest kills: {kills}"

    def put_back_unnoticed(self) -> None:
        """An image of a disk comes back while who knows more of that site is down: it must wait, and then go on."""
        loser, other, informed = list(self._federation)[:3]
        self._up()
        self._down(loser)
        self._damage.back_up(loser.name, loser.state_dir)
        loser.start()
        self._up()
        stored = self._published(loser)
        self.await_("the site has heard both others", lambda: _published(loser) > stored, UP_S)
        self._down(other)
        before = self._published(loser)
        self.await_("the site goes on with one other", lambda: _published(loser) >= before + 3, UP_S)
        self.await_("the other one has that", lambda: _holds(informed, loser.name) >= before + 3, UP_S)
        self._down(loser)
        self._down(informed)
        self._damage.do("image", loser.name, loser.state_dir)
        self.figures.damages.append((loser.name, "image"))
        self._witness.damaged(loser)
        loser.start()
        other.start()
        self.await_("the site waits for who knows more", lambda: _waits_for(loser, informed.name), UP_S)
        self.pause(self._plan.longest_pause_s)
        if self._published(loser) > before:
            self.figures.problems.append(f"{loser.name} published before it had heard {informed.name}")
        informed.start()
        self._up()
        self.await_("the site goes on", lambda: _published(loser) >= before + 4, UP_S)

    def _published(self, site: SiteProcess) -> int:
        """Own entries of a site that runs; on a busy machine it may answer late, and none would be no answer."""
        answers: list[StatusDocument] = []

        def answered() -> bool:
            status = site.status()
            answers.extend([] if status is None else [status])
            return bool(answers)

        self.await_(f"{site.name} says what it published", answered, UP_S)
        return answers[-1].averaging.published

    def _up(self) -> None:
        self.await_("all sites run", lambda: not self._due and not self._rising, UP_S)
        self.await_("all sites answer", lambda: all(site.status() is not None for site in self._federation), UP_S)

    def _down(self, site: SiteProcess) -> None:
        site.signal(signal.SIGKILL)
        site.wait(UP_S)
        self._witness.look(site)
        self._held.add(site.name)

    def finish(self) -> None:
        """All up again, each publishes once more, then all listen, agree and stop."""
        self.await_("all sites run again", lambda: not self._due and not self._rising, UP_S)
        before = {site.name: self._published(site) for site in self._federation}
        self.await_(
            "every site publishes again",
            lambda: all(_published(site) > before[site.name] for site in self._federation),
            UP_S,
        )
        for site in self._federation:
            site.request("listen", timeout_s=UP_S)
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
            if site.running:
                self._held.discard(site.name)
            elif site.name not in self._due and site.name not in self._held:
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


def _holds(site: SiteProcess, author: str) -> int:
    """Entries of an author that a site has."""
    status = site.status()
    return status.averaging.vector.get(author, 0) if status else 0


def _waits_for(site: SiteProcess, name: str) -> bool:
    status = site.status()
    return status is not None and any(
        name in wait.sites and wait.reason in (IN_DOUBT, NOT_HEARD) for wait in status.waits
    )


def _published(site: SiteProcess) -> int:
    """What it has published; 0 as well where it does not answer in time: to wait by, not to remember."""
    status = site.status()
    return status.averaging.published if status else 0
