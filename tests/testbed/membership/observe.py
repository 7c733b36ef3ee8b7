"""What an observer outside the federation sees: every verdict with its circumstances, every byte, every refusal.

The observer knows the truth (which host runs), so it can tell a right verdict from a wrong one, and when all views
agree with the truth.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Dial, Effect, Emit, Persist, Send
from kmel_p2p.core.membership import DescriptorLearned, MemberJoined, MemberState
from kmel_p2p.core.membership.messages import Ack, Gossip, Ping
from kmel_p2p.core.membership.settings import FRAME_OVERHEAD_BYTES
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.membership.federation import Federation, membership_of
from tests.testbed.network.host import Host


@dataclass(frozen=True, slots=True)
class Seen:
    """One event that a membership told its operator."""

    at_us: Micros
    event: str
    observer: int
    subject: int
    truth: MemberState | None
    blocked: bool
    """A fault of the scenario lay between the two."""
    unwell: bool
    """Observer or subject was slowed by the scenario."""
    accuser: bytes = b""


class Observer:
    """Watches one federation. Host indices stand for hosts."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._index = {host.key: host.index for host in federation.hosts}
        self.truth: dict[SiteKey, MemberState] = {h.key: MemberState.UNKNOWN for h in federation.hosts}
        self.unwell: dict[int, None] = {}
        self.events: list[Seen] = []
        self.counts: Counter[str] = Counter()
        self.bytes_in_second: Counter[int] = Counter()
        self.messages: Counter[str] = Counter()
        self.largest_probe_bytes = 0
        self.dials: list[tuple[Micros, int, int]] = []
        self.learned: list[tuple[Micros, int, int]] = []
        self.refusals: Counter[str] = Counter()
        self.settled_us: Micros = 0
        self._wrong: dict[tuple[int, int], None] = {}

    # -- the truth -----------------------------------------------------------------------------------------------

    def expect(self, host: Host, state: MemberState) -> None:
        """From now on this is true about `host`."""
        self.truth[host.key] = state
        for other in self._federation.hosts:
            self._compare(other, host)

    def booted(self, host: Host) -> None:
        """A host starts with an empty view."""
        for other in self._federation.hosts:
            self._compare(host, other)

    def stopped(self, host: Host) -> None:
        """A host that is off has no view to be wrong."""
        for other in self._federation.hosts:
            self._wrong.pop((host.index, other.index), None)
        self._note_settled()

    @property
    def settled(self) -> bool:
        """Whether every view of every running host is the truth."""
        return not self._wrong

    def wrong_pairs(self) -> list[tuple[int, int]]:
        """(observer, subject) pairs whose view is wrong now."""
        return list(self._wrong)

    def _compare(self, observer: Host, subject: Host) -> None:
        membership = membership_of(observer)
        in_roster = subject.key in self._federation.roster and observer.key in self._federation.roster
        gone = not observer.running or self.truth[observer.key] is MemberState.LEFT
        if (
            observer is subject
            or membership is None
            or gone
            or not in_roster
            or membership.state(subject.key) is self.truth[subject.key]
        ):
            self._wrong.pop((observer.index, subject.index), None)
        else:
            self._wrong[observer.index, subject.index] = None
        self._note_settled()

    def _note_settled(self) -> None:
        if self._wrong:
            self.settled_us = -1
        elif self.settled_us < 0:
            self.settled_us = self._federation.network.now

    # -- watcher -------------------------------------------------------------------------------------------------

    def stepped(self, host: Host, now: Micros) -> None:
        """Nothing per step: `Checks` looks at every step."""

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """Count bytes; note verdicts."""
        if type(effect) is Send:
            self.bytes_in_second[now // SECOND] += size_bytes + FRAME_OVERHEAD_BYTES
            self.messages[type(effect.message).__name__] += 1
            if size_bytes > self.largest_probe_bytes and isinstance(effect.message, Ping | Ack | Gossip):
                self.largest_probe_bytes = size_bytes
        elif isinstance(effect, Emit):
            self._emitted(host, effect.event, now)
        elif isinstance(effect, Dial):
            self.dials.append((now, host.index, self._index[effect.to]))
        elif isinstance(effect, Persist) and isinstance(effect.record, DescriptorLearned):
            self.learned.append((now, host.index, self._index[effect.record.descriptor.key]))

    def _emitted(self, host: Host, event: object, now: Micros) -> None:
        self.counts[type(event).__name__] += 1
        key = getattr(event, "key", None)
        subject = self._federation.network.hosts.get(key) if key is not None else host
        if subject is None:
            return
        if subject is not host:
            self._compare(host, subject)
        if not isinstance(event, MemberJoined):
            self.events.append(self._seen(host, event, subject, now))

    def _seen(self, host: Host, event: object, subject: Host, now: Micros) -> Seen:
        network = self._federation.network
        blocked = host is not subject and (
            network.direction(host, subject).blocked or network.direction(subject, host).blocked
        )
        unwell = host.index in self.unwell or subject.index in self.unwell
        truth = self.truth.get(subject.key)
        accuser = getattr(event, "accuser", b"")
        return Seen(now, type(event).__name__, host.index, subject.index, truth, blocked, unwell, accuser)

    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None:
        """A message that a membership did not accept."""
        self.refusals[type(error).__name__] += 1
