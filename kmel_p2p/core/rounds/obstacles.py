"""What may stand in the way of the next round in any averaging mode: limit, plateau, start, pace."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit
from kmel_p2p.core.rounds.contract import RoundAllowance, Waiting
from kmel_p2p.core.rounds.pacing import Pacing
from kmel_p2p.core.rounds.settings import RoundSettings
from kmel_p2p.core.rounds.states import End, Wait
from kmel_p2p.core.types import Micros


class Obstacles:
    """The part of a `RoundMachine` that a mode asks first. The attributes are the machine's."""

    _key: SiteKey
    _round_settings: RoundSettings
    _pacing: Pacing
    _begun: bool
    _blocked: frozenset[SiteKey]
    _wait: tuple[Wait, Micros] | None
    _waiting: str
    _outbox: deque[Effect]

    @property
    def entry_limit(self) -> int:
        """Rounds that this site may train in all, as things are now."""
        return self._round_settings.entry_limit

    @property
    def campaign(self) -> int:
        """The number of the campaign that this site is in."""
        return 1

    @property
    def allowance(self) -> RoundAllowance:
        """What this site may train, as things are now."""
        return RoundAllowance(self.campaign, self.entry_limit)

    @property
    def before_campaign(self) -> int:
        """Rounds of this site that belong to earlier campaigns."""
        return 0

    def _limit(self, done: int) -> End | None:
        """The charter allows no more after `done` rounds."""
        limit = self.entry_limit
        return End(f"the limit of {limit} entries is reached") if done >= limit else None

    def _plateau(self) -> End | None:
        """Validation has stopped improving."""
        settings = self._round_settings
        reason = f"validation has not improved over {settings.patience} {settings.unit}"
        return End(reason) if self._pacing.enough else None

    def _start(self, training: Sequence[SiteKey], roster: Iterable[SiteKey]) -> Wait | None:
        """The wait before the first round of all, while too few sites can train.

        Args:
            training: the other sites that can.
            roster: the sites that take part and mean to. Blocked ones are not waited for, whatever the charter wants.
        """
        others = frozenset(roster) - self._blocked - {self._key}
        needed, ready = min(self._round_settings.start_sites, 1 + len(others)), 1 + len(training)
        if self._begun or ready >= needed:
            return None
        reason = f"{ready} of {needed} sites are ready to start; kmel-peer begin starts without the others"
        return Wait(reason, tuple(sorted(others - frozenset(training))), kind="start", until_begin=True)

    def _too_far_ahead(self, numbers: Mapping[SiteKey, int], own_number: int, now: Micros) -> Wait | None:
        """The wait for slower sites. `numbers`: how far those are that train beside this one."""
        settings = self._round_settings
        slow = self._pacing.held_back_by(numbers, own_number, now)
        if not slow:
            return None
        # The soonest moment: then one of them counts as stuck, and whether the next is worth waiting for is looked at.
        reason = f"{settings.max_lead} {settings.unit} ahead of the slowest training site"
        return Wait(reason, tuple(sorted(slow)), min(slow.values()))

    def _say(self, wait: Wait | None, now: Micros) -> None:
        """Tell the operator what the next round waits for, each wait once."""
        if wait is None or not wait.reason:
            self._wait = None
        elif self._wait is not None and (self._wait[0].kind or self._wait[0].reason) == (wait.kind or wait.reason):
            self._wait = wait, self._wait[1]
        else:
            self._wait = wait, now
        reason, sites = (wait.reason, wait.sites) if wait is not None else ("", ())
        if reason != self._waiting:
            self._waiting = reason
            self._outbox.append(Emit(Waiting(reason, sites)))
