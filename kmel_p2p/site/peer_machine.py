"""The protocol machine of a site: membership, and averaging in the charter's mode from what the store holds."""

from __future__ import annotations

import os
import random
from typing import TypeAlias

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.ledger.averaging import LedgerAveraging, LedgerSettings
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.membership import Membership, OwnDescription, RosterSite, preset
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings
from kmel_p2p.core.pushsum.standing import LIFE_BYTES
from kmel_p2p.core.pushsum.state import State, restore
from kmel_p2p.core.rounds import Averaging
from kmel_p2p.core.types import Micros
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.site.loaded_site import Site, open_ledger
from kmel_p2p.site.state.store import Store
from kmel_p2p.version import VERSION

History: TypeAlias = Ledger | State
"""What a store holds of a run, by mode."""

OTHER_RUN = (
    "Give this site another state_dir; or move this one away, if that run is over: what it holds cannot be continued"
)


def open_history(site: Site, store: Store) -> History:
    """What averaging goes on from; a first start is recorded.

    Raises:
        ConfigError: the store belongs to another charter or was altered.
    """
    if site.mode == "pushsum":
        return open_state(site, store)
    if store.pushsum.load() is not None:
        raise ConfigError(f"{store.path}: holds a run in mode pushsum; this charter's mode is ledger. {OTHER_RUN}")
    return open_ledger(site, store)


def open_state(site: Site, store: Store) -> State:
    """The state of mode pushsum.

    Raises:
        ConfigError: as `open_history`.
    """
    if store.vector():
        raise ConfigError(f"{store.path}: holds a run in mode ledger; this charter's mode is pushsum. {OTHER_RUN}")
    base = initial_trunk(site.layout, site.charter.model.seed)
    stored = store.pushsum.load()
    if stored is None:
        # The name of this store: a replaced one is told from it, and what was owed to the old one is taken back.
        state = State.fresh(base, os.urandom(LIFE_BYTES))
        store.pushsum.put_state(site.charter.id, state.index, state.encode(), None)
        return state
    if stored.charter_id != site.charter.id:
        raise ConfigError(
            f"{store.path}: holds a run under charter {stored.charter_id.hex()[:16]}; this site's charter is "
            f"{site.charter.id.hex()[:16]}. {OTHER_RUN}"
        )
    return restore(base, stored.state, stored.journal, str(store.path))


def own_state_file(site: Site, store: Store) -> str | None:
    """Name of the trainer state that belongs to the newest own round stored."""
    return store.pushsum.own_state_file() if site.mode == "pushsum" else store.own_state_file(site.identity.key)


def make_peer(
    site: Site,
    history: History,
    generation: int,
    addresses: tuple[str, ...],
    rng: random.Random,
    now: Micros,
) -> Peer:
    """The protocol machine of this site."""
    constitution = site.constitution
    if isinstance(history, Ledger) and history.constitution is not None:
        constitution = history.constitution
    sites = {**constitution.roster, site.identity.key: site.rule}
    roster = {key: RosterSite(key, rule.name, rule.addresses) for key, rule in sorted(sites.items())}
    own = OwnDescription(
        generation=generation,
        addresses=addresses,
        outbound_only=site.config.network.outbound_only,
        software=f"kmel-p2p {VERSION}",
    )
    settings = preset(site.config.network.preset)
    membership = Membership(site.identity, site.charter.id, roster, own, settings, rng, now)
    averaging = make_averaging(site, history, membership, generation, rng, now)
    return Peer(site.identity.key, membership, averaging)


def make_averaging(
    site: Site, history: History, membership: Membership, generation: int, rng: random.Random, now: Micros
) -> Averaging:
    """The charter's averaging mode. `generation`: the site's count of starts."""
    config, charter, hold = site.config, site.charter, site.config.ledger.hold
    if isinstance(history, Ledger):
        return LedgerAveraging(
            site.identity,
            charter,
            history,
            membership,
            rng,
            LedgerSettings(hold=hold),
            site.max_payload_bytes,
            now,
        )
    neighbours = frozenset(charter.site_named(name).site_key for name in config.network.neighbours)
    return PushSumAveraging(
        site.identity,
        PushSumRules.of(charter),
        membership,
        rng,
        PushSumSettings(hold=hold, neighbours=neighbours),
        history,
        generation,
        now,
    )
