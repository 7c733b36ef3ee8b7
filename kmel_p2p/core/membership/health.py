"""How well this peer itself is doing: its local health score (Lifeguard, section IV-A) and its counters."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.core.types import Micros


class LocalHealth:
    """A score from 0 (well) to `limit` - 1. Probing slows down by the factor score + 1."""

    __slots__ = ("_enabled", "_limit", "score")

    def __init__(self, limit: int, enabled: bool) -> None:
        self._limit = limit
        self._enabled = enabled
        self.score = 0

    def change(self, delta: int) -> None:
        """Worse by `delta` > 0 (failed probe, missing nack, own refutation, late timer), better by < 0."""
        if self._enabled:
            self.score = min(self._limit - 1, max(0, self.score + delta))

    def stretch(self, duration_us: Micros) -> Micros:
        """A probing duration at the present score."""
        return duration_us * (self.score + 1)


@dataclass(slots=True)
class MembershipCounters:
    """What happened since the start, for status and metrics."""

    # our probes
    direct_probes_failed: int = 0
    """No direct answer in time; others were asked."""
    probes_answered_indirectly: int = 0
    """Only others reached the target."""
    probes_failed: int = 0
    """No answer at all."""
    probes_silent: int = 0
    """Failed probes blamed on ourselves, because nobody at all was heard."""
    relays_refused: int = 0
    """Requests to probe for others that were one too many."""
    dials: int = 0

    # accusations of others
    confirmations: int = 0
    """Further accusers of a site under suspicion."""
    accusations_by_nobody: int = 0
    """Accusations by a site outside the roster, or by the accused itself; ignored."""
    accusations_stale: int = 0
    """Accusations of an older version than the one held; refuted already."""
    accusations_ahead: int = 0
    """Accusations of a newer version than the one held; not believed without its descriptor."""
    accusations_over_rate: int = 0
    """Accusations beyond what one sender may start."""
    answers: int = 0
    """Messages that brought a sender up to date which was behind, unknown or held dead."""

    # about ourselves
    refutations: int = 0
    """Accusations of ourselves that we refuted."""
    own_accusations_stale: int = 0
    own_accusations_ahead: int = 0
    duplicate_key: int = 0
    """Descriptors that another process signed with our key."""
    generation_exhausted: int = 0
    stalls: int = 0
    """Times this process was suspended."""
    stalled_us: Micros = 0
    """How long, together."""
    late_timers: int = 0

    # descriptors
    forged_descriptors: int = 0
    """Messages with a descriptor that its owner did not sign; refused."""
    recalled_forgeries: int = 0
    """Stored descriptors with a wrong signature; left out."""
    facts_about_strangers: int = 0
    """Facts about sites outside the roster, or not described yet; ignored."""
