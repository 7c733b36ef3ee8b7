"""From a site's files to its parts: charter in force, layout, codec, ledger, membership, trainer plan.

Everything that can be wrong with the local files is found here, before a socket is opened.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.package_files import check_installed
from kmel_p2p.learn.worker.plan import TrackingPlan, TrainerPlan, TrainingSettings
from kmel_p2p.site.config import DataSection, SiteConfig, read_text
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site, kept_constitution

NO_CHARTER = "answer an invitation with kmel-peer join, or found a federation with kmel-peer invite"

ALIKE = 0.7
"""Names this similar (`difflib`) may mean the same."""

MAX_NAMES = 2000
"""Characters of tensor names in a line of the egress log."""


def load_site(config: SiteConfig) -> Site:
    """Read key and charter and check that they belong together.

    Raises:
        ConfigError: names the file and what to do.
    """
    identity = load_key(config.site.key_file)
    source = str(config.site.charter)
    text = read_text(
        config.site.charter, "answer an invitation with kmel-peer join, or found a federation with kmel-peer invite"
    )
    charter = CharterDocument.parse(text, source).require_in_force(source)
    architecture = architecture_of(charter)
    layout = trunk_layout(architecture)
    mode_of(charter).check(config, charter, identity.key, layout)
    check_noise(charter)
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
    site = Site(config, identity, charter, constitution, rule, architecture, layout).amended(constitution)
    if not site.assay_endpoints.knows(config.data.columns):
        check_columns(config.data, kept_constitution(constitution, config.site.state_dir).campaign.assay_endpoints)
    return site


def load_amended_site(config: SiteConfig) -> Site:
    """`load_site` with the amendments that the store knows, too, for commands.

    Raises:
        ConfigError: names the file and what to do.
    """
    site = load_site(config)
    return site.amended(kept_constitution(site.constitution, config.site.state_dir))


def assay_endpoints_of(config: SiteConfig, charter: Charter) -> AssayEndpoints:
    """Those of the newest campaign that files and store know of. The charter need not be in force yet.

    Raises:
        ConfigError: an amendment does not fit, or the store cannot be read.
    """
    constitution = _amended(charter, config.site.amendments)
    return kept_constitution(constitution, config.site.state_dir).campaign.assay_endpoints


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
        **dict(charter.model),
        inputs=charter.features.width,
        endpoints=charter.assay_endpoints,
        descriptors=len(descriptor_constants()),
    )


def check_noise(charter: Charter) -> None:
    """Whether the charter's trunk can bear the noise that its privacy budget asks for, where it has one.

    Raises:
        ConfigError: it cannot.
    """
    plan = mode_of(charter).noise(charter)
    if plan is not None:
        from kmel_p2p.learn.privacy.grid import planned

        planned(plan, trunk_layout(architecture_of(charter)).size)


def require_trunk(site: Site) -> None:
    """Whether what brings the charter's trunk is here as agreed: the package, where one does, whose files are read and
    not run, and the file that it starts from.

    Raises:
        ConfigError: it is not; says what to install or to get.
    """
    require_package(site)
    if site.charter.model.start or site.start_file is not None:
        site.initial_trunk()


def require_package(site: Site) -> None:
    """Whether the package that brings the charter's trunk, where one does, is installed as agreed.

    Raises:
        ConfigError: it is not; says what to install.
    """
    model = site.charter.model
    if model.package is not None:
        check_installed(model.package, model.trunk)


def require_trackers(config: SiteConfig) -> None:
    """Whether the packages of `[tracking]` are installed; nothing of them is imported.

    Raises:
        ConfigError: they are not.
    """
    asked = {"tensorboard": config.tracking.tensorboard, "mlflow": config.tracking.mlflow}
    for name, where in asked.items():
        if where and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.{name} needs the package {name}: pip install 'kmel-p2p[tracking]', or remove the key"
            )


def needs_of(charter: Charter, sites: int) -> list[str]:
    """What a run of this charter takes at each of so many sites, in words; the mode may have nothing to say."""
    return mode_of(charter).needs(charter, trunk_layout(architecture_of(charter)), sites)


def trainer_plan(site: Site, reproducible_seed: int) -> TrainerPlan:
    """What the trainer is told. `resume_file` and `trunk_memory` are filled in at each start.

    Raises:
        ConfigError: a package of `[tracking]` is not installed.
    """
    charter, config = site.charter, site.config
    require_trackers(config)
    data = trained_data(config.data, site.assay_endpoints)
    return TrainerPlan(
        architecture=site.architecture,
        features=charter.features,
        model_seed=charter.model.seed,
        start_file=site.start_file,
        source=data,
        test_source=data.test_source,
        split=charter.split,
        training=TrainingSettings(
            **dict(charter.training),
            seed=reproducible_seed,
            entry_limit=charter.averaging.entry_limit,
            steps_per_entry=charter.averaging.steps_per_entry,
            test_in_rounds=config.data.test_in_rounds,
        ),
        codec=mode_of(charter).codec(charter),
        noise=mode_of(charter).noise(charter),
        layout_hash=site.layout.hash,
        reference_hash=charter.features.reference_hash,
        trunk_memory="",
        state_dir=config.site.state_dir,
        structure_cache=config.data.structure_cache,
        threads=config.resources.allowed_threads,
        device=config.resources.device,
        featurise_processes=config.resources.allowed_featurise_processes,
        processes=config.resources.processes,
        nodes=config.resources.nodes,
        rendezvous=config.resources.rendezvous,
        nice=config.resources.nice,
        require_approval=config.data.require_approval,
        versions=config.predictions.versions,
        graph_networks=config.predictions.graph_networks,
        added_endpoints=site.assay_endpoints.added,
        retired=dict(site.assay_endpoints.retired),
        tracking=TrackingPlan(**dict(config.tracking)),
        labels={
            "federation": charter.federation,
            "charter_id": charter.id.hex(),
            "site": site.rule.name,
            "averaging": site.mode,
        },
    )


def describe_tensors(layout: Layout) -> str:
    """What an entry or a share is made from, for the egress log: names of all tensors, cut where they are many."""
    names = ", ".join(spec.name for spec in layout.specs)
    text = names if len(names) <= MAX_NAMES else f"{names[:MAX_NAMES]}... ({len(layout.specs)} tensors)"
    return f"{text} (layout {layout.hash.hex()[:16]})"


def own_seed(site: Site) -> int:
    """Of this site's batches, dropout and private heads."""
    return int.from_bytes(site.identity.key[:4], "big")


