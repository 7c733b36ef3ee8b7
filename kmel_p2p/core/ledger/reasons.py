"""Why this site does not train now, in words for its operator; what only one place says stands there."""

from __future__ import annotations

COMES_AFTER_THE_END = (
    "the run was over before this site came: it takes the trunk as it is. The sites may extend the run by an amendment "
    "(kmel-peer amendment draft --entries N)"
)
"""Trained on top by one site alone, the trunk would be that site's more than anybody's."""

NOBODY_ELSE = (
    "no other site publishes anything in this run, and the charter lets one site run ahead only so far. An amendment "
    "may extend the run, or open another campaign"
)
"""A site that waited for others, all of which are done, would keep all from the end."""

STOOD_STILL = "this machine stood still before the entry was sent, and a copy of it may have sent another one"

NOT_OURS = "entries of this site came in that this process did not make, and a copy of it may have made this one, too"

LOST = "others hold entries of this site that its store lost; fetching them"

SUSPENDED = "suspended by the votes of these sites; an amendment lifts or confirms it"

STALE = (
    "an amendment or votes change whether entries count that are compacted here; fetching a snapshot. If no site has "
    "one, an amendment that lifts the suspension, or retracts the same entries, ends this"
)

ENDED = "this site's log was ended by the others; its key must be replaced by an amendment"

LEFT_OUT = (
    "the amendment that this site takes part by was overruled by another one with its number, which does not list it: "
    "ask the consortium for a new one"
)

OUTVOTED = "most other sites attest another sum of the same entries; fetching the ledger again"

SNAPSHOT, CATCHING_UP, OWN_LOG = "snapshot", "catching up", "own log"
"""Kinds of waits."""
FETCHING = (SNAPSHOT, CATCHING_UP)
LEARNING = (*FETCHING, OWN_LOG)
"""Those of a site that fetches or hears what the others hold: nobody's pace is to depend on it."""
