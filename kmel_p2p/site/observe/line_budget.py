"""How many log lines one site can cause: what it says beyond that is counted, not written.

Every line a remote can cause costs disk: at 80 messages a second of bad entries, all files of the log were replaced
within four minutes, and with them everything that an operator would have wanted to read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

BURST = 20
"""Lines of one kind about one site that may come at once."""

REFILL_S = 5.0
"""After those, one line per so many seconds: 2 MB a day at most, of each kind and site."""

SUBJECTS = 4096
"""Kinds and sites remembered; beyond it the one written about longest ago is forgotten."""


@dataclass(slots=True)
class _Budget:
    left: float
    at_s: float
    unwritten: int = 0


class LineBudget:
    """See the module docstring. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._budgets: OrderedDict[tuple[str, str], _Budget] = OrderedDict()
        self.unwritten = 0
        """Lines that were not written, since the start."""

    def take(self, what: str, site: str) -> int | None:
        """Whether a line may be written: how many were left out since the last one, or None when it may not."""
        now = self._clock()
        budget = self._budgets.pop((what, site), None) or _Budget(BURST, now)
        self._budgets[what, site] = budget
        if len(self._budgets) > SUBJECTS:
            self._budgets.popitem(last=False)
        budget.left = min(BURST, budget.left + (now - budget.at_s) / REFILL_S)
        budget.at_s = now
        if budget.left < 1:
            budget.unwritten += 1
            self.unwritten += 1
            return None
        budget.left -= 1
        left_out, budget.unwritten = budget.unwritten, 0
        return left_out
