"""Whether an author's newest entries take back what it gave before.

Every site sees that, and no compound is needed. What an honest site adds agrees with what it added before (cosines of
0.05 to 0.3 in benchmarks/poison.py, whatever its chemistry), because what one entry leaves out the next ones bring. One
that sends against what it learned, or whose labels were turned round on the way, takes it back. So does one that mends
its data, to everybody's good: so this alone is no harm (`core.ledger.harm.judgement`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEWEST = 4
"""Entries that are compared with the oldest half of all that are here; there must be twice as many."""

TURNED = -0.02
"""Cosine below which an author takes back what it gave. That of two sums without anything in common is within 0.005."""


class Turning:
    """Of one author: takes its entries in, the newest first.

    What lies between is left out: it may be of before or after. Squares of the oldest are added up as if these had
    nothing in common; they have little.
    """

    def __init__(self, size: int, entries: int) -> None:
        """`size`: values of the trunk; `entries`: that will be taken in."""
        self._enough = entries >= 2 * NEWEST
        self._moved = np.zeros(size if self._enough else 0, np.float32)
        self._left = entries
        self._newest, self._oldest = entries - NEWEST, entries // 2
        self._dot = self._squares = 0.0

    def add(self, positions: NDArray[np.integer], values: NDArray[np.floating]) -> None:
        """Take in the next older entry.

        Args:
            positions: int[n], each once.
            values: what it added to them, in a unit that all entries of the author share, float[n].
        """
        if not self._enough:
            return
        if self._left > self._newest:
            self._moved[positions] += values
        elif self._left <= self._oldest:
            self._dot += float(np.dot(self._moved[positions], values))
            self._squares += float(np.dot(values, values))
        self._left -= 1

    @property
    def cosine(self) -> float:
        """Of the newest entries with the oldest half; 1 where there are too few."""
        norm = float(np.linalg.norm(self._moved)) * self._squares**0.5
        return self._dot / norm if norm > 0 else 1.0
