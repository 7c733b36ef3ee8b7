"""Amendments of a charter: sites added, retired, re-keyed; a new quorum; a longer run, or the next one. Signed by a
quorum of the sites.

Amendments are numbered from 1 and chained by hash. An amendment is in force once enough sites of the roster before it
have signed, as the quorum before it requires; anyone with the charter can check the whole chain. Entries name the
amendment they were made under, so that every peer judges them by the same roster.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgpack
import pydantic
import tomli_w

from kmel_p2p.agreement.campaign import Campaign, CampaignRule, EntryNumber
from kmel_p2p.agreement.canonical import canonical, plain, unpack_bounded
from kmel_p2p.agreement.charter import MAX_SITES, Charter, Key, Quorum, SiteRule, signature_is_good
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, Identity, SiteKey, digest, is_key
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import Name, StrictModel, build, parse_toml

SIGNING_CONTEXT = b"kmel amendment 1"

NO_AMENDMENT = bytes(HASH_BYTES).hex()
"""What the first amendment follows."""

EPOCH = datetime.date(1970, 1, 1)

MAX_AMENDMENT_BYTES = 2 * 1024 * 1024
"""Encoded, with a signature of every site a charter may list."""

Hash = Annotated[str, worded_pattern(r"^[0-9a-f]{64}$", "64 hex digits")]


class RetireRule(StrictModel):
    """A site leaves. Its entries up to `last` stay in the log, and in the trunk unless they are retracted."""

    name: Name
    last: EntryNumber
    retract_from: EntryNumber = 0
    """First entry whose contribution is subtracted from the trunk; 0: none."""

    @pydantic.model_validator(mode="after")
    def _retracts_what_there_is(self) -> RetireRule:
        if self.retract_from > self.last:
            raise ValueError(f"retract_from ({self.retract_from}) is above last ({self.last})")
        return self


class RekeyRule(StrictModel):
    """A site keeps its name and gets a new key; entries under the old key count up to `last`."""

    name: Name
    key: Key
    last: EntryNumber
    until: Annotated[str, pydantic.Field(exclude_if=lambda until: not until)] = ""
    """The last day (YYYY-MM-DD, UTC) on which the old key is let in, unless the new one is in sight before: see
    `key_overlap`. Empty: not at all; then it is no part of what is hashed and written."""

    @pydantic.field_validator("until")
    @classmethod
    def _is_a_day(cls, until: str) -> str:
        if until and day_of(until) is None:
            raise ValueError("expected a day as YYYY-MM-DD")
        return until


class Amendment(StrictModel):
    """One change that the sites agree on. See the module docstring."""

    charter: Hash
    """Id of the founding charter."""
    number: Annotated[int, pydantic.Field(ge=1, le=2**32)]
    previous: Hash = NO_AMENDMENT
    add: Annotated[tuple[SiteRule, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    retire: Annotated[tuple[RetireRule, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    rekey: Annotated[tuple[RekeyRule, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    quorum: Quorum | Literal[""] = ""
    """Quorum of later amendments; empty leaves it unchanged."""
    lift: Annotated[tuple[Name, ...], pydantic.Field(max_length=MAX_SITES)] = ()
    """Sites whose suspension ends: their entries count again, and the votes against them so far no longer do."""
    entries: Annotated[int, pydantic.Field(ge=0, le=2**32)] = 0
    """Entries that each site may publish in the campaign that runs, more than before; 0 leaves it unchanged."""
    campaign: Annotated[CampaignRule | None, pydantic.Field(exclude_if=lambda rule: rule is None)] = None
    """The campaign that it opens. Without one, it is no part of what is hashed and written."""

    @property
    def hash(self) -> bytes:
        """BLAKE2b-256 of the canonical msgpack: what sites sign and what the next amendment follows; 32 bytes."""
        return digest(b"kmel amendment hash 1", canonical(self.model_dump(mode="python")))


class AmendmentDocument(StrictModel):
    """An amendment and the signatures collected so far, by site name."""

    amendment: Amendment
    signatures: Mapping[Name, str] = pydantic.Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, source: str) -> AmendmentDocument:
        """Read an amendment file (TOML).

        Raises:
            ConfigError: names source and key.
        """
        return parse_toml(cls, text, source)

    @classmethod
    def decode(cls, data: bytes) -> AmendmentDocument:
        """Read what `encode` gave.

        Raises:
            WireError: it is no amendment.
        """
        raw = unpack_bounded(data, MAX_AMENDMENT_BYTES)
        if type(raw) is not dict:
            raise WireError("not an amendment")
        try:
            return build(cls, raw, "amendment")
        except (ConfigError, RecursionError) as error:
            raise WireError(f"not an amendment: {error!s:.200}") from None

    def encode(self) -> bytes:
        """For the wire and the store."""
        packed: bytes = msgpack.packb(plain(self.model_dump(mode="python")), use_bin_type=True)
        return packed

    def render(self) -> str:
        """TOML text that `parse` reads back to an equal document."""
        return tomli_w.dumps(plain(self.model_dump(mode="python")))

    def signed_by(self, identity: Identity, constitution: Constitution) -> AmendmentDocument:
        """This document with the signature of a current site added.

        Raises:
            ConfigError: the key is not on the roster now, or the amendment does not fit it.
        """
        site = constitution.roster.get(identity.key)
        if site is None:
            raise ConfigError(
                f"key {identity.key.hex()} is not a site of {constitution.genesis.federation!r} now: only "
                "current sites sign, each with its present key"
            )
        constitution.require_fitting(self.amendment)
        signature = identity.sign(SIGNING_CONTEXT, self.amendment.hash).hex()
        return self.model_copy(update={"signatures": {**self.signatures, site.name: signature}})


class Constitution:
    """A charter with the amendments in force. Immutable."""

    def __init__(
        self,
        genesis: Charter,
        documents: tuple[AmendmentDocument, ...] = (),
        overruled: Mapping[bytes, AmendmentDocument] = MappingProxyType({}),
    ) -> None:
        """`documents` are in force one after another (see `followed_by`)."""
        self.genesis = genesis
        self.documents = documents
        self.overruled = overruled
        """Amendments that gave way to others of the same number (`rival_amendments`), by hash."""
        self.roster: dict[SiteKey, SiteRule] = dict(genesis.roster)
        """Current sites, in key order."""
        self.everyone: dict[SiteKey, SiteRule] = dict(genesis.roster)
        """Every site there ever was, in key order."""
        self.order: tuple[SiteKey, ...] = tuple(self.everyone)
        """The same in roster order: founders by key, then what each amendment added, by key. Only grows at the end."""
        self.retired: dict[SiteKey, RetireRule] = {}
        self.lifted: dict[SiteKey, int] = {}
        """Site -> amendments that lifted a suspension of it, or of what it gave under a former key."""
        self.lifted_at: dict[SiteKey, int] = {}
        """Site -> number of the newest of them."""
        self.replaced: dict[SiteKey, SiteKey] = {}
        """Former key of a site -> the key that took its place."""
        self.quorum: Quorum = genesis.amendments.quorum
        self.campaigns: tuple[Campaign, ...] = (Campaign.first(genesis),)
        """All so far; the last one runs, or is over."""
        for document in documents:
            self._apply(document.amendment)

    @property
    def id(self) -> bytes:
        """Id of the founding charter, which entries and messages name throughout."""
        found: bytes = self.genesis.id
        return found

    @property
    def campaign(self) -> Campaign:
        """The newest one."""
        return self.campaigns[-1]

    @property
    def number(self) -> int:
        """Amendments in force."""
        return len(self.documents)

    @property
    def head_hash(self) -> bytes:
        """Hash of the newest amendment; zeros when there is none. Each names the one before: it stands for all."""
        return self.hash_at(self.number)

    def hash_at(self, number: int) -> bytes:
        """Hash of amendment `number`, which is in force here; zeros for 0."""
        return self.documents[number - 1].amendment.hash if number else bytes(HASH_BYTES)

    @property
    def signatures_needed(self) -> int:
        """Signatures of current sites that the next amendment needs."""
        return signatures_needed(len(self.roster), self.quorum)

    def site_named(self, name: str) -> SiteRule | None:
        """The current site of that name."""
        return next((site for site in self.roster.values() if site.name == name), None)

    def keys_of(self, key: SiteKey) -> list[SiteKey]:
        """A site's key and those that it had before, the newest first."""
        before = {new: old for old, new in self.replaced.items()}
        found = [key]
        while found[-1] in before:
            found.append(before[found[-1]])
        return found

    def at(self, number: int) -> Constitution:
        """As it was after `number` amendments."""
        return self if number == self.number else Constitution(self.genesis, self.documents[:number], self.overruled)

    def draft(self, **changes: Any) -> AmendmentDocument:
        """The next amendment, without signatures.

        Raises:
            ConfigError: it does not fit the roster.
        """
        values = {
            "charter": self.id.hex(),
            "number": self.number + 1,
            "previous": self.head_hash.hex(),
            **changes,
        }
        document = AmendmentDocument(amendment=build(Amendment, values, "amendment"))
        self.require_fitting(document.amendment)
        return document

    def problem(self, amendment: Amendment) -> str:
        """Why an amendment cannot be the next one, in words; empty when it can."""
        if amendment.charter != self.id.hex():
            return f"it amends another charter ({amendment.charter[:16]}) than this site's ({self.id.hex()[:16]})"
        if amendment.number != self.number + 1:
            return f"it has number {amendment.number}; the next one is {self.number + 1}{self._numbering(amendment)}"
        if amendment.previous != self.head_hash.hex():
            return (
                "it does not follow the newest amendment in force here; draft it anew (kmel-peer amendment draft), and "
                "have it signed again"
            )
        return self._change_problem(amendment)

    def require_fitting(self, amendment: Amendment) -> None:
        """Raises ConfigError where `problem` names one."""
        problem = self.problem(amendment)
        if problem:
            raise ConfigError(f"amendment {amendment.number}: {problem}")

    def signed(self, document: AmendmentDocument) -> list[str]:
        """Names of the current sites whose signature is good."""
        hash_ = document.amendment.hash
        return [
            site.name
            for key, site in self.roster.items()
            if signature_is_good(key, SIGNING_CONTEXT, hash_, document.signatures.get(site.name, ""))
        ]

    def why_not_in_force(self, document: AmendmentDocument) -> str:
        """Why a document is not the next amendment in force, in words; empty when it is."""
        problem = self.problem(document.amendment)
        if problem:
            return problem
        signed = self.signed(document)
        if len(signed) < self.signatures_needed:
            missing = sorted({site.name for site in self.roster.values()} - set(signed))
            return (
                f"{len(signed)} of {self.signatures_needed} needed sites have signed; missing among: "
                f"{', '.join(missing)}"
            )
        return ""

    def followed_by(self, document: AmendmentDocument) -> Constitution:
        """With a further amendment in force, without signatures that count nothing: they would be kept and spread.

        Raises:
            ConfigError: it is not in force; says why.
        """
        problem = self.why_not_in_force(document)
        if problem:
            raise ConfigError(f"amendment {document.amendment.number}: {problem}")
        signatures = {name: document.signatures[name] for name in self.signed(document)}
        enacted = document.model_copy(update={"signatures": signatures})
        return Constitution(self.genesis, (*self.documents, enacted), self.overruled)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _numbering(self, amendment: Amendment) -> str:
        """What to do about a number out of turn."""
        if amendment.number > self.number:
            return ". Those before it are not here yet: let the peer run until it has heard of them"
        if amendment.hash == self.documents[amendment.number - 1].amendment.hash:
            return ". It is in force already"
        return ". Another one with that number is in force: draft it anew (kmel-peer amendment draft)"

    def _change_problem(self, amendment: Amendment) -> str:
        changes = (
            amendment.add,
            amendment.retire,
            amendment.rekey,
            amendment.quorum,
            amendment.lift,
            amendment.entries,
            amendment.campaign,
        )
        if not any(changes):
            return (
                "it changes nothing; name a site to add, retire, re-key or whose suspension to lift, a new quorum, "
                "more entries, or a campaign"
            )
        if 0 < amendment.entries <= (so_far := self.campaign.entries):
            return f"it lets each site publish {amendment.entries} entries, as {so_far} do already; name more"
        leaving = [rule.name for rule in amendment.retire] + [rule.name for rule in amendment.rekey]
        for name in (*leaving, *amendment.lift):
            if self.site_named(name) is None:
                present = ", ".join(sorted(site.name for site in self.roster.values()))
                return f"there is no site {name!r} now; there are: {present}"
        coming = [site.name for site in amendment.add]
        stays = [site.name for site in self.roster.values() if site.name not in leaving]
        names = [*stays, *coming, *(rule.name for rule in amendment.rekey)]
        changed = [*leaving, *coming, *amendment.lift]
        repeated = sorted({name for name in changed if changed.count(name) > 1})
        repeated += sorted({name for name in names if names.count(name) > 1})
        if repeated:
            return f"site {repeated[0]!r} is named twice"
        keys = [*(site.site_key for site in amendment.add), *(SiteKey(bytes.fromhex(r.key)) for r in amendment.rekey)]
        for key in keys:
            if key in self.everyone or keys.count(key) > 1:
                return f"key {key.hex()} was used before; a site that comes or gets a new key needs a fresh one"
            if not is_key(key):
                return f"{key.hex()} is no Ed25519 public key"
        if not names:
            return "no site would be left"
        if len(self.everyone) + len(keys) > MAX_SITES:
            return f"{len(self.everyone)} sites took part so far; with former ones there may be {MAX_SITES} in all"
        if (opened := amendment.campaign) is None:
            return ""
        both = "it opens a campaign and extends one; campaign.entries says how many" if amendment.entries else ""
        known = {site.name: key for key, site in self.roster.items()}
        return both or self.genesis.averaging.campaign_problem() or self.campaign.problem_of_next(opened, known, names)

    def _apply(self, amendment: Amendment) -> None:
        present = {site.name: key for key, site in self.roster.items()}
        for name in amendment.lift:
            site = self.site_named(name)
            assert site is not None, "checked before"
            for key in self.keys_of(site.site_key):
                self.lifted[key] = self.lifted.get(key, 0) + 1
                self.lifted_at[key] = amendment.number
        for rule in amendment.retire:
            self._retire(rule)
        for rekey in amendment.rekey:
            old = self.site_named(rekey.name)
            assert old is not None, "checked before"
            self._retire(RetireRule(name=rekey.name, last=rekey.last))
            self._add(SiteRule(name=rekey.name, key=rekey.key, addresses=old.addresses))
            new = self.replaced[old.site_key] = SiteKey(bytes.fromhex(rekey.key))
            self.campaigns = (*self.campaigns[:-1], self.campaign.for_new_key(old.site_key, new))
        for site in amendment.add:
            self._add(site)
        added = self.everyone.keys() - set(self.order)
        self.order = (*self.order, *sorted(added))
        if amendment.quorum:
            self.quorum = amendment.quorum
        if amendment.entries:
            self.campaigns = (*self.campaigns[:-1], self.campaign.with_entries(amendment.entries))
        if (opened := amendment.campaign) is not None:
            after = {present[name]: last for name, last in opened.after.items()}
            sits_out = frozenset(key for key, site in self.roster.items() if site.name in opened.sits_out)
            self.campaigns = (*self.campaigns, self.campaign.followed_by(opened, amendment.number, after, sits_out))

    def _retire(self, rule: RetireRule) -> None:
        site = self.site_named(rule.name)
        assert site is not None, "checked before"
        del self.roster[site.site_key]
        self.retired[site.site_key] = rule

    def _add(self, site: SiteRule) -> None:
        self.roster = dict(sorted({**self.roster, site.site_key: site}.items()))
        self.everyone = dict(sorted({**self.everyone, site.site_key: site}.items()))


def day_of(text: str) -> int | None:
    """A date (YYYY-MM-DD) in days since 1970-01-01; None: it is none."""
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return None
    return (day - EPOCH).days if text == day.isoformat() else None


def signatures_needed(sites: int, quorum: Quorum) -> int:
    """Sites that make a quorum: always more than half, so that any two quorums share a site."""
    match quorum:
        case "majority":
            return sites // 2 + 1
        case "two-thirds":
            return max(sites // 2 + 1, math.ceil(2 * sites / 3))
        case "all":
            return sites
