"""The charter: who takes part, which model, which assay endpoints, which rules; signed by every founder.

A charter file is TOML. Its id is BLAKE2b-256 of the canonical msgpack of everything but the signatures, so comments
and layout do not matter. A charter is in force when every founding site has signed it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
import tomli_w

from kmel_p2p.agreement.averaging import AveragingRule, LedgerRule, ledger_rule
from kmel_p2p.agreement.canonical import canonical, plain
from kmel_p2p.agreement.endpoint import MAX_ENDPOINTS, AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, SiteKey, curve_public, digest, verify
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.agreement.reward import RewardRule
from kmel_p2p.agreement.shown import PRINTABLE, PRINTABLE_WORDS
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.agreement.strict import Name, StrictModel, build, read_toml
from kmel_p2p.agreement.training import ModelRule, PaceRule, TrainingRule

SIGNING_CONTEXT = b"kmel charter 1"

VERSION = 1
"""Of the format of charters."""

MAX_SITES = 4096
"""Most sites that a charter may list; bounds every mapping by site on the wire."""

AddressText = Annotated[str, worded_pattern(PRINTABLE, PRINTABLE_WORDS, max_length=512)]
"""Where a site is reached; the transport reads it (`net.address`)."""

Key = Annotated[str, worded_pattern(r"^[0-9a-f]{64}$", "64 hex digits")]
"""An Ed25519 public key in hex."""

Quorum = Literal["majority", "two-thirds", "all"]
"""Share of the current sites that must sign an amendment."""


class SiteRule(StrictModel):
    """One partner site of the roster."""

    name: Name
    """In tables, files and logs."""
    key: Key
    """Public key of the site, which is its identity."""
    addresses: Annotated[tuple[AddressText, ...], pydantic.Field(max_length=8)] = ()
    """Where its peer is reached; none: it only dials out."""

    @property
    def site_key(self) -> SiteKey:
        """The site's public key, 32 bytes."""
        return SiteKey(bytes.fromhex(self.key))


class AmendmentsRule(StrictModel):
    """How the roster may change later; see `agreement.amendment`."""

    quorum: Quorum = "majority"
    """Share of the current sites that must sign a later amendment: `majority`, `two-thirds` or `all`."""


