"""The charter's `[averaging]`: which of the two modes, and that mode's own settings (docs/averaging.md).

A charter that names no mode means `ledger`. A key of the other mode is an error: it would be without effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from kmel_p2p.agreement.strict import StrictModel

Mode: TypeAlias = Literal["ledger", "pushsum"]

MAX_MOMENTUM = 0.9
"""Outer momentum above which a steady drift overshoots by more than a run can make up for."""


class CommonRule(StrictModel):
    """What both modes have."""

    steps_per_entry: Annotated[int, pydantic.Field(ge=1)] = 20
    """Optimiser steps of a round."""
    entry_limit: Annotated[int, pydantic.Field(ge=1, le=2**32)] = 200
    """Rounds after which a site trains no more."""
    weight_cap: Annotated[float, pydantic.Field(ge=1.0)] = 2.0
    """Largest weight of a site, as a multiple of the equal share."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_are_of_this_mode(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        for other in (LedgerRule, PushSumRule):
            foreign = sorted(key for key in raw if key in other.model_fields and key not in cls.model_fields)
            if foreign:
                mode = other.model_fields["mode"].default
                raise ValueError(f"{foreign[0]!r} belongs to mode {mode!r}; remove it, or set mode = {mode!r}")
        return raw


class LedgerRule(CommonRule):
    """Mode `ledger`: how deltas are made, weighed and kept."""

    mode: Literal["ledger"] = "ledger"
    chunk: Annotated[int, pydantic.Field(ge=16, le=65536)] = 4096
    kept: Annotated[int, pydantic.Field(ge=1)] = 64
    bits: Literal[1, 2, 4] = 2
    norm_cap: Annotated[float, pydantic.Field(gt=1.0)] = 4.0
    retain_entries: Annotated[int, pydantic.Field(ge=8, le=1024)] = 64
    """Newest entries of each site that are kept beyond what everybody has; older ones fold into the snapshot. A site
    keeps fewer where all of them would take more memory than the trunk's sum."""

    @pydantic.model_validator(mode="after")
    def _kept_fits_chunk(self) -> LedgerRule:
        if self.kept > self.chunk:
            raise ValueError(f"kept ({self.kept}) is larger than chunk ({self.chunk})")
        return self


class PushSumRule(CommonRule):
    """Mode `pushsum`: how shares are coded, and how a round moves a site's trunk."""

    mode: Literal["pushsum"] = "pushsum"
    bits: Literal[4, 8] = 8
    """Of each value of a share."""
    momentum: Annotated[float, pydantic.Field(ge=0.0, le=MAX_MOMENTUM)] = 0.5
    """Of the outer step; acts on a site's own drift only."""
    outer_step: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 0.5
    """Factor of a round's drift."""
    age_limit: Annotated[int, pydantic.Field(ge=2, le=100_000)] = 16
    """Rounds of the others' work a trunk may miss before it no longer counts; more than `pace.max_lead`."""


def _mode_of(value: Any) -> str | None:
    mode = value.get("mode", "ledger") if isinstance(value, Mapping) else getattr(value, "mode", None)
    return mode if isinstance(mode, str) else None


AveragingRule: TypeAlias = Annotated[
    Annotated[LedgerRule, pydantic.Tag("ledger")] | Annotated[PushSumRule, pydantic.Tag("pushsum")],
    pydantic.Discriminator(
        _mode_of,
        custom_error_type="averaging_mode",
        custom_error_message="'mode' must be 'ledger' or 'pushsum'",
    ),
]
"""Either mode's settings, told apart by `mode`."""
