"""Tells the operator who does harm, who says so, what follows from it and what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kmel_p2p.agreement.endpoint import endpoint_name
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event
from kmel_p2p.core.ledger.events import AuthorSuspended, HarmGone, HarmSeen, SuspensionLifted, VoteRefused
from kmel_p2p.core.ledger.harm.vote import NO_EVIDENCE
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.site.modes.mode import Notes

WHAT_TO_DO = (
    "Ask its operator. Enough votes take its entries out by themselves if the charter has a suspension_quorum; "
    "kmel-peer block {name} stops listening to it here, kmel-peer amendment draft --retire {name} takes it out for good"
)


def report_harm(event: Event, notes: Notes) -> bool:
    """Note an event about harm; whether it was one."""
    activity, name = notes.activity, notes.name
    match event:
        case HarmSeen(author=author, first=first, sites=sites):
            text = harm_text(event, notes)
            activity.alarm(f"harm of {name(author)}", text)
            changes = {notes.endpoint(place): round(change, 3) for place, change in event.changes.items()}
            notes.warn("harm seen", remote=name(author), first=first, changes=changes, sites=_names(sites, notes))
        case HarmGone(author=author):
            activity.clear(f"harm of {name(author)}")
            notes.say("harm gone", remote=name(author))
        case AuthorSuspended(author=author, first=first, sites=sites):
            who = ", ".join(_names(sites, notes))
            text = (
                f"site {name(author)} is suspended: {who} voted that its entries from {first} on do harm, and they no "
                f"longer count. Decide by an amendment: kmel-peer amendment draft --lift {name(author)} puts them "
                f"back, --retire {name(author)} takes the site out"
            )
            activity.alarm(f"suspended {name(author)}", text)
            notes.warn("author suspended", remote=name(author), first=first, sites=_names(sites, notes))
        case SuspensionLifted(author=author):
            activity.clear(f"suspended {name(author)}")
            notes.say("suspension lifted", remote=name(author))
        case VoteRefused(sender=sender, reason=reason):
            activity.refused += 1
            activity.alarm(
                f"refused from {name(sender)}", f"a vote handed over by {name(sender)} was refused: {reason}"
            )
            notes.warn("vote refused", sender=name(sender), reason=reason)
        case _:
            return False
    return True


def harm_text(event: HarmSeen, notes: Notes) -> str:
    """The alarm in words."""
    name = notes.name(event.author)
    saying = f"{len(event.sites)} of {event.others} sites say so"
    if not event.changes and event.here:
        return f"entries of {name} from {event.first} on made your loss larger as they came: {saying}. {_advice(name)}"
    if not event.changes:
        return f"entries of {name} from {event.first} on do harm: {saying}; this site sees none. {_advice(name)}"
    seen = ", ".join(f"{100 * change:.0f} % more on your {notes.endpoint(place)} compounds"
                     for place, change in sorted(event.changes.items()))  # fmt: skip
    return f"since entry {event.first} of {name} the trunk errs {seen}; {saying}. {_advice(name)}"


def harm_facts(ledger: Ledger, names: Mapping[SiteKey, str], endpoints: Sequence[str]) -> dict[str, Any]:
    """What votes say, for the status document; authors and voters by name.

    Returns:
        `suspended`: author -> first entry that does not count, and the sites whose votes they are. `harm`: author ->
        voter -> the entries that it would have taken out, and the size of the harm (1 to 3) by assay endpoint.
    """

    def called(key: SiteKey) -> str:
        return names.get(key, key.hex())

    harm: dict[str, dict[str, Any]] = {}
    for vote in ledger.votes:
        sizes = {place: kind - NO_EVIDENCE for place, kind in vote.classes.items() if kind > NO_EVIDENCE}
        if vote.against and vote.voter in ledger.rules.current:
            harm.setdefault(called(vote.author), {})[called(vote.voter)] = {
                "first": vote.first,
                "number": vote.number,
                "sizes": {endpoint_name(endpoints, place): size for place, size in sizes.items()},
            }
    suspended = {
        called(author): {"first": first, "sites": [called(voter) for voter in ledger.votes.against(author)]}
        for author, first in ledger.suspended.items()
    }
    return {"suspended": suspended, "harm": harm}


def harm_summary(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Rows of the status in words; none where nobody says anything."""
    rows = [
        ("suspended", f"{name} from entry {found['first']} on, by the votes of {' '.join(found['sites'])}")
        for name, found in facts["suspended"].items()
    ]
    rows += [
        ("harm", f"by entries of {name}, say {' '.join(voters)}")
        for name, voters in facts["harm"].items()
        if name not in facts["suspended"]
    ]
    return tuple(rows)


def _advice(name: str) -> str:
    return WHAT_TO_DO.format(name=name)


def _names(sites: Iterable[SiteKey], notes: Notes) -> list[str]:
    return [notes.name(site) for site in sites]
