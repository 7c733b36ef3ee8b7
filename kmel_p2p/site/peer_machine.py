"""The protocol machine of a site: membership, averaging in the charter's mode, and the board."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.board.board import Board
from kmel_p2p.core.board.notice import Notice
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
    notices: Iterable[Notice] = (),
    today: int = 0,
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
        notices: those of the board that the store kept.
        today: in days since 1970-01-01.
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
    # Of its own, so that whether anybody posts changes nothing else that this peer does.
    choices = random.Random(f"board {site.identity.key.hex()} {generation}")
    board = Board(
        site.identity.key,
        site.charter.id,
        membership.alive,
        frozenset(site.constitution.roster),
        choices,
        notices,
        today,
        now,
    )
    return Peer(site.identity.key, membership, averaging, board, site.constitution, blocked, now)


def addresses_of(peer: Peer, site: Site, key: SiteKey) -> tuple[str, ...]:
    """Where a site says that it is reached, then where charter and amendments say so."""
    told = next((view.addresses for view in peer.membership.members() if view.key == key), ())
    rule = site.constitution.roster.get(key)
    return tuple(dict.fromkeys((*told, *(rule.addresses if rule else ()))))
