"""The campaigns that a schedule opens: which entries, settings and sites, drawn from the happening alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tests.testbed.peers.peer_site import PeerSite

SETTINGS = {"averaging.weight_cap": 1.5, "averaging.norm_cap": 1.25, "averaging.steps_per_entry": 5}
"""Tighter caps, by which entries under an older amendment are not judged."""


def next_campaign(site: PeerSite, drawn: int, sits_out: Collection[int] = ()) -> Mapping[str, Any]:
    """The next campaign as a site would draft it, after what it holds.

    Args:
        site: one that is on.
        drawn: decides entries and settings.
        sits_out: sites by index that have no part in it; nobody, where that would leave less than two.
    """
    assert site.life is not None, "the caller has looked"
    constitution, vector = site.site.constitution, site.life.peer.averaging.vector
    names = {rule.name for rule in constitution.roster.values()}
    out = {site.world.rule(index).name for index in sits_out} & names
    return {
        "number": constitution.campaign.number + 1,
        "entries": 4 + drawn,
        "after": {rule.name: vector.get(key, 0) for key, rule in constitution.roster.items()},
        "settings": SETTINGS if drawn % 2 else {},
        "residual": "dropped" if drawn % 2 else "kept",
        "sits_out": tuple(sorted(out)) if len(names - out) > 1 else (),
    }
