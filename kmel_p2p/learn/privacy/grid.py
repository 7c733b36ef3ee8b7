"""The scale of levels under differential privacy: fine enough for gradients, wide enough for their noise. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.privacy import NoisePlan
from kmel_p2p.learn.privacy.discrete_gaussian import REACH

STRAY = 0.98
"""Share of the squared bound that the expected squared length after rounding may take."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The scale of levels that goes with a noise.

    Attributes:
        std: standard deviation of one site's noise.
        most: largest sum at a value before the noise.
        longest: largest L2 norm of one compound's part.
        clipped: norm that a clipped gradient has before it is rounded.
    """

    std: float
    most: int
    longest: float
    clipped: float

    @classmethod
    def of(cls, limit: int, noise: float, sharing: int, values: int) -> Grid:
        """The finest scale on which a site's sum and noise stay within the limit.

        Args:
            limit: of a level (`core.sealed.rules.SealedRules.levels`).
            noise: sigma, of the whole sum, in units of the clipping norm.
            sharing: sites whose noises make up the whole.
            values: of the trunk.

        Raises:
            ConfigError: rounding would take as much as clipping leaves.
        """
        most = limit // 2
        std = (limit - most - 1) / REACH
        longest = std * math.sqrt(sharing) / noise
        left = STRAY * longest**2 - values / 4
        if left < longest**2 / 4:
            raise ConfigError(
                f"the charter's trunk has {values:,} values, too many for the noise that its budget asks for "
                f"({noise:.3g} times the clipping norm): choose narrower model.hidden, a larger privacy.epsilon, a "
                "larger averaging.min_sum or a smaller model.projection"
            )
        return cls(std, most, longest, math.sqrt(left))


def planned(plan: NoisePlan, values: int) -> Grid:
    """The scale that goes with the noise of a plan.

    Args:
        values: of the trunk.

    Raises:
        ConfigError: no noise keeps its budget, or none that a trunk of this size can bear.
    """
    # scipy takes half a second to import; a trainer that adds no noise does without it.
    from kmel_p2p.learn.privacy.accountant import noise_for

    rule = plan.rule
    noise = noise_for(rule.epsilon, rule.delta, rule.rate, plan.steps)
    return Grid.of(plan.limit, noise, plan.sharing, values)
