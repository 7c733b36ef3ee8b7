"""Differential privacy of single compounds: the charter's `[privacy]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.strict import StrictModel

SPARE = (20, 4)
"""Steps beyond the run's rounds that the budget covers: one in so many, and so many. Rounds that are void after a site
sealed its vector are charged like others."""

OUTSIDE = (
    "outside epsilon: the choice of models by validation, what a site's own models and predictions show, when it "
    "trains, its size class, and which assay endpoints it has"
)
"""What no noise is added for, in words."""


class PrivacyRule(StrictModel):
    """What a member or outsider may find out about one compound of a site, at most (docs/privacy.md)."""

    dp: Literal["none", "record"] = "none"
    """"record": every site adds noise before its part is sealed, so that epsilon and delta bound what all sums of the
    run say about any one compound of a site, with all its replicates and assay endpoints. Where several sites hold a
    compound, and in further runs over it, what they cost adds up. For averaging mode `sealed`; `averaging.levels` and
    `averaging.weight_cap` have no effect then."""
    epsilon: Annotated[float, pydantic.Field(ge=0.1, le=100.0)] = 8.0
    """Budget of the whole run. `kmel-peer privacy plan` says what it costs in error."""
    delta: Annotated[float, pydantic.Field(gt=0.0, le=1e-3)] = 1e-5
    """Probability with which the bound may fail; well below one in a site's compounds."""
    rate: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 0.25
    """Probability that a compound takes part in a step."""
    clip: Annotated[float, pydantic.Field(gt=0.0, le=1e3)] = 1.0
    """Largest L2 norm of one compound's gradient, in labels; longer ones are shortened to it."""
    learning_rate: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 0.01
    """Of the optimiser that every site runs on the sums (Adam); it falls along a line to a twentieth. Higher than
    `training.learning_rate`, which models trained for comparison take, because there are few steps."""
    colluders: Annotated[int, pydantic.Field(ge=0, le=13)] = 1
    """Sites that might pool what they know and take their own noise off a sum: that of the others alone is enough. 1:
    every member by itself. More cost accuracy, 0 counts on members who do not try."""

    @pydantic.model_validator(mode="after")
    def _is_on_or_not_there(self) -> PrivacyRule:
        idle = sorted(self.model_fields_set - {"dp"})
        if self.dp == "none" and idle:
            raise ValueError(f"{idle[0]} has no effect without dp = 'record': no noise is added")
        return self

    @property
    def on(self) -> bool:
        """Whether noise is added."""
        return self.dp == "record"

    def steps(self, rounds: int) -> int:
        """Steps that the budget covers, in a run of so many rounds."""
        share, more = SPARE
        return rounds + rounds // share + more


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """How a site's part of a round is made under differential privacy (`learn.privacy.noised_sum`).

    Attributes:
        limit: of a level.
        steps: that epsilon covers.
        sharing: sites whose noises make up the whole.
    """

    rule: PrivacyRule
    limit: int
    steps: int
    sharing: int
