"""From a site's files to its parts: charter in force, layout, codec, ledger, membership, trainer plan.

Everything that can be wrong with the local files is found here, before a socket is opened.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.averaging import Mode, PushSumRule
from kmel_p2p.agreement.charter import AssayEndpointRule, Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.columns import (
    Column,
    EmbargoSource,
    LongSource,
    SdfSource,
    Source,
    TextFormat,
    TimeSource,
    TunerSource,
    WideSource,
)
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.features import FeaturePolicy, descriptor_constants
from kmel_p2p.agreement.identity import Identity, SiteKey, short
from kmel_p2p.agreement.split import SplitPolicy
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.snapshot.snapshot import genesis as empty_snapshot
from kmel_p2p.core.pushsum.messages import MAX_PAYLOAD_BYTES as MAX_SHARE_BYTES
from kmel_p2p.core.pushsum.rules import PushSumRules
from kmel_p2p.core.pushsum.share import payload_bytes as share_bytes
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.layout import Layout, initial_trunk
from kmel_p2p.learn.models.architecture import Architecture, trunk_layout
from kmel_p2p.learn.worker.session import TrainerPlan, TrainingSettings
from kmel_p2p.site.config import SiteConfig, read_text
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.state.store import Store

REPLACE_STORE = (
    "the store belongs to another charter or was altered. Move it away and start again: the others will send the ledger"
)


@dataclass(frozen=True)
class Site:
    """What a site is by its files, checked."""

    config: SiteConfig
    identity: Identity
    charter: Charter
    constitution: Constitution
    """The charter with the amendments that the site's files and its store know of."""
    rule: SiteRule
    architecture: Architecture
    layout: Layout

    @functools.cached_property
    def codec(self) -> DeltaCodec:
        """How deltas are compressed in mode ledger."""
        return DeltaCodec(self.layout, codec_of(self.charter))

    @property
    def mode(self) -> Mode:
        """The charter's averaging mode."""
        return self.charter.averaging.mode

    @property
    def names(self) -> dict[SiteKey, str]:
        """Site names by key, for everything people read."""
        return names_of(self.constitution)

    @property
    def max_payload_bytes(self) -> int:
        """No valid payload is larger."""
        rules = self.charter.averaging
        if isinstance(rules, PushSumRule):
            return share_bytes(self.layout.size, PushSumRules.of(self.charter).last_bits)
        return self.codec.max_payload_bytes


def names_of(constitution: Constitution) -> dict[SiteKey, str]:
    """Site names by key, each once: a key that its site has given up is told apart from the one it has now."""
    current = {rule.name for rule in constitution.roster.values()}
    names, given = {}, set(current)
    for key, rule in constitution.everyone.items():
        plain = key in constitution.roster or rule.name not in given
        names[key] = rule.name if plain else f"{rule.name} (former key {key.hex()[:8]})"
        given.add(names[key])
    return names


def load_site(config: SiteConfig) -> Site:
    """Read key and charter and check that they belong together.

    Raises:
        ConfigError: names the file and what to do.
    """
    identity = load_key(config.site.key_file)
    source = str(config.site.charter)
    text = read_text(config.site.charter, "ask the consortium for it, or draft one with kmel-peer charter new")
    charter = CharterDocument.parse(text, source).require_in_force(source)
    if config.site.amendments and charter.averaging.mode == "pushsum":
        raise ConfigError(
            "site.amendments names files, but in averaging mode pushsum a charter is not amended: remove them"
        )
    constitution = _amended(charter, config.site.amendments)
    rule = constitution.everyone.get(identity.key)
    if rule is None:
        raise ConfigError(
            f"{source}: the charter of {charter.federation!r} does not list this site's key "
            f"{identity.key.hex()} ({config.site.key_file}). If an amendment added this site or gave it this key, list "
            "all amendments up to that one, in order, under site.amendments; else it is the charter of another "
            "federation"
        )
    if rule.name != config.site.name:
        raise ConfigError(f"site.name is {config.site.name!r}, but the charter calls this key {rule.name!r}")
    _check_columns(config, charter)
    architecture = architecture_of(charter)
    site = Site(config, identity, charter, constitution, rule, architecture, trunk_layout(architecture))
    _check_mode(site)
    return site