def trained_data(data: DataSection, endpoints: AssayEndpoints, *, retired: bool = False) -> DataSection:
    """The settings of the data with the columns of assay endpoints that are trained now, which may be none.

    Other names are of what a campaign is to add, or of what an amendment had added that gave way to another.

    Args:
        retired: whether the columns of retired ones stay, too.
    """
    current = {endpoint.name for endpoint in (endpoints.every if retired else endpoints.current)}
    columns = {name: column for name, column in data.columns.items() if name in current}
    return data.model_copy(update={"columns": columns})


def check_columns(data: DataSection, endpoints: AssayEndpoints) -> list[str]:
    """Whether columns are mapped to assay endpoints that there are, retired ones included.

    A site names the columns of what a campaign is to add before the campaign is in force: other names are left alone,
    unless they look like a slip.

    Returns:
        the names that are none yet, for people to be told.

    Raises:
        ConfigError: a name is nearly that of an assay endpoint without a column, or there is no other name.
    """
    known = endpoints.names
    unknown = [name for name in data.columns if name not in known]
    left = {name.lower(): name for name in known if name not in data.columns}
    for name in unknown:
        near = difflib.get_close_matches(name.lower(), left, n=1, cutoff=ALIKE)
        if near or len(unknown) == len(data.columns):
            hint = f"did you mean {left[near[0]]!r}?" if near else f"there are: {', '.join(known)}"
            raise ConfigError(
                f"data.columns names assay endpoint {name!r}, which neither the charter nor a campaign that is in "
                f"force here has; {hint}"
            )
    return unknown
