"""When a site may open its next round, how many steps it takes, and what the operator is told while it waits.

The part of that which does not depend on the averaging mode. Nothing here waits for a named site: every wait is for a
count of sites that membership calls alive, or for a period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.cadence import Plateau, StepTime, steps_for
from kmel_p2p.core.companions import Companions
from kmel_p2p.core.effects import Effect, Emit
from kmel_p2p.core.rounds import Members, Phase, PhaseChanged, Trained, Waiting
from kmel_p2p.core.types import Micros

PATIENCE_ROUNDS = 16
"""Own rounds a slower site is waited for at each of its entries: ten times slower is possible, more is stuck."""

HEARING = "hearing from every reachable site before the first round"


class Pacing:
    """State of one site's rounds. Effects go to the shared `outbox`.

    Args:
        max_lead: rounds this site may be ahead of the slowest that trains beside it (charter).
        plateau: rounds without a better validation figure after which it has had enough; 0: never (charter).
        settle: how long after `ready` it waits to hear from every reachable site.
        patience: how long a site that trains, but does not come on, is waited for; at least `PATIENCE_ROUNDS` own ones.
    """

    def __init__(
        self, max_lead: int, plateau: int, settle: Micros, patience: Micros, outbox: deque[Effect], now: Micros
    ) -> None:
        self.phase = Phase.PREPARING
        self.is_ready = False
        self.waiting = ""
        """Why no round is open; empty when one is."""
        self.enough = False
        """Validation has stopped to improve."""
        self._outbox = outbox
        self._max_lead = max_lead
        self._settle = settle
        self._patience = patience
        self._settled_at: Micros | None = None
        self._companions = Companions(max_lead)
        self._opened_at: Micros = now
        self._round_took: Micros = 0
        self._step_time = StepTime()
        self._plateau = Plateau(plateau)
        self._patience_ends: Micros | None = None

    @property
    def step_us(self) -> Micros:
        """This site's time per optimiser step; 0 before its first round."""
        return self._step_time.value

    @property
    def is_settling(self) -> bool:
        """Whether it was ready so recently that some reachable sites may not have been heard yet."""
        return self._settled_at is not None

    @property
    def deadlines(self) -> tuple[Micros | None, Micros | None]:
        """When time alone may change whether a round opens."""
        return self._settled_at, self._patience_ends

    def ready(self, now: Micros) -> None:
        """The site can train."""
        self.is_ready = True
        self._settled_at = now + self._settle

    def turn(self, now: Micros) -> None:
        """Before every look at whether a round may open."""
        self._patience_ends = None
        if self._settled_at is not None and now >= self._settled_at:
            self._settled_at = None

    def enter(self, phase: Phase, reason: str) -> bool:
        """Go to another phase, unless this site listens already; whether it did."""
        if self.phase in (Phase.LISTENING, phase):
            return False
        self.phase = phase
        self._outbox.append(Emit(PhaseChanged(phase, reason)))
        return True

    def say(self, reason: str) -> None:
        """What it waits for now, in words; empty for nothing."""
        if reason != self.waiting:
            self.waiting = reason
            self._outbox.append(Emit(Waiting(reason)))

    def opened(self, now: Micros) -> None:
        """A round was opened."""
        self._opened_at = now

    def trained(self, result: Trained, now: Micros) -> None:
        """The open round was trained."""
        self._round_took = now - self._opened_at
        self._step_time.measured(self._round_took, result.steps)
        self.enough = self._plateau.seen(result.validation)

    def steps(self, charter_steps: int, others: Iterable[Micros]) -> int:
        """Optimiser steps of the next round. `others`: time per step of the other training sites."""
        return steps_for(charter_steps, self._step_time.value, others)

    def holds_back(self, heads: Mapping[SiteKey, int], own_head: int, now: Micros) -> bool:
        """Whether this site is too far ahead. `heads`: where the sites stand that train beside it."""
        self._companions.note(heads, own_head, now)
        patience = max(self._patience, PATIENCE_ROUNDS * self._round_took)
        self._patience_ends = self._companions.holding_back(own_head, patience, now)
        return self._patience_ends is not None


def size_class(members: Members, key: SiteKey) -> int:
    """A site's size class as it describes itself; 0 when unknown."""
    descriptor = members.descriptor(key)
    return descriptor.size_class if descriptor is not None else 0