def _check_mode(site: Site) -> None:
    config, charter = site.config, site.charter
    if site.mode == "ledger":
        if config.network.neighbours:
            raise ConfigError(
                "network.neighbours belongs to averaging mode pushsum; this charter's mode is ledger, in which entries "
                "reach every site, also through others: remove it"
            )
        return
    for name in config.network.neighbours:
        if charter.site_named(name).site_key == site.identity.key:
            raise ConfigError(f"network.neighbours names {name!r}, which is this site itself: remove it")
    if site.max_payload_bytes > MAX_SHARE_BYTES:
        raise ConfigError(
            f"the charter's trunk has {site.layout.size:,} values, too many for averaging mode pushsum, where a share "
            f"has at most {MAX_SHARE_BYTES:,} bytes: choose a smaller trunk or mode ledger"
        )


def _amended(charter: Charter, files: Iterable[Path]) -> Constitution:
    constitution = Constitution(charter)
    for path in files:
        text = read_text(path, "ask the consortium for the amendments of the charter")
        try:
            constitution = constitution.followed_by(AmendmentDocument.parse(text, str(path)))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return constitution


def architecture_of(charter: Charter) -> Architecture:
    """The networks a charter describes."""
    return Architecture(
        inputs=features_of(charter).width,
        hidden=charter.model.hidden,
        endpoints=tuple(_endpoint(rule) for rule in charter.assay_endpoints),
        dropout=charter.model.dropout,
        calibrate=charter.model.calibrate,
        members=charter.model.members,
        trunk=charter.model.trunk,
        descriptors=len(descriptor_constants()) if charter.model.trunk == "dmpnn" else 0,
        message_width=charter.model.message_width,
        depth=charter.model.depth,
    )


def features_of(charter: Charter) -> FeaturePolicy:
    """How structures are described under a charter."""
    rule = charter.features
    return FeaturePolicy(rule.radius, rule.bits, rule.stereo, rule.tautomers)


def codec_of(charter: Charter) -> CodecParameters:
    """How deltas are compressed under a charter."""
    rule = charter.ledger
    return CodecParameters(chunk=rule.chunk, kept=rule.kept, bits=rule.bits)


def trainer_plan(site: Site, reproducible_seed: int) -> TrainerPlan:
    """What the trainer is told. `resume_file` and `trunk_memory` are filled in at each start."""
    charter, config = site.charter, site.config
    rule = charter.training
    return TrainerPlan(
        architecture=site.architecture,
        features=features_of(charter),
        model_seed=charter.model.seed,
        source=measurement_source(config, config.data.path),
        test_source=measurement_source(config, config.data.test) if config.data.test else None,
        split=SplitPolicy(charter.split.fold_key, charter.split.valid_fraction, charter.split.test_fraction),
        training=TrainingSettings(
            batch_size=rule.batch_size,
            learning_rate=rule.learning_rate,
            weight_decay=rule.weight_decay,
            seed=reproducible_seed,
            entry_limit=charter.averaging.entry_limit,
            steps_per_entry=charter.averaging.steps_per_entry,
        ),
        codec=codec_of(charter) if site.mode == "ledger" else None,
        layout_hash=site.layout.hash,
        reference_hash=charter.features.reference_hash,
        trunk_memory="",
        state_dir=config.site.state_dir,
        threads=config.resources.threads,
        device=config.resources.device,
        featurise_processes=config.resources.featurise_processes,
        nice=config.resources.nice,
        require_approval=config.data.require_approval,
        labels={
            "federation": charter.federation,
            "charter_id": charter.id.hex(),
            "site": site.rule.name,
            "averaging": site.mode,
        },
    )


