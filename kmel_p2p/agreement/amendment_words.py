"""What an amendment changes, in words."""

from __future__ import annotations

from kmel_p2p.agreement.amendment import Amendment, Constitution
from kmel_p2p.agreement.campaign import CampaignRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.strict import plain_value


def changes_in_words(amendment: Amendment) -> list[str]:
    """One line for each change."""
    lines = [
        f"adds {site.name} (key {site.key[:16]}…, {', '.join(site.addresses) or 'no address: it only dials out'})"
        for site in amendment.add
    ]
    for rule in amendment.retire:
        taken = f"; those from {rule.retract_from} on are taken out of the model" if rule.retract_from else ""
        lines.append(f"retires {rule.name}: its entries up to {rule.last} count{taken}")
    for key in amendment.rekey:
        until = f", and it is let in until {key.until} or until the new one is in sight" if key.until else ""
        lines.append(
            f"gives {key.name} a new key ({key.key[:16]}…); entries up to {key.last} under the former count{until}"
        )
    lines += [f"ends the suspension of {name}: its entries count again" for name in amendment.lift]
    if amendment.quorum:
        lines.append(f"asks for the signatures of {amendment.quorum} of the sites for later amendments")
    if amendment.entries:
        lines.append(f"lets each site publish {amendment.entries} entries in all in the campaign that runs")
    return [*lines, *(_campaign_in_words(amendment.campaign) if amendment.campaign is not None else ())]


def left_in_words(constitution: Constitution, key: SiteKey) -> str:
    """Why a key is on the roster no longer, for whoever runs a peer with it."""
    if key in constitution.replaced:
        return (
            "an amendment gave this site another key: what runs here has the former one and publishes no more; stop "
            "it, or give it the new key"
        )
    return "this site was retired by an amendment: it publishes no more, and nobody lets it in; stop it"


def _campaign_in_words(rule: CampaignRule) -> list[str]:
    boundary = " ".join(f"{name}:{last}" for name, last in sorted(rule.after.items()))
    optimiser = "go on" if rule.optimiser == "kept" else "start afresh"
    residual = "goes into its entries" if rule.residual == "kept" else "is dropped"
    return [
        f"opens campaign {rule.number}: {rule.entries} entries of each site, from the trunk as it is",
        f"counts these to earlier campaigns: {boundary}",
        *(f"adds assay endpoint {_in_words(endpoint)}" for endpoint in rule.add_endpoints),
        *(f"retires assay endpoint {name}: it is trained no more" for name in rule.retire_endpoints),
        *(f"sets {name} to {plain_value(value)}" for name, value in sorted(rule.settings.items())),
        f"optimisers {optimiser}; what a site trained and did not publish {residual}",
        *(f"{name} sits it out" for name in sorted(rule.sits_out)),
    ]


def _in_words(endpoint: AssayEndpoint) -> str:
    """All that decides what its values mean."""
    if endpoint.kind == "classification":
        return f"{endpoint.name}: classes 0 and 1, {endpoint.head} head"
    low, high = endpoint.valid_range
    native = f" {endpoint.unit}" if endpoint.unit else ""
    return (
        f"{endpoint.name}: {endpoint.reported_unit or 'values without a unit'}, {low:g} to {high:g}{native}, centre "
        f"{endpoint.center:g}, scale {endpoint.scale:g}, {endpoint.head} head"
    )
