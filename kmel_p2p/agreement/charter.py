"""The charter: who takes part, which model, which assay endpoints, which rules; signed by every founder.

A charter file is TOML. Its id is BLAKE2b-256 of the canonical msgpack of everything but the signatures, so comments
and layout do not matter. A charter is in force when every founding site signed it (DESIGN section 4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
import tomli_w

from kmel_p2p.agreement.averaging import AveragingRule, LedgerRule, PushSumRule
from kmel_p2p.agreement.canonical import canonical, plain
from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.identity import KEY_BYTES, SIGNATURE_BYTES, Identity, SiteKey, curve_public, digest, verify
from kmel_p2p.agreement.strict import StrictModel, parse_toml

SIGNING_CONTEXT = b"kmel charter 1"

MAX_SITES = 4096
"""Sites that one charter may list; bounds every mapping by site on the wire."""

Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""Short lower-case name: it appears in file names, tables and logs."""


Key = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 public key in hex."""

Quorum = Literal["majority", "two-thirds", "all"]
"""Share of the current sites that put an amendment in force."""


class SiteRule(StrictModel):
    """One partner site of the roster."""

    name: Name
    key: Key
    addresses: Annotated[tuple[str, ...], pydantic.Field(max_length=8)] = ()

    @property
    def site_key(self) -> SiteKey:
        """The site's public key, 32 bytes."""
        return SiteKey(bytes.fromhex(self.key))


class ModelRule(StrictModel):
    """Architecture of the trunk and the seed of its initial values."""

    trunk: Name = "mlp"
    """Kind of trunk; `kmel-peer charter new --help` lists them. A site refuses to start with one it does not know."""
    hidden: Annotated[
        tuple[Annotated[int, pydantic.Field(ge=1, le=65536)], ...],
        pydantic.Field(min_length=1, max_length=8),
    ] = (512, 256)
    dropout: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.1
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    calibrate: bool = False
    """True: each site fits a private gain and shift to every shared head, so that assay offsets do not fight in it."""
    members: Annotated[int, pydantic.Field(ge=1, le=32)] = 1
    """Networks trained side by side and averaged; more bytes and more time, steadier predictions."""
    message_width: Annotated[int, pydantic.Field(ge=1, le=4096)] = 300
    """Numbers in a message, for a trunk that passes messages along bonds."""
    depth: Annotated[int, pydantic.Field(ge=1, le=16)] = 3
    """Rounds of messages, for a trunk that passes messages along bonds."""


