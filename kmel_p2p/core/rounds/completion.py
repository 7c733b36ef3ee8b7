"""When the end of a run is told: at once, and once; if it changes after all, with what it is a while later.

Models are compared when the end is told, which takes minutes: entries that come in one by one after it must not have
that begun anew with each, nor a site that publishes for ever: each time, the end is told again later.
"""

from __future__ import annotations

from kmel_p2p.core.types import SECOND, Micros

LONGEST_AGAIN: Micros = 3600 * SECOND
"""An end that changes is told again after so long at most."""


class Completion:
    """See the module docstring.

    Args:
        again_us: how long an end that changes is left alone before it is told again; twice as long each further time.
    """

    def __init__(self, again_us: Micros) -> None:
        self.is_complete = False
        """Whether the run is over, as things are now."""
        self.deadline: Micros | None = None
        """When `look` is due although nothing happened."""
        self._first_us = self._again_us = again_us
        self._told: object = None

    def look(self, final: object, now: Micros) -> bool:
        """Whether to tell the end now. `final` names what the run ended with; None while it has not."""
        before, self.is_complete = self.is_complete, final is not None
        if final is None or (before and final == self._told):
            self.deadline = None
            return False
        if self._told not in (None, final):
            self.deadline = self.deadline or now + self._again_us
            if now < self.deadline:
                return False
            self._again_us = max(self._again_us, min(2 * self._again_us, LONGEST_AGAIN))
        self._told, self.deadline = final, None
        return True

    def forget(self) -> None:
        """The run goes on: its next end is a first one."""
        self._told = None
        self._again_us = self._first_us
