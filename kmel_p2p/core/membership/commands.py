"""What a driver tells membership."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.descriptor import Descriptor, RosterSite


@dataclass(frozen=True, slots=True)
class Leave:
    """Say goodbye. `LeaveFinished` is emitted when the others were told or patience ended."""


@dataclass(frozen=True, slots=True)
class SetRoster:
    """The charter's roster changed. Only this removes members."""

    roster: Mapping[SiteKey, RosterSite]


@dataclass(frozen=True, slots=True)
class DescribeSelf:
    """Change what we say about ourselves; None keeps the present value."""

    addresses: tuple[str, ...] | None = None
    size_class: int | None = None
    outbound_only: bool | None = None
    software: str | None = None


@dataclass(frozen=True, slots=True)
class GoOn:
    """Of two processes with our key, this one goes on."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Descriptors kept from an earlier run: addresses to dial, never evidence that somebody is alive."""

    descriptors: tuple[Descriptor, ...]
