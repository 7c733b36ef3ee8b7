"""The charter's `[averaging]`: which of the modes, and that mode's own settings (docs/averaging.md).

A charter that names no mode means `ledger`. A key of another mode is an error, because it would have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.strict import StrictModel
from kmel_p2p.agreement.training import PaceRule

SuspensionQuorum: TypeAlias = Literal["none", "majority", "two-thirds", "all"]
Mode: TypeAlias = Literal["ledger", "pushsum", "sealed"]

MAX_MOMENTUM = 0.9
"""With more outer momentum, a steady drift overshoots further than a run can recover from."""

MAX_FACTOR = 1e9
"""Of a bound on norms: beyond, its square is no number that a machine computes with."""

MAX_SEALED_SITES = 16
"""All sites vote on every sealed round, and every pair of them has secrets of its own."""


def quorum_of(sites: int) -> int:
    """More than two thirds: so many sites decide a sealed round, and so many shares open a vector."""
    return 2 * sites // 3 + 1


class CommonRule(StrictModel):
    """What all modes have. A round is the optimiser steps from one entry (mode pushsum: one exchange) to the next."""

    steps_per_entry: Annotated[int, pydantic.Field(ge=1, le=2**32)] = 20
    """Optimiser steps of a round. More send fewer bytes per step, but sites drift further apart meanwhile; 10 to 20 did
    well on public data. A slow site takes fewer, down to a sixteenth."""
    entry_limit: Annotated[int, pydantic.Field(ge=1, le=2**32)] = 200
    """Rounds after which a site trains no more. The learning rate falls over this many."""
    weight_cap: Annotated[float, pydantic.Field(ge=1.0)] = 2.0
    """Largest weight of a site, as a multiple of the equal share; 1 gives all sites the same weight."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_are_of_this_mode(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        for other in (LedgerRule, PushSumRule, SealedRule):
            foreign = sorted(key for key in raw if key in other.model_fields and key not in cls.model_fields)
            if foreign:
                mode = other.model_fields["mode"].default
                raise ValueError(f"{foreign[0]!r} belongs to mode {mode!r}; remove it, or set mode = {mode!r}")
        return raw

    def pace_problem(self, pace: PaceRule) -> str:
        """Why these settings do not go with that pace, in words; empty when they do."""
        return ""

    def roster_problem(self, sites: int) -> str:
        """Why these settings do not go with so many sites, in words; empty when they do."""
        return ""

    def campaign_problem(self) -> str:
        """Why a federation of this mode has no second campaign, in words; empty where it has."""
        return (
            "campaigns need averaging mode ledger, in which logs go on: in this federation's mode the next run needs a "
            "charter of its own (kmel-peer charter new)"
        )

    def privacy_problem(self, colluders: int) -> str:
        """Why these settings do not go with `privacy.dp = "record"`, in words; empty when they do."""
        return "privacy.dp is 'record', which takes sums that nobody can take apart: set averaging.mode to 'sealed'"

    def reward_problem(self) -> str:
        """Why these settings do not go with `reward.shares = "stated"`, in words; empty when they do."""
        return "reward.shares is 'stated', and what authors gave is measured in mode 'ledger' alone; remove [reward]"


class LedgerRule(CommonRule):
    """Mode `ledger`: how deltas are made, weighed and kept."""

    mode: Literal["ledger"] = "ledger"
    """How the sites' trunks become one (docs/averaging.md)."""
    chunk: Annotated[int, pydantic.Field(ge=16, le=65536)] = 4096
    """Values of a tensor that compete for being sent (docs/delta.md). Leave it; `kept` sets the size of an entry."""
    kept: Annotated[int, pydantic.Field(ge=1)] = 64
    """Values sent of each chunk; the rest waits in the residual. 64 of 4096 (1.56 %) predicts about as well as
    sending everything; bytes grow in proportion."""
    bits: Literal[1, 2, 4] = 2
    """Per value sent: its sign, and the rest for its magnitude. 1 saves a tenth of the bytes."""
    norm_cap: Annotated[float, pydantic.Field(gt=1.0, le=MAX_FACTOR)] = 1.5
    """An entry's L2 norm may be this multiple of the median norm of the other authors' newest entries; larger ones
    are refused. It bounds the harm that one entry can do. Near 1 honest sites lose by it."""
    first_norm: Annotated[float, pydantic.Field(gt=0.0, le=MAX_FACTOR)] = 1.0
    """Bound on the norm of an entry before which no other site published, as a multiple of what the optimiser can do:
    learning rate times steps times the square root of the values sent."""
    trusted_after: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 16
    """Number of the entry from which on a site may weigh as much as `weight_cap` allows. Before, the largest weight
    grows from the equal share: nobody is heavy who has shown nothing yet."""
    suspension_quorum: SuspensionQuorum = "none"
    """Share of the other sites that must vote against an author before its entries are taken out of the trunk until
    an amendment decides; always two sites at least. "none": votes are shown, and people decide by amendment.
    docs/harm.md says what was shown of suspensions and what was not."""
    epochs: bool = False
    """Whether a site whose disk was put back as a whole image may go on in another epoch of its log, instead of ending
    it as a fork. Experimental: docs/ledger.md lists what a hostile site can do with epochs still."""
    retain_entries: Annotated[int, pydantic.Field(ge=8, le=1024)] = 64
    """Newest entries of each site that are kept beyond what everybody has; older ones are compacted into the snapshot.
    More lets a site stay away longer before it must fetch the snapshot. A site keeps fewer where all of them would
    take more memory than the trunk's sum."""

    def reward_problem(self) -> str:
        """As `CommonRule.reward_problem`."""
        return ""

    def campaign_problem(self) -> str:
        """As `CommonRule.campaign_problem`."""
        return ""

    @pydantic.model_validator(mode="after")
    def _kept_fits_chunk(self) -> LedgerRule:
        if self.kept > self.chunk:
            raise ValueError(f"kept ({self.kept}) is larger than chunk ({self.chunk})")
        return self


