"""What a virtual site is made of before it runs: keys, charter, settings, and the folder that is its disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.averaging import LedgerRule, Mode, PushSumRule
from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.delta import CodecParameters
from kmel_p2p.delta.layout import Layout, TensorSpec
from kmel_p2p.site.config import DataSection, LedgerSection, NetworkSection, SiteConfig, SiteSection
from kmel_p2p.site.site import Site
from tests.testbed.ledger.toy import toy_identities
from tests.testbed.membership.federation import address_of

LAYOUT = Layout([TensorSpec("layer.weight", (12, 4), 0.5), TensorSpec("layer.bias", (12,), 0.1)])
"""Small: what is tried here does not depend on what is learned."""
PARAMETERS = CodecParameters(chunk=16, kept=4, bits=2)
STEPS_PER_ENTRY = 10
RETAINED = 8
"""Few entries are kept, so that compaction, snapshots and late faults happen within a schedule."""


@dataclass(frozen=True, slots=True)
class World:
    """A charter, and the identities of everybody who may ever take part.

    Attributes:
        charter: its founders are the first of `identities`; the others may be added by amendments.
        identities: by index of the site.
        ledger: what every site sets about its entries.
    """

    charter: Charter
    identities: Sequence[Identity]
    ledger: LedgerSection = field(default_factory=LedgerSection)

    def rule(self, index: int) -> SiteRule:
        """The roster's line of a site."""
        key = self.identities[index].key
        return SiteRule(name=f"site{index}", key=key.hex(), addresses=(address_of(index),))


def make_world(mode: Mode, founders: int, spares: int, entry_limit: int, epochs: bool = False) -> World:
    """A world of so many founders, and of sites that are not on the roster at first."""
    identities = toy_identities(founders + spares)
    averaging: LedgerRule | PushSumRule
    if mode == "ledger":
        averaging = LedgerRule(
            steps_per_entry=STEPS_PER_ENTRY,
            entry_limit=entry_limit,
            chunk=PARAMETERS.chunk,
            kept=PARAMETERS.kept,
            bits=cast(Any, PARAMETERS.bits),
            retain_entries=RETAINED,
            suspension_quorum="majority",
            epochs=epochs,
        )
    else:
        averaging = PushSumRule(steps_per_entry=STEPS_PER_ENTRY, entry_limit=entry_limit)
    sites = tuple(
        SiteRule(name=f"site{index}", key=who.key.hex(), addresses=(address_of(index),))
        for index, who in enumerate(identities[:founders])
    )
    charter = Charter(
        federation="virtual",
        sites=sites,
        assay_endpoints=(AssayEndpoint(name="toy"),),
        averaging=averaging,
        pace=PaceRule(max_lead=4),
    )
    return World(charter, identities)


class NoArchitecture:
    """Nothing is trained, whatever endpoints a campaign brings."""

    def changed(self, **values: Any) -> NoArchitecture:
        return self


def make_site(world: World, index: int, constitution: Constitution, folder: Path) -> Site:
    """A site as `site.loaded_site` makes it from its files; of those, only `folder` is there, its state directory.

    Its trunk has `LAYOUT` and is trained by nobody's torch, so there is no architecture.
    """
    identity = world.identities[index]
    rule = constitution.everyone[identity.key]
    config = SiteConfig(
        site=SiteSection(name=rule.name, state_dir=folder),
        network=NetworkSection(preset="lan"),
        ledger=world.ledger,
        data=DataSection.model_validate({"path": folder / "none.csv", "columns": {"toy": {"column": "toy"}}}),
    )
    return Site(config, identity, world.charter, constitution, rule, cast(Any, NoArchitecture()), LAYOUT)
