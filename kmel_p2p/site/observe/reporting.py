"""Turns what the protocol tells into log lines, counts, ages and alarms. One line per change, never per message."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.effects import Event
from kmel_p2p.core.ledger.events import (
    AmendmentRefused,
    Divergence,
    EntriesApplied,
    EntriesCompacted,
    EntryPublished,
    EntryRefused,
    LateFault,
    LogEnded,
    SnapshotAdopted,
    SnapshotProgress,
    SnapshotRefused,
)
from kmel_p2p.core.membership import events as member
from kmel_p2p.core.pushsum.events import MassReceived, MassReclaimed, MassSent, PushSumRefused, RoundCounted
from kmel_p2p.core.rounds import (
    CharterAmended,
    EntryHeld,
    PhaseChanged,
    RoundAbandoned,
    RoundOpened,
    RunComplete,
    Waiting,
)
from kmel_p2p.core.wire import ForeignCharterError
from kmel_p2p.net.driver import BadMessage
from kmel_p2p.net.links import (
    AuthRejected,
    DialFailed,
    Fault,
    LinkDown,
    LinkEvent,
    LinkUp,
    PeerMisbehaved,
    SendFailed,
    StrangerRefused,
)
from kmel_p2p.site.observe.activity import Activity

log = structlog.get_logger()


class Reporter:
    """Log and activity of one daemon. Tells subscribers of the control socket what it logs."""

    def __init__(
        self,
        activity: Activity,
        names: Callable[[], dict[SiteKey, str]],
        publish: Callable[[dict[str, object]], None],
    ) -> None:
        self._activity = activity
        self._names = names
        self._publish = publish

    def name(self, key: SiteKey | None) -> str:
        """A site's name, or the short form of a key that is on no roster."""
        if key is None:
            return "?"
        return self._names().get(key, short(key))

    def report(self, event: Event) -> None:
        """Note one event of the protocol."""
        activity = self._activity
        activity.events[type(event).__name__] += 1
        match event:
            case EntryPublished(number=number, entry_bytes=size, weight=weight):
                activity.published += 1
                activity.entry_bytes += size
                activity.published_at = activity.clock()
                self._say("entry published", number=number, bytes=size, weight=round(weight / 2**16, 4))
            case EntriesApplied(entries=entries, sender=sender):
                activity.applied_at = activity.clock()
                heads = {self.name(author): number for author, number in entries}
                self._say("entries applied", sender=self.name(sender), heads=heads)
            case EntryRefused(sender=sender, author=author, reason=reason):
                activity.refused += 1
                text = f"entry of {self.name(author)} handed over by {self.name(sender)} was refused: {reason}"
                activity.alarm(f"refused from {self.name(sender)}", text)
                self._warn("entry refused", sender=self.name(sender), author=self.name(author), reason=reason)
            case LogEnded(author=author, number=number, reason=reason, retracted=retracted):
                text = f"log of {self.name(author)} ends before entry {number}: {reason}"
                activity.alarm(f"log ended {self.name(author)}", text)
                self._warn("log ended", author=self.name(author), number=number, reason=reason, retracted=retracted)
            case CharterAmended(constitution=constitution):
                sites = [rule.name for rule in constitution.roster.values()]
                self._say("charter amended", amendment=constitution.number, sites=sorted(sites))
            case AmendmentRefused(sender=sender, reason=reason):
                activity.alarm(f"amendment from {self.name(sender)}", f"site {self.name(sender)}: {reason}")
                self._warn("amendment refused", sender=self.name(sender), reason=reason)
            case LateFault(author=author, number=number, reason=reason):
                text = (
                    f"site {self.name(author)} broke the rules at entry {number}, found out too late to take it back: "
                    f"{reason}; the consortium may retire it by an amendment"
                )
                activity.alarm(f"late fault {self.name(author)}", text)
                self._warn("late fault", author=self.name(author), number=number, reason=reason)
            case SnapshotProgress(stage=stage):
                self._say("snapshot", stage=stage)
            case SnapshotRefused(server=server, reason=reason):
                self._warn("snapshot refused", server=self.name(server), reason=reason)
            case SnapshotAdopted(vector=vector):
                self._say("snapshot taken over", heads={self.name(key): number for key, number in vector.items()})
            case EntriesCompacted(until=until):
                self._say("entries compacted", until={self.name(key): number for key, number in until.items()})
            case Divergence(site=site):
                text = (
                    f"site {self.name(site)} and this one sum the same entries to different trunks: one of the two "
                    "ledgers is damaged; run kmel-peer ledger verify at both"
                )
                activity.alarm(f"divergence {self.name(site)}", text)
                self._warn("divergence", remote=self.name(site), remedy=text)
            case RoundCounted(number=number, mass=mass):
                activity.published += 1
                activity.published_at = activity.clock()
                self._say("round counted", number=number, mass=mass)
            case MassSent(to=key, number=number, mass=mass, payload_bytes=size):
                activity.shares_sent += 1
                activity.entry_bytes += size
                self._say("share sent", to=self.name(key), number=number, mass=mass, bytes=size)
            case MassReceived(sender=sender, number=number, mass=mass, treatment=treatment):
                activity.shares_received += 1
                activity.applied_at = activity.clock()
                how = treatment.name.lower()
                self._say("share received", sender=self.name(sender), number=number, mass=mass, treatment=how)
            case MassReclaimed(to=key, number=number, mass=mass, reason=reason):
                text = f"share {number} for {self.name(key)} was taken back: {reason}"
                activity.alarm(f"share taken back {self.name(key)}", text)
                self._warn("share taken back", to=self.name(key), number=number, mass=mass, reason=reason)
            case PushSumRefused(sender=sender, reason=reason):
                activity.refused += 1
                activity.alarm(f"refused from {self.name(sender)}", f"site {self.name(sender)}: {reason}")
                self._warn("message refused", remote=self.name(sender), reason=reason)
            case EntryHeld(number=number, payload_bytes=size):
                activity.held = number
                self._say("entry held for approval", number=number, bytes=size)
            case RoundOpened(number=number, steps=steps):
                log.debug("round opened", number=number, steps=steps)
            case RoundAbandoned(number=number, reason=reason):
                activity.held = 0
                self._warn("round abandoned", number=number, reason=reason)
            case PhaseChanged(phase=phase, reason=reason):
                self._say("phase", phase=phase.name.lower(), reason=reason)
            case Waiting(reason=reason):
                if reason:
                    self._say("waiting", reason=reason)
            case RunComplete(sites=sites):
                self._say("run complete", sites=sites)
            case _:
                self._member(event)

    def _member(self, event: Event) -> None:
        match event:
            case member.MemberJoined(key=key):
                self._say("member joined", remote=self.name(key))
            case member.MemberSuspected(key=key, accuser=accuser):
                self._say("member suspected", remote=self.name(key), accuser=self._accuser(accuser))
            case member.MemberCleared(key=key):
                self._say("member cleared", remote=self.name(key))
            case member.MemberUnreachable(key=key):
                self._activity.alarm(f"unreachable {self.name(key)}", f"site {self.name(key)} is not reachable")
                self._warn("member unreachable", remote=self.name(key))
            case member.MemberBack(key=key):
                self._activity.clear(f"unreachable {self.name(key)}")
                self._say("member back", remote=self.name(key))
            case member.MemberLeft(key=key):
                self._activity.clear(f"unreachable {self.name(key)}")
                self._say("member left", remote=self.name(key))
            case member.MemberRemoved(key=key):
                self._say("member removed", remote=self.name(key))
            case member.DegradedLink(key=key):
                text = f"site {self.name(key)} is reachable only through others; check the link between the two"
                self._activity.alarm(f"degraded link {self.name(key)}", text)
                self._warn("degraded link", remote=self.name(key))
            case member.LinkRestored(key=key):
                self._activity.clear(f"degraded link {self.name(key)}")
                self._say("link restored", remote=self.name(key))
            case member.DuplicateKey(generation=generation):
                text = "another process runs with this site's key: stop one of the two"
                self._activity.alarm("duplicate key", text)
                self._warn("duplicate key", generation=generation, remedy=text)
            case member.AddressRejected(key=key, address=address, reason=reason):
                text = f"site {self.name(key)} advertises {address}: {reason}"
                self._activity.alarm(f"address of {self.name(key)}", text)
                self._warn("address rejected", remote=self.name(key), address=address, reason=reason)

    def link(self, event: LinkEvent) -> None:
        """Note what happens to a link; what only an operator can mend becomes an alarm."""
        self._activity.events[type(event).__name__] += 1
        match event:
            case LinkUp(key=key):
                self._activity.clear(f"link {self.name(key)}")
                self._say("link up", remote=self.name(key))
            case LinkDown(key=key, reason=reason):
                self._say("link down", remote=self.name(key), reason=reason)
            case DialFailed(key=key, address=address, reason=reason):
                log.debug("dial failed", remote=self.name(key), address=address, reason=reason)
            case AuthRejected(key=key, address=address, explanation=text):
                self._activity.alarm(f"link {self.name(key)}", text)
                self._warn("authentication rejected", remote=self.name(key), address=address, explanation=text)
            case StrangerRefused(address=address, explanation=text, attempts=attempts):
                self._activity.alarm("stranger", f"{address}: {text}")
                self._warn("stranger refused", address=address, attempts=attempts, explanation=text)
            case PeerMisbehaved(key=key, reason=reason, cut=cut):
                self._activity.alarm(f"misbehaved {self.name(key)}", reason)
                self._warn("peer misbehaved", remote=self.name(key), reason=reason, cut=cut)
            case SendFailed(key=key, label=label, reason=reason):
                self._warn("send failed", remote=self.name(key), kind=label, reason=reason)
            case Fault(where=where, error=error):
                self._activity.alarm(f"fault {where}", repr(error))
                log.error("fault", where=where, error=repr(error), exc_info=error)

    def bad_message(self, bad: BadMessage) -> None:
        """Note a message that was refused. Counted always; logged when the count is a power of two."""
        self._activity.events["BadMessage"] += 1
        name = self.name(bad.sender)
        text = f"site {name} sent {bad.count} messages that were refused; the last: {bad.error}"
        if isinstance(bad.error, ForeignCharterError):
            text = f"site {name} runs another charter ({bad.error.tag.hex()}...): give both sites the same file"
        self._activity.alarm(f"bad messages {name}", text)
        if bad.count & (bad.count - 1) == 0:
            self._warn("message refused", remote=name, count=bad.count, reason=str(bad.error))

    def _accuser(self, handle: bytes) -> str:
        for key, name in self._names().items():
            if key.startswith(handle):
                return name
        return handle.hex()

    def _say(self, what: str, **facts: object) -> None:
        log.info(what, **facts)
        self._publish({"what": what, **facts})

    def _warn(self, what: str, **facts: object) -> None:
        log.warning(what, **facts)
        self._publish({"what": what, **facts})
