"""What may stand in the way of the next round in any averaging mode: limit, plateau, start, pace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kmel_p2p.agreement.identity import SiteKey
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

    @property
    def entry_limit(self) -> int:
        """Rounds that this site may train in all, as things are now."""
        return self._round_settings.entry_limit

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