class PushSumRule(CommonRule):
    """Mode `pushsum`: how shares are coded, and how a round moves a site's trunk."""

    mode: Literal["pushsum"] = "pushsum"
    """How the sites' trunks become one (docs/averaging.md)."""
    bits: Literal[4, 8] = 8
    """Per value of a share. 4 halves the bytes."""
    momentum: Annotated[float, pydantic.Field(ge=0.0, le=MAX_MOMENTUM)] = 0.5
    """Of the outer step; acts on a site's own drift only."""
    outer_step: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 0.5
    """Factor of a round's drift; a steady drift gains outer_step / (1 - momentum), 1 by default."""
    age_limit: Annotated[int, pydantic.Field(ge=2, le=100_000)] = 16
    """Rounds of the others' work that a trunk may miss before it no longer counts; more than `pace.max_lead`."""

    def pace_problem(self, pace: PaceRule) -> str:
        """As `CommonRule.pace_problem`."""
        if self.age_limit > pace.max_lead:
            return ""
        return (
            f"averaging.age_limit is {self.age_limit}; it must exceed pace.max_lead ({pace.max_lead}), or sites in "
            "step with the others would count as too old"
        )


class SealedRule(CommonRule):
    """Mode `sealed`: only sums of groups are ever opened (docs/sealed.md)."""

    mode: Literal["sealed"] = "sealed"
    """How the sites' trunks become one (docs/averaging.md)."""
    min_group: Annotated[int, pydantic.Field(ge=4, le=16)] = 5
    """Fewest sites that make a round. With fewer ready, the federation waits; it never falls back to clear entries."""
    min_sum: Annotated[int, pydantic.Field(ge=3, le=16)] = 4
    """Fewest sites in a sum that is opened."""
    pattern: Annotated[float, pydantic.Field(ge=0.01, le=1.0)] = 0.25
    """Part of the values that a round sends, at random places. A quarter learns about as well as all, in a quarter of
    the bytes."""
    levels: Annotated[int, pydantic.Field(ge=1, le=127)] = 7
    """Of a value on either side of zero. More cost bits, and let one site move a sum further."""

    @pydantic.model_validator(mode="after")
    def _sum_fits_group(self) -> SealedRule:
        if self.min_sum > self.min_group:
            raise ValueError(f"min_sum ({self.min_sum}) is above min_group ({self.min_group})")
        return self

    def roster_problem(self, sites: int) -> str:
        """As `CommonRule.roster_problem`."""
        if self.min_group <= sites <= MAX_SEALED_SITES:
            return ""
        return (
            f"mode sealed takes averaging.min_group ({self.min_group}) to {MAX_SEALED_SITES} sites, and {sites} are "
            "listed"
        )

    def privacy_problem(self, colluders: int) -> str:
        """As `CommonRule.privacy_problem`."""
        if self.steps_per_entry != 1 or self.pattern != 1.0:
            return (
                "with privacy.dp a round is one step of all values: set averaging.steps_per_entry to 1 and "
                f"averaging.pattern to 1.0; found {self.steps_per_entry} and {self.pattern:g}"
            )
        if colluders > self.min_sum - 2:
            return (
                f"privacy.colluders is {colluders}, and a sum has {self.min_sum} sites or more (averaging.min_sum): "
                "two at least must be left whose noise counts"
            )
        return ""


def _mode_of(value: Any) -> str | None:
    mode = value.get("mode", "ledger") if isinstance(value, Mapping) else getattr(value, "mode", None)
    return mode if isinstance(mode, str) else None


AveragingRule: TypeAlias = Annotated[
    Annotated[LedgerRule, pydantic.Tag("ledger")]
    | Annotated[PushSumRule, pydantic.Tag("pushsum")]
    | Annotated[SealedRule, pydantic.Tag("sealed")],
    pydantic.Discriminator(
        _mode_of,
        custom_error_type="averaging_mode",
        custom_error_message="'mode' must be 'ledger', 'pushsum' or 'sealed'",
    ),
]
"""The settings of one mode; `mode` says which."""


def ledger_rule(rule: AveragingRule) -> LedgerRule:
    """The settings of mode `ledger`.

    Raises:
        Bug: another mode was chosen.
    """
    if not isinstance(rule, LedgerRule):
        raise Bug("the charter's averaging mode is not ledger")
    return rule
