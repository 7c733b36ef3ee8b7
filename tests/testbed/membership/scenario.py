"""Scenario files: a federation, what happens to it, and the numbers it must keep (tests/testbed/scenarios/*.toml)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import StrictModel, parse_toml
from kmel_p2p.core.membership import MembershipSettings, preset
from kmel_p2p.core.types import MILLISECOND
from tests.testbed.membership.action import Milliseconds, Probability, Seconds, micros
from tests.testbed.membership.actions import AnyAction
from tests.testbed.membership.federation import FederationPlan
from tests.testbed.membership.figures import Bound, known
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.links import Conditions


class NetworkRule(StrictModel):
    """Conditions of every link, and how connections behave."""

    latency_ms: Milliseconds = 5.0
    jitter_ms: Milliseconds = 5.0
    loss: Probability = 0.0
    duplicate: Probability = 0.0
    reorder: Probability = 0.0
    corrupt: Probability = 0.0
    bits_per_second: Annotated[int, pydantic.Field(ge=0)] = 0
    connections: Literal["dialled", "assumed"] = "dialled"
    """assumed: every host reaches every other without dialling, as with datagrams."""
    heartbeat_s: Seconds = 15.0
    messages: Literal["objects", "bytes"] = "objects"
    """bytes: every message goes through the wire's encoder and decoder."""

    def conditions(self) -> Conditions:
        """As the links want it."""
        return Conditions(
            latency_us=round(self.latency_ms * MILLISECOND),
            jitter_us=round(self.jitter_ms * MILLISECOND),
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            corrupt=self.corrupt,
            bits_per_second=self.bits_per_second,
        )

    def transport(self) -> TransportModel:
        """As the network wants it."""
        return TransportModel(dialled=self.connections == "dialled", heartbeat_us=micros(self.heartbeat_s))


class Baseline(StrictModel):
    """The same run, changed: what figures with over = "baseline ratio" are compared with."""

    settings: Annotated[dict[str, Any], pydantic.Field(default_factory=dict)]
    without: tuple[str, ...] = ()
    """Actions (by their `do`) that are left out."""


class Scenario(StrictModel):
    """One file."""

    title: str
    source: str
    """Where the problem was met: an issue, a paper, a scenario id."""
    members: Annotated[int, pydantic.Field(ge=1, le=4096)] = 16
    spares: Annotated[int, pydantic.Field(ge=0, le=1024)] = 0
    """Hosts that are not in the roster at first."""
    outbound_only: tuple[int, ...] = ()
    """Indices of members that cannot be dialled."""
    preset: Literal["lan", "wan", "sim"] = "lan"
    settings: Annotated[dict[str, Any], pydantic.Field(default_factory=dict)]
    duration_s: Seconds
    start_over_s: Seconds = 1.0
    """All members are switched on at random moments within this time."""
    identical: bool = False
    """Every host draws the same random numbers: ties everywhere."""
    seeds: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 50
    network: NetworkRule = NetworkRule()
    action: tuple[AnyAction, ...] = ()
    bound: tuple[Bound, ...]
    baseline: Baseline | None = None

    @pydantic.model_validator(mode="after")
    def _marks_exist(self) -> Scenario:
        if not self.bound:
            raise ValueError("a scenario needs at least one bound")
        marks = {a.mark for a in self.action} | {""}
        for bound in self.bound:
            for name in (bound.after, bound.until, bound.idle_after, bound.idle_until):
                if name not in marks:
                    raise ValueError(f"bound on {bound.figure} names the mark {name!r}, which no action sets")
            if bound.over == "baseline ratio" and self.baseline is None:
                raise ValueError(f"bound on {bound.figure} compares with a baseline, but none is given")
        for name in self.baseline.without if self.baseline is not None else ():
            known(name, {action.do for action in self.action}, "action of this file")
        return self

    def plan(self) -> FederationPlan:
        """The federation this file describes."""
        return FederationPlan(
            members=self.members,
            spares=self.spares,
            conditions=self.network.conditions(),
            transport=self.network.transport(),
            encoded=self.network.messages == "bytes",
            outbound_only=frozenset(self.outbound_only),
            identical=self.identical,
        )

    def membership_settings(self, baseline: bool = False) -> MembershipSettings:
        """The preset with this file's changes (and the baseline's)."""
        changes = dict(self.settings)
        if baseline and self.baseline is not None:
            changes |= self.baseline.settings
        if self.network.connections == "assumed":
            changes["assume_links"] = True
        return preset(self.preset).with_changes(**changes)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ConfigError: names file, key and what is expected.
    """
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    scenario = parse_toml(Scenario, document, str(path))
    with naming(path):
        scenario.membership_settings(baseline=True)
    return scenario


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
