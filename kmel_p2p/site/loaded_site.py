"""From a site's files to its parts: charter in force, layout, codec, ledger, membership, trainer plan.

Everything that can be wrong with the local files is found here, before a socket is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import AssayEndpointRule, Charter, CharterDocument
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
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.agreement.split import SplitPolicy
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.worker.session import TrainerPlan, TrainingSettings
from kmel_p2p.site.config import SiteConfig, read_text
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site, features_of


def load_site(config: SiteConfig) -> Site:
    """Read key and charter and check that they belong together.

    Raises:
        ConfigError: names the file and what to do.
    """
    identity = load_key(config.site.key_file)
    source = str(config.site.charter)
    text = read_text(config.site.charter, "ask the consortium for it, or draft one with kmel-peer charter new")
    charter = CharterDocument.parse(text, source).require_in_force(source)
    architecture = architecture_of(charter)
    layout = trunk_layout(architecture)
    mode_of(charter).check(config, charter, identity.key, layout)
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
    return Site(config, identity, charter, constitution, rule, architecture, layout)


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
        descriptors=len(descriptor_constants()),
        message_width=charter.model.message_width,
        depth=charter.model.depth,
    )


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
        codec=mode_of(charter).codec(charter),
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
