"""Tells the operator what happens to a ledger: log lines, counts, alarms."""

from __future__ import annotations

from kmel_p2p.core.effects import Event
from kmel_p2p.core.ledger.events import (
    AmendmentConflict,
    AmendmentOverruled,
    AmendmentRefused,
    AmendmentsAgree,
    Divergence,
    EntriesApplied,
    EntriesCompacted,
    EntryPublished,
    EntryRefused,
    EpochBegun,
    HeadShown,
    HeadUnproved,
    LateFault,
    LedgerOutvoted,
    LedgerRestored,
    LimitExceeded,
    LogEnded,
    NotPublishedAgain,
    SizeImplausible,
    SnapshotAdopted,
    SnapshotProgress,
    SnapshotRefused,
    SumsAgree,
)
from kmel_p2p.core.ledger.log.epoch import BRANCHED
from kmel_p2p.site.modes.harm_report import report_harm
from kmel_p2p.site.modes.mode import Notes

GOES_ON = (
    ". If its disk was lost or put back, the log goes on by itself where the charter has epochs; else the site needs a "
    "new key (kmel-peer amendment draft)"
)


def report(event: Event, notes: Notes) -> bool:
    """Note an event of mode `ledger`; whether it was one."""
    activity, name = notes.activity, notes.name
    match event:
        case EntryPublished(number=number, entry_bytes=size, weight=weight):
            activity.published += 1
            activity.entry_bytes += size
            activity.published_at = activity.clock()
            notes.say("entry published", number=number, bytes=size, weight=round(weight / 2**16, 4))
        case EntriesApplied(entries=entries, sender=sender):
            activity.applied_at = activity.clock()
            heads = {name(author): number for author, number in entries}
            notes.say("entries applied", sender=name(sender), heads=heads)
        case EntryRefused(sender=sender, author=author, reason=reason):
            activity.refused += 1
            text = f"entry of {name(author)} handed over by {name(sender)} was refused: {reason}"
            activity.alarm(f"refused from {name(sender)}", text)
            notes.warn("entry refused", sender=name(sender), author=name(author), reason=reason)
        case LimitExceeded(site=site, number=number, most=most):
            text = (
                f"site {name(site)} has published {number} entries and may publish {most}. The end of the run does not "
                "wait for it; ask its operator. An amendment can retire it (kmel-peer amendment draft --retire)"
            )
            activity.alarm(f"beyond limit {name(site)}", text)
            notes.warn("beyond limit", remote=name(site), number=number, most=most)
        case HeadUnproved(site=site, author=author, number=number):
            text = (
                f"site {name(site)} says that the log of {name(author)} goes as far as entry {number} and cannot "
                "show it; its word counts for nothing there. Ask its operator"
            )
            activity.alarm(f"unproved head {name(site)}", text)
            notes.warn("head unproved", remote=name(site), author=name(author), number=number)
        case HeadShown(site=site):
            activity.clear(f"unproved head {name(site)}")
            notes.say("head shown", remote=name(site))
        case LogEnded(author=author, number=number, reason=reason, retracted=retracted):
            text = f"log of {name(author)} ends before entry {number}: {reason}{GOES_ON if reason in BRANCHED else ''}"
            activity.alarm(f"log ended {name(author)}", text)
            notes.warn("log ended", author=name(author), number=number, reason=reason, retracted=retracted)
        case EpochBegun(author=author, number=number, first=first, disowned=disowned):
            activity.clear(f"log ended {name(author)}")
            activity.clear(f"late fault {name(author)}")
            notes.warn(
                "log goes on after it had two branches", author=name(author), epoch=number, first=first, apart=disowned
            )
        case NotPublishedAgain(number=number, reason=reason):
            text = (
                f"what entry {number} held, made while this site's store lacked a part of its log or under an "
                f"amendment that was overruled, is lost: {reason}"
            )
            activity.alarm("not published again", text)
            notes.warn("not published again", number=number, reason=reason)
        case AmendmentRefused(sender=sender, reason=reason):
            activity.alarm(f"amendment from {name(sender)}", f"site {name(sender)}: {reason}")
            notes.warn("amendment refused", sender=name(sender), reason=reason)
        case AmendmentConflict(site=site, number=number):
            text = (
                f"site {name(site)} goes by another amendment {number} than this one, or by another before it: two "
                "amendments with one number were signed, and entries of the two sides do not count together until one "
                "gives way, which happens by itself unless most sites have gone by both. If this stays, compare "
                "kmel-peer amendment show at both, and have the consortium decide"
            )
            activity.alarm(f"amendments of {name(site)}", text)
            notes.warn("amendment conflict", remote=name(site), number=number)
        case AmendmentOverruled():
            _overruled(event, notes)
        case AmendmentsAgree(site=site):
            activity.clear(f"amendments of {name(site)}")
            notes.say("amendments agree", remote=name(site))
        case LateFault(author=author, number=number, reason=reason):
            text = (
                f"site {name(author)} broke the rules at entry {number}, found out too late to take it back: "
                f"{reason}; the consortium may retire it by an amendment"
            )
            activity.alarm(f"late fault {name(author)}", text)
            notes.warn("late fault", author=name(author), number=number, reason=reason)
        case SnapshotProgress(stage=stage):
            notes.say("snapshot", stage=stage)
        case SnapshotRefused(server=server, reason=reason):
            notes.warn("snapshot refused", server=name(server), reason=reason)
        case SnapshotAdopted(vector=vector):
            notes.say("snapshot taken over", heads={name(key): number for key, number in vector.items()})
        case EntriesCompacted(until=until):
            notes.say("entries compacted", until={name(key): number for key, number in until.items()})
        case Divergence(site=site):
            text = (
                f"site {name(site)} and this one sum the same entries to different trunks: one of the two "
                "ledgers is damaged; run kmel-peer ledger verify at both"
            )
            activity.alarm(f"divergence {name(site)}", text)
            notes.warn("divergence", remote=name(site), remedy=text)
        case SizeImplausible(site=site, size_class=said, implausible=implausible):
            if implausible:
                text = (
                    f"site {name(site)} says that it has about 2^{said} measurements; it weighs as many as its "
                    "entries could read. Ask its operator"
                )
                activity.alarm(f"size of {name(site)}", text)
                notes.warn("size implausible", remote=name(site), size_class=said)
            else:
                activity.clear(f"size of {name(site)}")
        case SumsAgree(site=site):
            activity.clear(f"divergence {name(site)}")
            notes.say("sums agree again", remote=name(site))
        case LedgerOutvoted(sites=sites):
            names = ", ".join(name(site) for site in sites)
            text = (
                f"{names} attest another sum of the same entries than this site holds, and they are the majority: "
                "this ledger is damaged. Nothing is published before it is fetched again, which happens by itself; "
                "look at this machine's disk and memory"
            )
            activity.alarm("ledger outvoted", text)
            notes.warn("ledger outvoted", sites=names)
        case LedgerRestored():
            activity.clear("ledger outvoted")
            notes.say("ledger restored")
        case _:
            return report_harm(event, notes)
    return True


def _overruled(event: AmendmentOverruled, notes: Notes) -> None:
    """One of two amendments with one number gave way."""
    number, gone = event.number, event.overruled.hex()[:16]
    text = f"two amendments {number} had reached a quorum, and {gone} was overruled"
    text += f" by {event.by.hex()[:16]}" if event.by else ""
    text += f"; both were signed by {', '.join(event.signed_both)}" if event.signed_both else ""
    if event.left_out:
        text += ". This site takes part by the overruled one alone and publishes no more: ask the consortium"
    else:
        text += (
            ". What sites had published under it they publish again, and sites that it alone had added no longer take "
            "part. Whoever wants what it said drafts it anew (kmel-peer amendment draft)"
        )
    notes.activity.alarm(f"amendment {number} overruled", text)
    notes.warn(
        "amendment overruled",
        number=number,
        overruled=gone,
        by=event.by.hex()[:16],
        signed_both=list(event.signed_both),
        stood_here=event.stood_here,
        left_out=event.left_out,
    )
