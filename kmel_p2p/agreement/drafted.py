"""What a draft suggests, by the number of compounds that a usual site announces: shape, rate, steps and patience.

A federation overfits as a single model does: with 200 entries of 20 steps, a site with 300 compounds sees each of them
a thousand times, and the trunk that all end with is worse than the one they had after a tenth of the way. So steps grow
with the data, about as its square root, and the networks are smaller where the data are few. Chosen on public data
(docs/benchmarks.md, "Drafted settings"), on folds that are not reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

USUAL = 300
"""Compounds that are assumed where nothing is announced: steps that suit a small site do a large one little harm, since
each site weighs what it gets, but the steps of a large one ruin what small ones have in common."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings for one class of sizes.

    Attributes:
        up_to: most compounds of this class; None: no limit.
        patience: of the charter's `[pace]`, in entries.
    """

    up_to: int | None
    hidden: tuple[int, ...]
    dropout: float
    batch_size: int
    learning_rate: float
    entry_limit: int
    steps_per_entry: int
    patience: int

    def sections(self, perceptron: bool) -> dict[str, dict[str, Any]]:
        """The charter's sections with these settings.

        Args:
            perceptron: whether the trunk is one; `hidden` and `dropout` were measured with no other.
        """
        return {
            "model": {"hidden": self.hidden, "dropout": self.dropout} if perceptron else {},
            "training": {"batch_size": self.batch_size, "learning_rate": self.learning_rate},
            "averaging": {"entry_limit": self.entry_limit, "steps_per_entry": self.steps_per_entry},
            "pace": {"patience": self.patience},
        }

    def reason(self, compounds: int, announced: bool) -> list[str]:
        """Why, for those who read the draft: a few lines."""
        passes = round(self.entry_limit * self.steps_per_entry * self.batch_size / compounds)
        size = f"{compounds:,} compounds" if announced else f"{compounds:,} compounds (nothing was announced)"
        return [
            f"Settings for sites with about {size} each to train on; --compounds announces another size.",
            f"{self.entry_limit} entries of {self.steps_per_entry} steps with batches of {self.batch_size} pass over "
            f"them {passes} times; many more passes overfit.",
            f"Learning rate {self.learning_rate:g}: lower rates need more steps for the same result.",
            f"Patience {self.patience}: a site stops after so many entries without a better validation score.",
        ]


SUGGESTIONS = (
    Suggestion(150, (256, 128), 0.2, 32, 1e-3, 30, 10, 10),
    Suggestion(500, (256, 128), 0.2, 32, 1e-3, 40, 15, 12),
    Suggestion(2000, (256, 128), 0.2, 32, 1e-3, 60, 20, 15),
    Suggestion(10_000, (512, 256), 0.2, 64, 1e-3, 100, 20, 20),
    Suggestion(None, (512, 256), 0.1, 64, 1e-3, 200, 20, 20),
)
"""By size."""


def suggested(compounds: int) -> Suggestion:
    """The settings for sites of this size."""
    return next(one for one in SUGGESTIONS if one.up_to is None or compounds <= one.up_to)
