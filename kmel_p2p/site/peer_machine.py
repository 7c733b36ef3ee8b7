"""The protocol machine of a site: membership, and averaging in the charter's mode."""

from __future__ import annotations

import random
from typing import Any

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership import Membership, OwnDescription, RosterSite, preset
from kmel_p2p.core.membership.descriptor import NONCE_BYTES
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.types import Micros
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site
from kmel_p2p.version import VERSION


def make_peer(
    site: Site,
    history: Any,
    generation: int,
    addresses: tuple[str, ...],
    rng: random.Random,
    now: Micros,
    blocked: frozenset[SiteKey] = frozenset(),
) -> Peer:
    """The protocol machine of this site.

    Args:
        site: with the constitution that its store holds.
        history: what the averaging mode opened (`SiteMode.open`).
        generation: the site's count of starts.
        addresses: where others reach it.
        rng: a seeded generator for the whole machine.
        now: monotonic time.
        blocked: the sites that the operator has blocked: from the first moment on nobody dials them.
    """
    sites = {key: rule for key, rule in site.constitution.roster.items() if key not in blocked}
    sites[site.identity.key] = site.rule
    roster = {key: RosterSite(key, rule.name, rule.addresses) for key, rule in sorted(sites.items())}
    own = OwnDescription(
        generation=generation,
        addresses=addresses,
        outbound_only=site.config.network.outbound_only,
        software=f"kmel-p2p {VERSION}",
        nonce=rng.randbytes(NONCE_BYTES),
    )
    settings = preset(site.config.network.preset)
    membership = Membership(site.identity, site.charter.id, roster, own, settings, rng, now)
    averaging = mode_of(site.charter).averaging(site, history, membership, rng, generation, now)
    return Peer(site.identity.key, membership, averaging, site.constitution, blocked, now)


def addresses_of(peer: Peer, site: Site, key: SiteKey) -> tuple[str, ...]:
    """Where a site says that it is reached, then where charter and amendments say so."""
    told = next((view.addresses for view in peer.membership.members() if view.key == key), ())
    rule = site.constitution.roster.get(key)
    return tuple(dict.fromkeys((*told, *(rule.addresses if rule else ()))))
