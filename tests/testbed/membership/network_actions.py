"""What a scenario file can do to the network, one class per `do`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import pydantic

from kmel_p2p.core.types import MILLISECOND
from tests.testbed.membership.action import Action, HostsAction, Milliseconds, Probability, Seconds, micros
from tests.testbed.membership.stage import Stage


class Partition(Action):
    """Cut groups apart."""

    do: Literal["partition"]
    groups: Annotated[tuple[str, ...], pydantic.Field(min_length=2)]

    def apply(self, stage: Stage) -> None:
        stage.partition([stage.hosts(group) for group in self.groups])


class Heal(Action):
    """End the partition."""

    do: Literal["heal"]

    def apply(self, stage: Stage) -> None:
        stage.heal()


class Block(Action):
    """Lose everything one way, for `for_s` (0: for good)."""

    do: Literal["block"]
    source: str
    target: str
    for_s: Seconds = 0.0

    def apply(self, stage: Stage) -> None:
        sources, targets = stage.hosts(self.source), stage.hosts(self.target)
        stage.network.block(sources, targets)
        if self.for_s:
            end = stage.network.now + micros(self.for_s)
            stage.network.call_at(end, partial(stage.network.unblock, sources, targets))


class Clog(Action):
    """Hold everything one way back for `for_s`, then let it through at once."""

    do: Literal["clog"]
    source: str
    target: str
    for_s: Seconds

    def apply(self, stage: Stage) -> None:
        for source in stage.hosts(self.source):
            for target in stage.hosts(self.target):
                if source is not target:
                    direction = stage.network.direction(source, target)
                    direction.clog_until_us = stage.network.now + micros(self.for_s)


class Weather(Action):
    """Change the conditions one way. What is not given stays."""

    do: Literal["weather"]
    source: str = "all"
    target: str = "all"
    latency_ms: Milliseconds | None = None
    jitter_ms: Milliseconds | None = None
    loss: Probability | None = None
    duplicate: Probability | None = None
    reorder: Probability | None = None
    corrupt: Probability | None = None
    bits_per_second: int | None = None

    def apply(self, stage: Stage) -> None:
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("loss", "duplicate", "reorder", "corrupt", "bits_per_second")
            if getattr(self, name) is not None
        }
        if self.latency_ms is not None:
            changes["latency_us"] = round(self.latency_ms * MILLISECOND)
        if self.jitter_ms is not None:
            changes["jitter_us"] = round(self.jitter_ms * MILLISECOND)
        for source in stage.hosts(self.source):
            for target in stage.hosts(self.target):
                if source is not target:
                    direction = stage.network.direction(source, target)
                    direction.conditions = replace(direction.conditions, **changes)


class Interface(HostsAction):
    """Take the network interface down or up: sends fail at once with a local error."""

    do: Literal["interface"]
    up: bool

    def apply(self, stage: Stage) -> None:
        for host in stage.hosts(self.hosts):
            host.interface_up = self.up
            if self.up:
                stage.observer.unwell.pop(host.index, None)
            else:
                stage.observer.unwell[host.index] = None
