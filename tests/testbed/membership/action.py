"""Something that happens in a scenario, at moments the seed draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pydantic

from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.membership.stage import Stage

Seconds = Annotated[float, pydantic.Field(ge=0.0, le=10_000_000.0)]
Milliseconds = Annotated[float, pydantic.Field(ge=0.0, le=10_000_000.0)]
Probability = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]


def micros(seconds: float) -> Micros:
    """Seconds of a scenario file as integer microseconds."""
    return round(seconds * SECOND)


class Action(StrictModel):
    """When something happens. Subclasses say what."""

    at_s: Seconds
    within_s: Seconds = 0.0
    """The moment is drawn per seed, uniform in [at, at + within]."""
    times: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 1
    every_s: Seconds = 0.0
    mark: str = ""
    """Name of this moment, for bounds."""

    def moments(self, stage: Stage) -> Iterator[Micros]:
        """When it happens under this seed."""
        for repeat in range(self.times):
            late = stage.rng.randrange(micros(self.within_s) + 1)
            yield micros(self.at_s) + repeat * micros(self.every_s) + late

    def run(self, stage: Stage) -> None:
        """Set the mark and act."""
        if self.mark:
            stage.mark(self.mark)
        self.apply(stage)

    def apply(self, stage: Stage) -> None:
        """What it does."""
        raise NotImplementedError


class HostsAction(Action):
    """Something that happens to hosts."""

    hosts: str
