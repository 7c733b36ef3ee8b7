"""What an amendment changes, in words."""

from __future__ import annotations

from kmel_p2p.agreement.amendment import Amendment


def changes_in_words(amendment: Amendment) -> list[str]:
    """One line for each change."""
    lines = [
        f"adds {site.name} (key {site.key[:16]}…, {', '.join(site.addresses) or 'no address: it only dials out'})"
        for site in amendment.add
    ]
    for rule in amendment.retire:
        taken = f"; those from {rule.retract_from} on are taken out of the model" if rule.retract_from else ""
        lines.append(f"retires {rule.name}: its entries up to {rule.last} count{taken}")
    lines += [
        f"gives {rule.name} a new key ({rule.key[:16]}…); entries under the former one count up to {rule.last}"
        for rule in amendment.rekey
    ]
    lines += [f"ends the suspension of {name}: its entries count again" for name in amendment.lift]
    if amendment.quorum:
        lines.append(f"asks for the signatures of {amendment.quorum} of the sites for later amendments")
    if amendment.entries:
        lines.append(f"lets each site publish {amendment.entries} entries in all")
    return lines
