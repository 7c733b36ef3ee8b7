"""What a draft suggests, by the number of compounds that a usual site announces: shape, rate, steps, patience, folds.

A federation overfits as a single model does: with 200 entries of 20 steps, a site with 300 compounds sees each of them
a thousand times, and the trunk that all end with is worse than one that they had long before. So steps grow
with the data, about as its square root, and the networks are smaller where the data are few. Classes overfit sooner
than numbers: their loss has no bound, and a network that is sure of its training compounds is too sure of others. So
they take a lower learning rate. Chosen on public data (docs/benchmarks.md, "Drafted settings"), on folds that are not
reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from kmel_p2p.agreement.averaging import quorum_of

USUAL = 300
"""Compounds that are assumed where nothing is announced. Too few steps make less of a large site's data; too many ruin
what all have in common, and no site can mend that for the others."""

CLASS_RATE = 0.1
"""Learning rate as a share of what numbers take, where an assay endpoint has classes. On CYP3A4 in two laboratories,
600 steps, the trunk's validation log loss was best after 90 steps with 1e-3 and after 210 with 3e-4, and then rose."""

ENOUGH = 0.1
"""Validation fraction of sites that have many compounds. With 300 compounds it leaves about 20 values to choose by, too
few to keep out a stack that is worse than best local; twice as many cost less in training than they save."""

PRIVATE_ROUNDS = 200
"""Noised steps of a drafted run. At one epsilon the error hardly depends on their number."""

NUMBERS = "lower rates need more steps for the same result"
CLASSES = "lower than for numbers, because there are classes, which overfit sooner"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings for one class of sizes.

    Attributes:
        up_to: most compounds of this class; None: no limit.
        patience: of the charter's `[pace]`, in entries.
        valid_fraction: of the charter's `[split]`.
        classes: whether an assay endpoint has classes.
    """

    up_to: int | None
    hidden: tuple[int, ...]
    dropout: float
    batch_size: int
    learning_rate: float
    entry_limit: int
    steps_per_entry: int
    patience: int
    valid_fraction: float
    classes: bool = False

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
            "split": {"valid_fraction": self.valid_fraction},
        }

    def reason(self, compounds: int, announced: bool) -> list[str]:
        """Why, for those who read the draft: a few lines."""
        passes = round(self.entry_limit * self.steps_per_entry * self.batch_size / compounds)
        size = f"{compounds:,} compounds" if announced else f"{compounds:,} compounds (nothing was announced)"
        return [
            f"Settings for sites with about {size} each to train on; --compounds announces another size.",
            f"{self.entry_limit} entries of {self.steps_per_entry} steps with batches of {self.batch_size} pass over "
            f"them {passes} times; many more passes overfit.",
            f"Learning rate {self.learning_rate:g}: {CLASSES if self.classes else NUMBERS}.",
            f"Patience {self.patience}: a site stops after so many entries without a better validation score.",
            f"{self.valid_fraction:.0%} of the series choose between models: "
            f"{'a smaller share of so few says too little' if self.valid_fraction > ENOUGH else 'enough of so many'}.",
        ]


SUGGESTIONS = (
    Suggestion(150, (256, 128), 0.2, 32, 1e-3, 30, 10, 10, 0.2),
    Suggestion(500, (256, 128), 0.2, 32, 1e-3, 40, 15, 12, 0.2),
    Suggestion(2000, (256, 128), 0.2, 32, 1e-3, 60, 20, 15, ENOUGH),
    Suggestion(10_000, (512, 256), 0.2, 64, 1e-3, 100, 20, 20, ENOUGH),
    Suggestion(None, (512, 256), 0.1, 64, 1e-3, 200, 20, 20, ENOUGH),
)
"""By size."""


def suggested(compounds: int, classes: bool = False) -> Suggestion:
    """The settings for sites of this size.

    Args:
        classes: whether an assay endpoint has classes.
    """
    found = next(one for one in SUGGESTIONS if one.up_to is None or compounds <= one.up_to)
    if not classes:
        return found
    return replace(found, learning_rate=CLASS_RATE * found.learning_rate, classes=True)


def private_sections(sections: dict[str, dict[str, Any]], epsilon: float, compounds: int, sites: int) -> list[str]:
    """Turn a draft into one of sealed rounds with differential privacy, in place; the reasons, for those who read it.

    Args:
        epsilon: the budget of the run.
        compounds: of a usual site.
        sites: founders.
    """
    delta = usual_delta(compounds)
    group = max(4, min(5, sites))
    # The smallest set that the smallest group of the rounds may open: fewer would mean more noise for each site.
    least = max(3, quorum_of(max(group, quorum_of(sites))))
    sections["model"] |= {"dropout": 0.0}
    sections["averaging"] = {
        "mode": "sealed",
        "entry_limit": PRIVATE_ROUNDS,
        "steps_per_entry": 1,
        "pattern": 1.0,
        "min_group": group,
        "min_sum": least,
    }
    sections["pace"] = {"patience": 0}
    # As many as may lie without anybody being hurt, if enough are left whose noise counts.
    colluders = max(1, min((sites - 1) // 3, least - 2))
    sections["privacy"] = {"dp": "record", "epsilon": epsilon, "delta": delta, "colluders": colluders}
    return [
        f"Sealed rounds with differential privacy: epsilon {epsilon:g} and delta {delta:g} bound what {PRIVATE_ROUNDS} "
        "noised steps say about any one compound.",
        f"{colluders} of the sites may pool what they know: the noise of the others alone keeps the budget.",
        "kmel-peer privacy plan says what a budget costs in error.",
    ]


def usual_delta(compounds: int) -> float:
    """A tenth of one in all compounds, as a power of ten: well below one in them, as it has to be."""
    return min(1e-3, float(10.0 ** math.floor(math.log10(0.1 / compounds))))
