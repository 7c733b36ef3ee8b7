"""Keeps a flood from outside from becoming a flood of events: everything is counted, not everything is told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from kmel_p2p.core.types import SECOND, Micros

SUBJECTS_MAX = 512
"""Subjects remembered; beyond it the one told about longest ago is forgotten."""


class Throttle:
    """Lets one event per subject and interval pass."""

    def __init__(self, interval: Micros = SECOND) -> None:
        self._interval = interval
        self._told_at: OrderedDict[Hashable, Micros] = OrderedDict()

    def passes(self, subject: Hashable, now: Micros) -> bool:
        """Whether an event about `subject` may be told now; if so, it counts as told."""
        told_at = self._told_at.get(subject)
        if told_at is not None and now - told_at < self._interval:
            return False
        self._told_at[subject] = now
        self._told_at.move_to_end(subject)
        if len(self._told_at) > SUBJECTS_MAX:
            self._told_at.popitem(last=False)
        return True