def open_ledger(site: Site, store: Store) -> Ledger:
    """The ledger as the store holds it.

    Raises:
        ConfigError: a stored entry does not stand; the store belongs to another charter or was altered.
    """
    ledger = fresh_ledger(site)
    snapshot = store.snapshot()
    if snapshot is not None:
        problem = snapshot.problem()
        if snapshot.charter_id != site.charter.id or len(snapshot.accumulator) != site.layout.size:
            problem = "it belongs to another charter"
        if problem:
            raise ConfigError(
                f"{store.path}: the snapshot it stands on cannot be used: {problem}. "
                "Move the state directory away and start again: the others will send the ledger"
            )
        ledger.adopt(snapshot)
    ledger.amend(stored_constitution(site, store))
    for author, (number, reason) in store.log_ends().items():
        evidence = tuple(body for at, kind, body in store.evidence(author) if (at, kind) == (number, "proof"))
        ledger.convict(FaultProof(author, number, reason, evidence))
    replay(ledger, _stored_entries(store), str(store.path))
    return ledger


def _stored_entries(store: Store) -> Iterator[Entry]:
    for stored in store.load_entries("arrival"):
        try:
            yield decode(stored.encoded)
        except WireError as error:
            where = f"{store.path}: stored entry {stored.number} of {short(stored.author)}"
            raise ConfigError(f"{where} does not decode: {error}; {REPLACE_STORE}") from error


def fresh_ledger(site: Site) -> Ledger:
    """A ledger without entries: the charter's initial trunk."""
    trunk = initial_trunk(site.layout, site.charter.model.seed)
    rules = Rules.of(site.charter, site.codec.codec_id, trunk)
    return Ledger(Accumulator.from_trunk(trunk), site.codec, rules)


def stored_constitution(site: Site, store: Store) -> Constitution:
    """What the site's files say, continued by what the store holds.

    Raises:
        ConfigError: the two contradict each other.
    """
    constitution = site.constitution
    stored = store.amendments()
    # By number: a site that an amendment added has that one and those before it in its files only.
    while (encoded := stored.get(constitution.number + 1)) is not None:
        constitution = constitution.followed_by(AmendmentDocument.decode(encoded))
    return constitution


def genesis(site: Site) -> Snapshot:
    """The charter's initial trunk, before the first entry."""
    trunk = initial_trunk(site.layout, site.charter.model.seed)
    return empty_snapshot(site.charter.id, Accumulator.from_trunk(trunk))


def replay(ledger: Ledger, entries: Iterable[Entry], source: str) -> int:
    """Offer stored entries in their order of arrival; returns how many were applied.

    Raises:
        ConfigError: one does not stand.
    """
    count = 0
    for entry in entries:
        outcome = ledger.offer(entry)
        if outcome.verdict is Verdict.REFUSED:
            reason = outcome.refusal.value if outcome.refusal else "it was refused"
            raise ConfigError(f"{source}: stored {entry} does not stand: {reason}; {REPLACE_STORE}")
        count += len(outcome.applied)
    return count


def _endpoint(rule: AssayEndpointRule) -> AssayEndpoint:
    return AssayEndpoint(**rule.model_dump())


def measurement_source(config: SiteConfig, path: Path) -> Source:
    """What ingest is told about a file of this site's."""
    data = config.data
    columns = {name: Column(**rule.model_dump()) for name, rule in data.columns.items()}
    embargo, time = EmbargoSource(**data.embargo.model_dump()), TimeSource(**data.time.model_dump())
    text = TextFormat(data.separator, data.decimal, data.encoding)
    if data.format == "tuner":
        assert data.structures is not None  # the settings' own check
        return TunerSource(path, data.structures, columns, data.assays, embargo, time, text)
    if data.format == "kmelloddy":
        return LongSource(path, columns, embargo, time, text)
    if data.format == "sdf":
        return SdfSource(path, columns, embargo, time, text)
    return WideSource(path, data.smiles_column, columns, embargo, time, text)


def _check_columns(config: SiteConfig, charter: Charter) -> None:
    known = [endpoint.name for endpoint in charter.assay_endpoints]
    for name in config.data.columns:
        if name not in known:
            raise ConfigError(
                f"data.columns names assay endpoint {name!r}, which the charter does not have; "
                f"it has: {', '.join(known)}"
            )
