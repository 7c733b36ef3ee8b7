"""Keeps work beside training within its share of the time."""

from __future__ import annotations


class Share:
    """How much of the time that training takes some other work may take, with some in advance.

    Args:
        share: of training's time.
        in_advance: rounds whose share may be used before they were trained: what is seen early tells most.
        at_least_s: what the other work may take in any case. Of a run of a minute, a twentieth is too little to see
            anything, and seconds disturb nobody.
    """

    def __init__(self, share: float, in_advance: int, at_least_s: float = 0.0) -> None:
        self.spent_s = 0.0
        self.trained_s = 0.0
        self._share, self._in_advance, self._at_least_s = share, in_advance, at_least_s
        self._rounds = 0
        self._last_s = 0.0

    def trained(self, seconds: float) -> None:
        """A round took so long."""
        self.trained_s += seconds
        self._rounds += 1

    def spent(self, seconds: float, before_s: float = 0.0) -> None:
        """The other work took so long. `before_s`: what was counted of it already (`counted`)."""
        self._last_s = before_s + seconds
        self.spent_s += seconds

    def counted(self, seconds: float) -> None:
        """A part of it took so long, whether or not the rest will be done."""
        self.spent_s += seconds

    def allows(self) -> bool:
        """Whether there is time for as much as last time."""
        if not self._rounds:
            return False
        mean_s = self.trained_s / self._rounds
        affordable_s = self._share * (self.trained_s + max(0, self._in_advance - self._rounds) * mean_s)
        return self.spent_s + self._last_s <= max(affordable_s, self._at_least_s)
