"""Campaigns: numbered runs of one federation. The charter opens the first; each later one is opened by an amendment.

A campaign goes on from the trunk of the one before, in the same logs. Its boundary is signed with it: for every site
the number of its newest entry of the campaigns before. So every site counts an entry to the same campaign, whatever it
holds, and whoever made an entry beyond the boundary while the signatures were collected has that much less to make.

A campaign may change how sites train, add assay endpoints and retire them. It may not change what an entry or a
measurement means: entries of all campaigns add up to one trunk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

import pydantic

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.averaging import AveragingRule, LedgerRule, ledger_rule
from kmel_p2p.agreement.charter import MAX_SITES, Charter
from kmel_p2p.agreement.endpoint import MAX_ENDPOINTS, AssayEndpoint, EndpointName
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.in_words import fault_in_words
from kmel_p2p.agreement.strict import Name, StrictModel, plain_value
from kmel_p2p.agreement.training import PaceRule, TrainingRule

MAX_ADDED = 64
"""Assay endpoints that one campaign may add."""

EntryNumber = Annotated[int, pydantic.Field(ge=0, le=2**40)]

CHANGEABLE = (
    "training.learning_rate",
    "training.batch_size",
    "training.weight_decay",
    "averaging.steps_per_entry",
    "averaging.weight_cap",
    "averaging.norm_cap",
    "pace.max_lead",
    "pace.patience",
)
"""The charter's settings that a campaign may change: how a site trains, and bounds that each entry is judged by under
the amendment that it names."""

ONE_TRUNK = "entries of all campaigns add up to one trunk"

FIXED: Mapping[str, str] = {
    "features": f"{ONE_TRUNK}, whose first layer would read other numbers than it learned from",
    "model": f"{ONE_TRUNK}, and no entry so far would fit one of another shape",
    "assay_endpoints": f"{ONE_TRUNK}, whose heads would mean other units or scales than they learned; whole assay "
    "endpoints come and go: kmel-peer campaign draft --add-endpoint, --retire-endpoint",
    "split": "a compound must never move between training and test",
    "privacy": "what noise has bounded so far would no longer be bounded",
    "amendments": "an amendment changes the quorum: kmel-peer amendment draft --quorum",
    "sites": "an amendment adds and retires sites: kmel-peer campaign draft --add, --retire",
    "averaging.entry_limit": "the campaign says itself how many entries it has: kmel-peer campaign draft --entries",
    "pace.start_sites": "it is about the first entry of all; a later campaign waits for the sites in sight, for a "
    "minute at most",
}
"""Section or setting that no campaign changes, and why."""
CODED = "peers decode, keep and judge earlier entries by it"
"""Why the other settings of averaging stay as they are."""


def fixed_because(setting: str) -> str:
    """Why a campaign cannot change a setting of the charter, in words; empty where it can."""
    if setting in CHANGEABLE:
        return ""
    section = setting.partition(".")[0]
    reason = FIXED.get(setting) or FIXED.get(section) or (CODED if section == "averaging" else "")
    known = f"what a campaign may change is {', '.join(CHANGEABLE)}"
    return f"{setting!r} stays as it is, because {reason}; {known}" if reason else f"no setting {setting!r}; {known}"


def _changeable(setting: str) -> str:
    if problem := fixed_because(setting):
        raise ValueError(problem)
    return setting


def _within_reason(value: Any) -> Any:
    if type(value) not in (int, float) or not 0 <= value <= MAX_SETTING:
        raise ValueError(f"expected a number from 0 to {MAX_SETTING:_}")
    return value


MAX_SETTING = 2**32
"""Above every value that a setting may have; larger whole numbers cannot even be hashed."""

Setting: TypeAlias = Annotated[str, pydantic.AfterValidator(_changeable)]
SettingValue: TypeAlias = Annotated[int | float, pydantic.BeforeValidator(_within_reason)]


class CampaignRule(StrictModel):
    """What an amendment says about the campaign that it opens."""

    number: Annotated[int, pydantic.Field(ge=2, le=2**32)]
    """One above that of the campaign before."""
    entries: Annotated[int, pydantic.Field(ge=1, le=2**32)]
    """That each site may publish in it."""
    after: Annotated[Mapping[Name, EntryNumber], pydantic.Field(max_length=MAX_SITES)]
    """The boundary: of every site of the roster, its newest entry that belongs to an earlier campaign."""
    settings: Annotated[Mapping[Setting, SettingValue], pydantic.Field(max_length=len(CHANGEABLE))] = pydantic.Field(
        default_factory=dict
    )
    """Settings that change, by their names in the charter; the others stay as in the campaign before."""
    optimiser: Literal["kept", "fresh"] = "kept"
    """Whether sites go on with the moments of their optimisers."""
    residual: Literal["kept", "dropped"] = "kept"
    """Whether what a site has trained and not published yet goes into its entries of this campaign. That of a site
    which did not take part in the campaign before is dropped in any case: the trunk has moved on since."""
    sits_out: Annotated[tuple[Name, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    """Sites that publish nothing in it. They keep and relay everything, and take the next one up again."""
    add_endpoints: Annotated[
        tuple[AssayEndpoint, ...], pydantic.Field(max_length=MAX_ADDED, exclude_if=lambda added: not added)
    ] = ()
    """Assay endpoints that are trained from this campaign on, as the charter's are described. Without any, it is no
    part of what is hashed and written."""
    retire_endpoints: Annotated[
        tuple[EndpointName, ...], pydantic.Field(max_length=MAX_ENDPOINTS, exclude_if=lambda retired: not retired)
    ] = ()
    """Assay endpoints that are trained no more. Likewise."""

    def boundary_problem(self, published: Mapping[str, int]) -> str:
        """Why a site should not sign the boundary, in words; empty where it may.

        Where it lies beyond every log, sites count as in a campaign that they are not in yet, and may publish more than
        it allows. Where it lies far below one, its author has no part left in the campaign, and nobody said so.

        Args:
            published: site of the roster -> its newest entry, as this site holds it.
        """
        for name, last in sorted(self.after.items()):
            here = published.get(name, 0)
            if last > here:
                return (
                    f"it counts the entries of {name} up to {last} to earlier campaigns, and the newest here is "
                    f"{here}: let the peer run until it has them; if nobody has them, it has to be drafted anew"
                )
            if last + self.entries <= here and name not in self.sits_out:
                return (
                    f"it counts the entries of {name} up to {last} to earlier campaigns and gives it {self.entries}, "
                    f"and {here} are here: {name} could publish nothing in it; it has to be drafted anew, or say that "
                    f"{name} sits it out"
                )
        return ""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign, with all settings that hold in it.

    Attributes:
        number: from 1.
        amendment: that opened it; 0: the charter.
        entries: that each site may publish in it.
        after: site -> its newest entry that belongs to an earlier campaign; 0 for sites that are not named.
        sits_out: sites that publish nothing in it.
        assay_endpoints: all so far; those of the federation's other campaigns are some of them.
        keeps_optimiser, keeps_residual: of the campaign before.
    """

    number: int
    amendment: int
    entries: int
    training: TrainingRule
    averaging: AveragingRule
    pace: PaceRule
    after: Mapping[SiteKey, int] = field(default_factory=dict)
    sits_out: frozenset[SiteKey] = frozenset()
    assay_endpoints: AssayEndpoints = field(default_factory=AssayEndpoints)
    keeps_optimiser: bool = True
    keeps_residual: bool = True

    @classmethod
    def first(cls, charter: Charter) -> Campaign:
        """The one that a charter opens."""
        averaging = charter.averaging
        endpoints = AssayEndpoints.first(charter.assay_endpoints)
        return cls(1, 0, averaging.entry_limit, charter.training, averaging, charter.pace, assay_endpoints=endpoints)

    @property
    def ledger(self) -> LedgerRule:
        """The settings of mode `ledger`.

        Raises:
            Bug: the charter chose another mode.
        """
        return ledger_rule(self.averaging)

    def before(self, site: SiteKey) -> int:
        """The newest entry of a site that belongs to an earlier campaign."""
        return self.after.get(site, 0)

    def limit_of(self, site: SiteKey) -> int:
        """Entries that a site may publish in all, those of earlier campaigns included."""
        return self.before(site) + (0 if site in self.sits_out else self.entries)

    def for_new_key(self, former: SiteKey, key: SiteKey) -> Campaign:
        """With a site that has another key from now on: who sits it out still does."""
        return replace(self, sits_out=self.sits_out | {key}) if former in self.sits_out else self

    def with_entries(self, entries: int) -> Campaign:
        """Extended."""
        return replace(self, entries=entries)

    def followed_by(
        self, rule: CampaignRule, amendment: int, after: Mapping[SiteKey, int], sits_out: frozenset[SiteKey]
    ) -> Campaign:
        """The next one. `rule` has no `problem_of_next`."""
        sections = self._changed(rule)
        return replace(
            self,
            number=rule.number,
            amendment=amendment,
            entries=rule.entries,
            after=after,
            sits_out=sits_out,
            assay_endpoints=self.assay_endpoints.followed_by(rule.add_endpoints, rule.retire_endpoints, rule.number),
            keeps_optimiser=rule.optimiser == "kept",
            keeps_residual=rule.residual == "kept",
            **sections,
        )

    def problem_of_next(self, rule: CampaignRule, present: Mapping[str, SiteKey], names: Collection[str]) -> str:
        """Why a campaign cannot be the next one, in words; empty when it can.

        Args:
            present: sites of the roster now, by name.
            names: those that are on it once the campaign is open.
        """
        if rule.number != self.number + 1:
            return f"it opens campaign {rule.number}, and the next one is {self.number + 1}"
        if wrong := sorted(rule.after.keys() ^ present.keys()):
            return f"campaign.after has to name each site of the roster, and no other: look at {', '.join(wrong)}"
        for name, last in rule.after.items():
            if last < (began := self.before(present[name])):
                return f"campaign.after says {last} of {name}, and campaign {self.number} began after its entry {began}"
        if unknown := sorted(set(rule.sits_out) - set(names)):
            return f"campaign.sits_out names {unknown[0]!r}, which is not on the roster then"
        if set(names) <= set(rule.sits_out):
            return "every site would sit the campaign out"
        part = set(names) - set(rule.sits_out)
        if len(part) == 1 < len(names) and not any(last for name, last in rule.after.items() if name not in part):
            # Rule 14 of docs/ledger.md: it would publish `max_lead` entries, and wait for the others for ever.
            return f"only {min(part)} would take part, and no other site has published yet: nobody goes on alone"
        endpoints = self.assay_endpoints.problem(rule.add_endpoints, rule.retire_endpoints)
        return endpoints or self._settings_problem(rule)

    def _settings_problem(self, rule: CampaignRule) -> str:
        """Why its settings cannot be, in words; empty when they can."""
        try:
            sections = self._changed(rule)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return f"campaign setting {where!r} is {plain_value(first.get('input'))}: {fault_in_words(first)}"
        averaging: AveragingRule = sections.get("averaging", self.averaging)
        return averaging.pace_problem(sections.get("pace", self.pace))

    def _changed(self, rule: CampaignRule) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for setting, value in rule.settings.items():
            section, _, key = setting.partition(".")
            before = changed.get(section, getattr(self, section))
            changed[section] = before.changed(**{key: value})
        return changed
