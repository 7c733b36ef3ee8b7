"""What a site is by its files, once they were read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.start_file import start_file_of, started_trunk
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.state.overruled import overruled_amendments
from kmel_p2p.site.state.store import STORE_NAME, Store


@dataclass(frozen=True)
class Site:
    """Made by `loaded_site.load_site`."""

    config: SiteConfig
    identity: Identity
    charter: Charter
    constitution: Constitution
    """The charter with the amendments that the site's files and its store know of."""
    rule: SiteRule
    architecture: Architecture
    """With the assay endpoints that the constitution names."""
    layout: Layout

    @property
    def mode(self) -> Mode:
        """The charter's averaging mode."""
        return self.charter.averaging.mode

    @property
    def assay_endpoints(self) -> AssayEndpoints:
        """Of the newest campaign."""
        return self.constitution.campaign.assay_endpoints

    @property
    def start_file(self) -> Path | None:
        """This site's copy of the file that the charter's trunk starts from."""
        return start_file_of(self.charter.model, self.config.site.start_file, self.config.site.state_dir)

    def amended(self, constitution: Constitution) -> Site:
        """This site under another constitution of the same charter."""
        endpoints = constitution.campaign.assay_endpoints.every
        return replace(self, constitution=constitution, architecture=self.architecture.changed(endpoints=endpoints))

    def initial_trunk(self) -> NDArray[np.float32]:
        """The trunk before the first entry, float32[layout.size]; read or drawn anew at each call.

        Raises:
            ConfigError: the charter's start file is missing here, or another.
        """
        return started_trunk(self.charter.model, self.layout, self.start_file)

    @property
    def names(self) -> dict[SiteKey, str]:
        """Site names by key, for everything people read."""
        return names_of(self.constitution)


def names_of(constitution: Constitution) -> dict[SiteKey, str]:
    """Site names by key, each once: a key that its site has given up is told apart from the one it has now."""
    current = {rule.name for rule in constitution.roster.values()}
    names, given = {}, set(current)
    for key, rule in constitution.everyone.items():
        plain = key in constitution.roster or rule.name not in given
        names[key] = rule.name if plain else f"{rule.name} (former key {key.hex()[:8]})"
        given.add(names[key])
    return names


def stored_constitution(site: Site, store: Store) -> Constitution:
    """What the site's files say, continued by what the store holds, and without what was overruled.

    Raises:
        ConfigError: the two contradict each other.
    """
    return _continued(site.constitution, store)


def kept_constitution(constitution: Constitution, state_dir: Path) -> Constitution:
    """The same for commands that find the store closed or in another process's hands; it may be missing, too.

    Args:
        constitution: what the site's files say.

    Raises:
        ConfigError: the store cannot be read, or the two contradict each other.
    """
    if not (state_dir / STORE_NAME).exists():
        return constitution
    store = Store(state_dir / STORE_NAME, read_only=True)
    try:
        return _continued(constitution, store)
    finally:
        store.close()


def _continued(constitution: Constitution, store: Store) -> Constitution:
    stored = store.amendments()
    overruled = overruled_amendments(store)
    if overruled:
        constitution = Constitution(constitution.genesis, _still_listed(constitution, stored), overruled)
    # By number: a site that an amendment added has that one and those before it in its files only.
    while (encoded := stored.get(constitution.number + 1)) is not None:
        constitution = constitution.followed_by(AmendmentDocument.decode(encoded))
    return constitution


def _still_listed(listed: Constitution, stored: Mapping[int, bytes]) -> tuple[AmendmentDocument, ...]:
    """The amendments of the site's files up to the first in whose place the store has another one."""
    documents = []
    for document in listed.documents:
        encoded = stored.get(document.amendment.number)
        if encoded is not None and AmendmentDocument.decode(encoded).amendment.hash != document.amendment.hash:
            break
        documents.append(document)
    return tuple(documents)