class Charter(StrictModel):
    """Everything the founders agree on. See the module docstring."""

    federation: Name
    """Name of the federation."""
    version: Literal[1] = 1
    """Of this format."""
    sites: Annotated[tuple[SiteRule, ...], pydantic.Field(min_length=1, max_length=MAX_SITES)]
    model: ModelRule = ModelRule()
    features: FeatureRule = FeatureRule()
    assay_endpoints: Annotated[tuple[AssayEndpoint, ...], pydantic.Field(min_length=1, max_length=MAX_ENDPOINTS)]
    training: TrainingRule = TrainingRule()
    averaging: AveragingRule = LedgerRule()
    pace: PaceRule = PaceRule()
    split: SplitRule = SplitRule()
    privacy: Annotated[PrivacyRule, pydantic.Field(exclude_if=lambda rule: not rule.on)] = PrivacyRule()
    """Where it is off, it is no part of what is hashed and written: charters signed before keep their id."""
    reward: Annotated[RewardRule, pydantic.Field(exclude_if=lambda rule: not rule.on)] = RewardRule()
    """Likewise."""
    amendments: AmendmentsRule = AmendmentsRule()

    @pydantic.model_validator(mode="after")
    def _names_and_keys_are_unique(self) -> Charter:
        for what, values in (
            ("site name", [s.name for s in self.sites]),
            ("site key", [s.key for s in self.sites]),
            ("assay endpoint", [e.name for e in self.assay_endpoints]),
        ):
            repeated = sorted({v for v in values if values.count(v) > 1})
            if repeated:
                raise ValueError(f"{what} {repeated[0]!r} is listed twice")
        return self

    @pydantic.model_validator(mode="after")
    def _enough_sites_to_start(self) -> Charter:
        if self.pace.start_sites > len(self.sites):
            raise ValueError(f"pace.start_sites is {self.pace.start_sites}, but {len(self.sites)} sites are listed")
        return self

    @pydantic.model_validator(mode="after")
    def _pace_fits_averaging(self) -> Charter:
        if problem := self.averaging.pace_problem(self.pace):
            raise ValueError(problem)
        return self

    @pydantic.model_validator(mode="after")
    def _sites_fit_averaging(self) -> Charter:
        if problem := self.averaging.roster_problem(len(self.sites)):
            raise ValueError(problem)
        return self

    @pydantic.model_validator(mode="after")
    def _privacy_fits_averaging(self) -> Charter:
        if not self.privacy.on:
            return self
        if problem := self.averaging.privacy_problem(self.privacy.colluders):
            raise ValueError(problem)
        # What is trained on a compound without noise, and what sums are made with, must not be the same thing.
        kept = [endpoint.name for endpoint in self.assay_endpoints if endpoint.head != "shared"]
        if kept or self.model.calibrate:
            what = f"assay endpoint {kept[0]!r} has a private head" if kept else "model.calibrate is true"
            raise ValueError(
                f"{what}, and with privacy.dp = 'record' nothing of a network may be trained without noise: the sums "
                "would show it. Set head = 'shared' everywhere and model.calibrate = false"
            )
        if self.pace.patience:
            raise ValueError(
                f"pace.patience is {self.pace.patience}: when a site stops would show its validation scores, for which "
                "no noise is added (privacy.dp). Set it to 0"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _reward_fits_averaging(self) -> Charter:
        if self.reward.on and (problem := self.averaging.reward_problem()):
            raise ValueError(problem)
        return self

    @property
    def ledger(self) -> LedgerRule:
        """The settings of mode `ledger`.

        Raises:
            Bug: the charter chose another mode.
        """
        return ledger_rule(self.averaging)

    @property
    def id(self) -> bytes:
        """BLAKE2b-256 of the canonical msgpack, 32 bytes."""
        return digest(b"kmel charter id 1", canonical(self.model_dump(mode="python")))

    @property
    def start_sites(self) -> int:
        """Sites that must be ready before the first entry."""
        return self.pace.start_sites or len(self.sites)

    @property
    def roster(self) -> dict[SiteKey, SiteRule]:
        """Sites by key, in key order."""
        return {site.site_key: site for site in sorted(self.sites, key=lambda s: s.key)}

    def site_named(self, name: str) -> SiteRule:
        """The site called `name`.

        Raises:
            ConfigError: no such site; the error lists the names there are.
        """
        for site in self.sites:
            if site.name == name:
                return site
        known = ", ".join(site.name for site in self.sites)
        raise ConfigError(f"charter of {self.federation!r} has no site {name!r}; it lists: {known}")


class CharterDocument(StrictModel):
    """A charter file: the charter and the signatures collected so far, by site name."""

    charter: Charter
    signatures: Mapping[str, str] = pydantic.Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, source: str) -> CharterDocument:
        """Read a charter file's text.

        Raises:
            ConfigError: names source and key.
        """
        raw = read_toml(text, source)
        _require_known_version(raw.get("charter"), source)
        document = build(cls, raw, source)
        for site in document.charter.sites:
            try:
                curve_public(site.site_key)
            except Exception as error:
                raise ConfigError(f"{source}: key of site {site.name!r} is no Ed25519 public key") from error
        for name in document.signatures:
            document.charter.site_named(name)
        return document

    def render(self) -> str:
        """TOML text that `parse` reads back to an equal document."""
        return tomli_w.dumps(plain(self.model_dump(mode="python")))

    def signed_by(self, identity: Identity) -> CharterDocument:
        """This document with the signature of `identity` added.

        Raises:
            ConfigError: the charter lists no site with that key.
        """
        site = self.charter.roster.get(identity.key)
        if site is None:
            raise ConfigError(
                f"key {identity.key.hex()} is not a site of {self.charter.federation!r}; "
                "ask whoever drafts the charter to list it before you sign"
            )
        signature = identity.sign(SIGNING_CONTEXT, self.charter.id).hex()
        return self.model_copy(update={"signatures": {**self.signatures, site.name: signature}})

    def problems(self) -> list[str]:
        """Why this charter is not in force: one line per missing or wrong signature; empty when it is."""
        lines = []
        for site in self.charter.sites:
            signature = self.signatures.get(site.name)
            if signature is None:
                lines.append(f"site {site.name!r} has not signed")
            elif not signature_is_good(site.site_key, SIGNING_CONTEXT, self.charter.id, signature):
                lines.append(f"the signature of site {site.name!r} is not of this charter")
        return lines

    def require_in_force(self, source: str) -> Charter:
        """The charter, if every founder has signed it.

        Raises:
            ConfigError: lists what is missing.
        """
        problems = self.problems()
        if problems:
            raise ConfigError(f"{source}: charter is not in force: " + "; ".join(problems))
        return self.charter


def _require_known_version(charter: object, source: str) -> None:
    """Raises ConfigError where a later program wrote the charter: what else is new in it would only confuse."""
    version = charter.get("version") if isinstance(charter, dict) else None
    if type(version) is int and version > VERSION:
        raise ConfigError(
            f"{source}: this charter is of version {version}, and this kmel-peer reads version {VERSION}: upgrade "
            "kmel-peer here"
        )


def signature_is_good(key: SiteKey, context: bytes, signed: bytes, signature: str) -> bool:
    """Whether the site of `key` made this signature (hex) of `signed` for the purpose named by `context`."""
    if not re.fullmatch(f"[0-9a-f]{{{2 * SIGNATURE_BYTES}}}", signature):
        return False
    return verify(key, context, signed, bytes.fromhex(signature))


assert KEY_BYTES * 2 == 64, "the key pattern above is written out for 32-byte keys"
