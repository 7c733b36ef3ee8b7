"""Parameters of membership, their formulas and three presets.

Defaults are those of hashicorp/memberlist (`lan`, `wan`), whose values have years of service behind them; the
formulas are SWIM's (Das et al., DSN 2002) and Lifeguard's (Dadgar et al., arXiv:1707.00788). A formula is written
here once and nowhere else.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import pydantic

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import StrictModel, build
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros

Duration = Annotated[int, pydantic.Field(ge=MILLISECOND, le=30 * 86_400 * SECOND)]
Count = Annotated[int, pydantic.Field(ge=0, le=64)]

FRAME_OVERHEAD_BYTES = 75
"""What one small message costs beside its own bytes: CURVE command 33 B, ZMTP frame 2 B, TCP and IPv4 headers 40 B."""


class MembershipSettings(StrictModel):
    """Durations are integer microseconds. See docs/membership.md for how each value was chosen."""

    probe_interval_us: Duration = SECOND
    """One member is probed per interval, times (local health score + 1)."""
    probe_timeout_us: Duration = 500 * MILLISECOND
    """Wait for a direct answer; meant to be the p99 round trip. Strictly below the interval."""
    indirect_probes: Count = 3
    """Third members asked to probe in our place after a direct timeout."""
    suspicion_mult: Annotated[int, pydantic.Field(ge=1, le=64)] = 4
    """Shortest suspicion in probe intervals, before the logarithm of the federation's size."""
    suspicion_max_mult: Annotated[int, pydantic.Field(ge=1, le=64)] = 6
    """Longest suspicion as a multiple of the shortest."""
    retransmit_mult: Annotated[int, pydantic.Field(ge=1, le=64)] = 4
    """A fact is sent at most this often times ceil(log10(N + 1))."""
    gossip_interval_us: Duration = 200 * MILLISECOND
    gossip_fanout: Annotated[int, pydantic.Field(ge=1, le=16)] = 3
    sync_interval_us: Duration = 30 * SECOND
    """Full comparison of tables with one random member; longer in large federations."""
    reconnect_interval_us: Duration = 30 * SECOND
    """Each dead site is contacted about once per interval by the whole federation, for ever."""
    dial_first_us: Duration = SECOND
    """First back-off after a failed dial; doubles up to the reconnect interval."""
    health_max: Annotated[int, pydantic.Field(ge=1, le=64)] = 8
    """Local health score runs from 0 (well) to this minus 1."""
    silent_probes_max: Count = 3
    """Failed probes in a row, with not one message from anybody meanwhile, that are blamed on ourselves."""
    stall_us: Duration = 2 * SECOND
    """A timer served later than this means we were suspended: nobody is accused for that time."""
    message_budget_bytes: Annotated[int, pydantic.Field(ge=700, le=16384)] = 1400
    """Upper bound of a message that carries facts; one Ethernet frame."""
    piggyback_bytes: Annotated[int, pydantic.Field(ge=0, le=1400)] = 80
    """Membership facts on one probe message; a single larger fact is still carried."""
    accusation_rate_bytes: Annotated[int, pydantic.Field(ge=16)] = 40
    """Gossiped accusations per probe interval beyond piggybacking: keeps a mass failure from becoming a storm."""
    accusation_burst_bytes: Annotated[int, pydantic.Field(ge=0)] = 160
    """Accusations at once after quiet, so that a single death is known fast."""
    descriptor_rate_bytes: Annotated[int, pydantic.Field(ge=16)] = 600
    """The same for arrivals, refutations and departures: the accused must be heard before the suspicion runs out."""
    descriptor_burst_bytes: Annotated[int, pydantic.Field(ge=0)] = 2400
    assume_links: bool = False
    """Every member is reachable without dialling (datagrams, large simulations)."""
    local_health: bool = True
    """Lifeguard: stretch own probing while own probes fail. Off only to measure its effect."""
    dynamic_suspicion: bool = True
    """Lifeguard: suspicion starts long and shrinks with independent accusers. Off only to measure its effect."""
    believe_dead: bool = False
    """Plain SWIM: a remote `dead` counts at once. Off: it arrives as a suspicion the subject can refute."""

    @pydantic.model_validator(mode="after")
    def _values_fit_together(self) -> MembershipSettings:
        rules = (
            ("probe_timeout_us", "probe_interval_us", self.probe_timeout_us < self.probe_interval_us),
            ("gossip_interval_us", "probe_interval_us", self.gossip_interval_us <= self.probe_interval_us),
            ("probe_interval_us", "sync_interval_us", self.probe_interval_us <= self.sync_interval_us),
            ("dial_first_us", "reconnect_interval_us", self.dial_first_us <= self.reconnect_interval_us),
            ("piggyback_bytes", "message_budget_bytes", self.piggyback_bytes <= self.message_budget_bytes // 2),
            ("probe_timeout_us", "stall_us", self.probe_timeout_us <= self.stall_us),
        )
        for small, large, holds in rules:
            if not holds:
                raise ValueError(
                    f"{small} ({getattr(self, small)}) is too large beside {large} ({getattr(self, large)})"
                )
        return self

    def with_changes(self, **changes: Any) -> MembershipSettings:
        """A validated copy.

        Raises:
            ConfigError: an unknown name, or values that do not fit together.
        """
        return build(MembershipSettings, {**self.model_dump(), **changes}, "membership settings")


def suspicion_min_us(settings: MembershipSettings, sites: int) -> Micros:
    """Shortest suspicion among `sites` members: mult * max(1, log10 N) * probe interval (memberlist `util.go`)."""
    # Rounded to thousandths so that the last bit of libm's logarithm cannot change a trace.
    thousandths = max(1000, round(1000 * math.log10(max(1, sites))))
    return settings.suspicion_mult * thousandths * settings.probe_interval_us // 1000


def suspicion_max_us(settings: MembershipSettings, sites: int) -> Micros:
    """Longest suspicion: what an accusation without an independent second accuser takes."""
    factor = settings.suspicion_max_mult if settings.dynamic_suspicion else 1
    return factor * suspicion_min_us(settings, sites)


def confirmations_wanted(settings: MembershipSettings, sites: int) -> int:
    """Independent accusers beyond the first that bring a suspicion to its minimum; 0 when too few sites exist."""
    if not settings.dynamic_suspicion:
        return 0
    wanted = settings.suspicion_mult - 2
    return wanted if 0 < wanted <= sites - 2 else 0


def retransmit_limit(settings: MembershipSettings, sites: int) -> int:
    """How often one fact is sent: mult * ceil(log10(N + 1))."""
    digits = len(str(max(1, sites)))  # equals ceil(log10(N + 1)) for every N >= 1, exactly
    return settings.retransmit_mult * digits


def sync_interval_us(settings: MembershipSettings, sites: int) -> Micros:
    """Interval of full sync, stretched by ceil(log2 N - 5) + 1 above 32 sites."""
    if sites <= 32:
        return settings.sync_interval_us
    return settings.sync_interval_us * ((sites - 1).bit_length() - 5 + 1)


LAN = MembershipSettings()

WAN = MembershipSettings(
    probe_interval_us=5 * SECOND,
    probe_timeout_us=3 * SECOND,
    suspicion_mult=6,
    gossip_interval_us=500 * MILLISECOND,
    gossip_fanout=4,
    accusation_burst_bytes=600,
    sync_interval_us=60 * SECOND,
    reconnect_interval_us=60 * SECOND,
    stall_us=6 * SECOND,
)

SIM = MembershipSettings(
    probe_interval_us=300 * MILLISECOND,
    probe_timeout_us=150 * MILLISECOND,
    gossip_interval_us=60 * MILLISECOND,
    sync_interval_us=3 * SECOND,
    reconnect_interval_us=2 * SECOND,
    dial_first_us=250 * MILLISECOND,
    stall_us=600 * MILLISECOND,
)

PRESETS = {"lan": LAN, "wan": WAN, "sim": SIM}


def preset(name: str) -> MembershipSettings:
    """The settings called `name`.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"membership preset {name!r} does not exist; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
