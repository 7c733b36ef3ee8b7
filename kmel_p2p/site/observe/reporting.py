"""Turns events of protocol and links into log lines, counts, ages and alarms: one line per change, not per message."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.endpoint import endpoint_name
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.board.messages import NoticePosted, NoticeRefused, NoticeUnread
from kmel_p2p.core.effects import Event, LinkDown, LinkUp, SendFailed, StoodStill
from kmel_p2p.core.membership import events as member
from kmel_p2p.core.rounds import (
    CampaignBegun,
    CharterAmended,
    EntryHeld,
    PhaseChanged,
    RoundAbandoned,
    RoundOpened,
    RunComplete,
    RunHeldUp,
    RunNotAwaiting,
    SiteBlocked,
    SiteUnblocked,
    Waiting,
)
from kmel_p2p.core.types import SECOND
from kmel_p2p.core.wire import ForeignCharterError
from kmel_p2p.net.driver import BadMessage
from kmel_p2p.net.link_events import (
    AuthRejected,
    BulkMoves,
    BulkStuck,
    DialFailed,
    LinkEvent,
    LinkFault,
    PeerMisbehaved,
    StrangerRefused,
)
from kmel_p2p.site.modes import SiteMode
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.line_budget import LineBudget
from kmel_p2p.site.observe.status import SITES_NAMED

log = structlog.get_logger()


AFTER_STANDSTILL = (
    "before this site publishes again, it hears what the others hold of its log: a copy of it may have run meanwhile"
)


class Reporter:
    """Log and activity of one daemon. Subscribers of the control socket are told what is logged."""

    def __init__(
        self,
        activity: Activity,
        mode: SiteMode,
        names: Callable[[], dict[SiteKey, str]],
        publish: Callable[[dict[str, object]], None],
        endpoints: Callable[[], AssayEndpoints] = AssayEndpoints,
    ) -> None:
        """`endpoints`: gives those in force."""
        self.activity = activity
        self._mode = mode
        self._names = names
        self._publish = publish
        self._endpoints = endpoints
        self._budget = LineBudget(activity.clock)

    def name(self, key: SiteKey | None) -> str:
        """A site's name, or the short form of a key that is on no roster."""
        if key is None:
            return "?"
        return self._names().get(key, short(key))

    def endpoint(self, place: int) -> str:
        """Name of an assay endpoint by its place."""
        return endpoint_name(self._endpoints().names, place)

    def say(self, what: str, **facts: object) -> None:
        """Log a fact, and tell subscribers. What concerns one site is logged within a budget (`LineBudget`)."""
        self._write(log.info, what, facts)
        self._publish({"what": what, **facts})

    def warn(self, what: str, **facts: object) -> None:
        """As `say`, for what needs attention."""
        self._write(log.warning, what, facts)
        self._publish({"what": what, **facts})

    def _write(self, write: Callable[..., None], what: str, facts: dict[str, object]) -> None:
        site = facts.get("remote") or facts.get("sender")
        left_out = self._budget.take(what, str(site)) if site is not None else 0
        if left_out is None:
            self.activity.events["LineLeftOut"] += 1
        elif left_out:
            write(what, **facts, left_out=left_out)
        else:
            write(what, **facts)

    def report(self, event: Event) -> None:
        """Note one event of the protocol."""
        activity = self.activity
        activity.events[type(event).__name__] += 1
        if self._mode.report(event, self):
            return
        match event:
            case NoticePosted(author=author, slot=slot, version=version, withdrawn=withdrawn):
                what = "notice withdrawn" if withdrawn else "notice posted"
                self.say(what, notice=f"{self.name(author)}/{slot}", version=version)
            case NoticeUnread(author=author, slot=slot, kind=kind):
                self.say("notice not readable here", notice=f"{self.name(author)}/{slot}", kind=kind)
            case NoticeRefused(sender=sender, reason=reason):
                activity.refused += 1
                activity.alarm(f"notice from {self.name(sender)}", f"a notice was refused: {reason}")
                self.warn("notice refused", sender=self.name(sender), reason=reason)
            case CharterAmended(constitution=constitution):
                sites = [rule.name for rule in constitution.roster.values()]
                self.say("charter amended", amendment=constitution.number, sites=sorted(sites))
            case CampaignBegun(campaign=campaign, entries=entries):
                self.say("campaign open", campaign=campaign, entries=entries)
            case EntryHeld(number=number, payload_bytes=size):
                activity.hold(number)
                self.say("entry held for approval", number=number, bytes=size)
            case StoodStill(for_us=for_us):
                self.warn("machine stood still", seconds=for_us // SECOND, remedy=AFTER_STANDSTILL)
            case RoundOpened(number=number, steps=steps):
                log.debug("round opened", number=number, steps=steps)
            case RoundAbandoned(number=number, reason=reason, rejected=rejected, deferred=deferred):
                activity.not_held()
                how = {"rejected": rejected, "deferred": deferred} if rejected else {}
                self.warn("round abandoned", number=number, reason=reason, **how)
            case PhaseChanged(phase=phase, reason=reason):
                self.say("phase", phase=phase.name.lower(), reason=reason)
            case Waiting(reason=reason, sites=sites):
                if reason:
                    named = [self.name(site) for site in sites[:SITES_NAMED]]
                    self.say("waiting", reason=reason, sites=named, of=len(sites))
            case SiteBlocked(site=site):
                self.warn("site blocked", remote=self.name(site))
            case SiteUnblocked(site=site):
                self.say("site unblocked", remote=self.name(site))
            case RunHeldUp(site=site, waited_us=waited_us, left_us=left_us, spent=spent):
                name = self.name(site)
                why = "which has published all that it may" if spent else "whose log does not grow"
                text = (
                    f"the run is over but for site {name}, {why}. It is waited for at most "
                    f"{-(-left_us // SECOND // 60)} minutes more; kmel-peer conclude ends the run here without it"
                )
                self.activity.alarm(f"run held up {name}", text)
                self.warn("run held up", remote=name, waited_s=waited_us // SECOND, left_s=left_us // SECOND)
            case RunNotAwaiting(site=site, given_up=given_up):
                self.activity.clear(f"run held up {self.name(site)}")
                self.say("run not held up", remote=self.name(site), given_up=given_up)
            case RunComplete(sites=sites):
                self.say("run complete", sites=sites)
            case _:
                self._member(event)

    def _member(self, event: Event) -> None:
        match event:
            case member.MemberJoined(key=key):
                self.say("member joined", remote=self.name(key))
            case member.MemberSuspected(key=key, accuser=accuser):
                self.say("member suspected", remote=self.name(key), accuser=self._accuser(accuser))
            case member.MemberCleared(key=key):
                self.say("member cleared", remote=self.name(key))
            case member.MemberUnreachable(key=key):
                self.activity.alarm(f"unreachable {self.name(key)}", f"site {self.name(key)} is not reachable")
                self.warn("member unreachable", remote=self.name(key))
            case member.MemberBack(key=key):
                self.activity.clear(f"unreachable {self.name(key)}")
                self.say("member back", remote=self.name(key))
            case member.MemberLeft(key=key):
                self.activity.clear(f"unreachable {self.name(key)}")
                self.say("member left", remote=self.name(key))
            case member.MemberRemoved(key=key):
                self.say("member removed", remote=self.name(key))
            case member.DegradedLink(key=key, both_only_dial=True):
                self.say("relayed", remote=self.name(key))
            case member.DegradedLink(key=key):
                text = f"site {self.name(key)} is reachable only through others; check the link between the two"
                self.activity.alarm(f"degraded link {self.name(key)}", text)
                self.warn("degraded link", remote=self.name(key))
            case member.LinkRestored(key=key):
                self.activity.clear(f"degraded link {self.name(key)}")
                self.say("link restored", remote=self.name(key))
            case member.TwinFound(key=key, chosen=chosen):
                name = self.name(key)
                if chosen:
                    text = "another process with this site's key was chosen to go on: stop this one"
                else:
                    text = (
                        f"two processes run with the key of site {name}, as after a copied machine: both publish "
                        "nothing. Stop one of the two, and run kmel-peer claim at the one that goes on"
                    )
                self.activity.alarm(f"twin {name}", text)
                self.warn("twin found", remote=name, remedy=text)
            case member.TwinDecided(key=key):
                self.activity.clear(f"twin {self.name(key)}")
                self.activity.clear("duplicate key")
                self.say("twin decided", remote=self.name(key))
            case member.DuplicateKey(generation=generation):
                text = "another process runs with this site's key: stop one of the two"
                self.activity.alarm("duplicate key", text)
                self.warn("duplicate key", generation=generation, remedy=text)
            case member.AddressRejected(key=key, address=address, reason=reason):
                text = f"site {self.name(key)} advertises {address}: {reason}"
                self.activity.alarm(f"address of {self.name(key)}", text)
                self.warn("address rejected", remote=self.name(key), address=address, reason=reason)

    def link(self, event: LinkEvent) -> None:
        """Note what happens to a link; what only an operator can fix becomes an alarm."""
        self.activity.events[type(event).__name__] += 1
        match event:
            case LinkUp(key=key):
                self.activity.clear(f"link {self.name(key)}")
                self.say("link up", remote=self.name(key))
            case LinkDown(key=key, reason=reason):
                self.say("link down", remote=self.name(key), reason=reason)
            case DialFailed(key=key, address=address, reason=reason):
                log.debug("dial failed", remote=self.name(key), address=address, reason=reason)
            case AuthRejected(key=key, address=address, explanation=text):
                self.activity.alarm(f"link {self.name(key)}", text)
                self.warn("authentication rejected", remote=self.name(key), address=address, explanation=text)
            case StrangerRefused(address=address, explanation=text, attempts=attempts):
                self.activity.alarm("stranger", f"{address}: {text}")
                self.warn("stranger refused", address=address, attempts=attempts, explanation=text)
            case PeerMisbehaved(key=key, reason=reason, cut=cut):
                self.activity.alarm(f"misbehaved {self.name(key)}", reason)
                self.warn("peer misbehaved", remote=self.name(key), reason=reason, cut=cut)
            case BulkStuck(key=key, reason=reason):
                self.activity.alarm(f"bulk {self.name(key)}", f"site {self.name(key)}: {reason}")
                self.warn("bulk stuck", remote=self.name(key), reason=reason)
            case BulkMoves(key=key):
                self.activity.clear(f"bulk {self.name(key)}")
                self.say("bulk moves again", remote=self.name(key))
            case SendFailed(key=key, label=label, reason=reason):
                self.warn("send failed", remote=self.name(key), kind=label, reason=reason)
            case LinkFault(where=where, error=error):
                self.activity.alarm(f"fault {where}", repr(error))
                log.error("fault", where=where, error=repr(error), exc_info=error)

    def egress_stands(self, problem: str) -> None:
        """Note why the egress log cannot be written, or, with an empty `problem`, that it can."""
        alarm = f"entries do not leave this site: {problem}"
        self._stands("egress log", problem, alarm, "egress log cannot be written", "egress log can be written again")

    def disk_is_full(self, problem: str) -> None:
        """Note that the store waits for room on its disk, or, with an empty `problem`, that it does not."""
        waits, again = "the store waits for room on its disk", "the store has room again"
        self._stands("disk full", problem, problem, waits, again)

    def _stands(self, alarm: str, problem: str, text: str, begins: str, ends: str) -> None:
        """Raise an alarm while there is a `problem`; log when it begins and when it ends."""
        stood = self.activity.stands(alarm)
        if problem:
            self.activity.alarm(alarm, text)
            if not stood:
                self.warn(begins, problem=problem)
        elif stood:
            self.activity.clear(alarm)
            self.say(ends)

    def bad_message(self, bad: BadMessage) -> None:
        """Note a message that was refused. Counted always; logged when the count is a power of two."""
        self.activity.events["BadMessage"] += 1
        name = self.name(bad.sender)
        text = f"site {name} sent {bad.count} messages that were refused; the last: {bad.error}"
        if isinstance(bad.error, ForeignCharterError):
            text = f"site {name} runs another charter ({bad.error.tag.hex()}...): give both sites the same file"
        self.activity.alarm(f"bad messages {name}", text)
        if bad.count & (bad.count - 1) == 0:
            self.warn("message refused", remote=name, count=bad.count, reason=str(bad.error))

    def _accuser(self, handle: bytes) -> str:
        for key, name in self._names().items():
            if key.startswith(handle):
                return name
        return handle.hex()