class FeatureRule(StrictModel):
    """Featuriser and the hash of its output on the reference molecules."""

    kind: Literal["morgan-count+rdkit"] = "morgan-count+rdkit"
    radius: Annotated[int, pydantic.Field(ge=0, le=6)] = 2
    bits: Annotated[int, pydantic.Field(ge=64, le=65536)] = 2048
    stereo: Literal["keep", "drop"] = "drop"
    tautomers: Literal["keep", "canonical"] = "keep"
    reference_hash: Annotated[str, pydantic.Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class AssayEndpointRule(StrictModel):
    """A measured property: unit, transform, the label normalisation all sites use, and whose its head is."""

    name: Annotated[str, pydantic.Field(min_length=1, max_length=64)]
    kind: Literal["regression", "classification"] = "regression"
    unit: Annotated[str, pydantic.Field(max_length=32)] = ""
    transform: Literal["identity", "log10"] = "identity"
    valid_range: tuple[float, float] = (-1e9, 1e9)
    center: float = 0.0
    scale: Annotated[float, pydantic.Field(gt=0.0)] = 1.0
    head: Literal["shared", "private"] = "private"
    weight: Annotated[float, pydantic.Field(ge=0.0)] = 1.0
    positive_weight: Annotated[float, pydantic.Field(gt=0.0, le=1000.0)] = 1.0
    """Of class 1 in the loss; above 1 where it is rare."""
    beyond_bound: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.0
    """Cost of predicting beyond a bound (40 for >30), relative to short of it: 0 none, 1 takes the bound as a value."""

    @pydantic.model_validator(mode="after")
    def _range_is_ordered(self) -> AssayEndpointRule:
        if not self.valid_range[0] < self.valid_range[1]:
            raise ValueError("valid_range must be (lowest, highest) with lowest < highest")
        return self


class TrainingRule(StrictModel):
    """The local optimiser, the same everywhere."""

    batch_size: Annotated[int, pydantic.Field(ge=1, le=65536)] = 64
    learning_rate: Annotated[float, pydantic.Field(gt=0.0, le=1.0)] = 1e-3
    weight_decay: Annotated[float, pydantic.Field(ge=0.0, le=10.0)] = 0.01


class PaceRule(StrictModel):
    """When rounds may start, and how far a site may run ahead of the slowest one that membership calls alive."""

    max_lead: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    start_sites: Annotated[int, pydantic.Field(ge=0)] = 0
    """Sites ready to train before anyone publishes its first entry; 0 means a majority of the roster."""
    patience: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 0
    """Entries without a better validation score after which a site stops publishing and listens; 0 means never."""


class SplitRule(StrictModel):
    """Folds by keyed scaffold hash; the key makes fold assignment the same at every site."""

    fold_key: Annotated[str, pydantic.Field(max_length=64)] = ""
    valid_fraction: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.2


class AmendmentsRule(StrictModel):
    """Who may change the roster later; see `agreement.amendment`."""

    quorum: Quorum = "majority"


class Charter(StrictModel):
    """Everything the founders agree on. See the module docstring."""

    federation: Name
    version: Literal[1] = 1
    sites: Annotated[tuple[SiteRule, ...], pydantic.Field(min_length=1, max_length=MAX_SITES)]
    model: ModelRule = ModelRule()
    features: FeatureRule = FeatureRule()
    assay_endpoints: Annotated[tuple[AssayEndpointRule, ...], pydantic.Field(min_length=1, max_length=1024)]
    training: TrainingRule = TrainingRule()
    averaging: AveragingRule = LedgerRule()
    pace: PaceRule = PaceRule()
    split: SplitRule = SplitRule()
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
        if self.pace.start_sites > len(self.sites):
            raise ValueError(f"pace.start_sites is {self.pace.start_sites}, but {len(self.sites)} sites are listed")
        return self

    @pydantic.model_validator(mode="after")
    def _nobody_in_step_is_old(self) -> Charter:
        rule = self.averaging
        if isinstance(rule, PushSumRule) and rule.age_limit <= self.pace.max_lead:
            raise ValueError(
                f"averaging.age_limit is {rule.age_limit}; it must exceed pace.max_lead ({self.pace.max_lead}), or "
                "sites in step with the others would be held for old"
            )
        return self

    @property
    def ledger(self) -> LedgerRule:
        """The settings of mode `ledger`.

        Raises:
            Bug: the charter chose another mode.
        """
        if not isinstance(self.averaging, LedgerRule):
            raise Bug("the charter's averaging mode is not ledger")
        return self.averaging

    @property
    def id(self) -> bytes:
        """BLAKE2b-256 of the canonical msgpack, 32 bytes."""
        return digest(b"kmel charter id 1", canonical(self.model_dump(mode="python")))

    @property
    def start_sites(self) -> int:
        """Sites that must be ready before the first entry."""
        return self.pace.start_sites or len(self.sites) // 2 + 1

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
        document = parse_toml(cls, text, source)
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
        """The charter, if every founder signed it.

        Raises:
            ConfigError: lists what is missing.
        """
        problems = self.problems()
        if problems:
            raise ConfigError(f"{source}: charter is not in force: " + "; ".join(problems))
        return self.charter


def signature_is_good(key: SiteKey, context: bytes, signed: bytes, signature: str) -> bool:
    """Whether the site of `key` made this signature (hex) of `signed` for the purpose named by `context`."""
    if not re.fullmatch(f"[0-9a-f]{{{2 * SIGNATURE_BYTES}}}", signature):
        return False
    return verify(key, context, signed, bytes.fromhex(signature))


assert KEY_BYTES * 2 == 64, "the key pattern above is written out for 32-byte keys"
