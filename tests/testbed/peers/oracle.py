"""What must hold whatever happens: watched while a schedule plays, and looked at when everything has healed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Persist
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import (
    Divergence,
    EntryPublished,
    EntryRecord,
    EntryRefused,
    LateFault,
    LogEnded,
    NotPublishedAgain,
)
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.epoch import BRANCHED
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.own_log import IN_DOUBT
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.site.modes.stored_ledger import fresh_ledger
from tests.testbed.peers.happenings import Play
from tests.testbed.peers.peer_site import PeerSite

VISIBLE_AFTER: Micros = 60 * SECOND
"""A site that is off so long stands in the status of every site that ran all the while."""
SILENT_AFTER: Micros = 60 * SECOND
"""A site that could train says so early why it does not."""
MOST_BYTES_PER_S = 100_000
"""That a site of these small federations sends, on average over a look."""
MOST_WAITING = 10_000
"""Entries that wait for others, and writes that wait for the disk."""
LOOK_EVERY: Micros = 5 * SECOND


class Oracle:
    """See the module docstring. `violations` are in words, each kind of each site once."""

    def __init__(self, play: Play) -> None:
        self.violations: list[str] = []
        self.doubts = 0
        """Looks at which a site waited because its log may lack entries."""
        self._play = play
        self._federation = play.federation
        self._honest = {site.key: site for site in play.honest}
        self._newest: dict[tuple[SiteKey, int], bytes] = {}
        """Hash of the entry that an honest site made last under a number. A power cut may take it back."""
        self._published: dict[tuple[SiteKey, int], bytes] = {}
        self._above_the_bound: set[tuple[SiteKey, int]] = set()
        """Entries whose authors were told that they cannot be published again, for the bound on their norm has sunk."""
        self._seen: list[Entry] = []
        """Every entry stored anywhere, each once, in order of time."""
        self._known: dict[bytes, Entry] = {}
        """The same by hash."""
        self._running_since: dict[int, Micros] = {}
        self._off_since: dict[int, Micros] = {}
        self._lives: dict[int, int] = {}
        """Number of the last life of each site that was looked at."""
        self._idle_since: dict[int, Micros] = {}
        self._sent: dict[int, int] = {}
        self._told: set[tuple[str, ...]] = set()
        self._held: dict[tuple[SiteKey, int], Entry] = {}
        """Entries that some disk held when everything healed."""
        self._federation.watchers.append(self._watch)

    # ---- while it plays -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at every site; called every `LOOK_EVERY`."""
        now = self._federation.network.now
        for site in self._originals():
            running = site.life is not None and self._federation.hosts[site.number].running
            here, gone = self._running_since, self._off_since
            if self._lives.get(site.number) != site.lives:
                # It was on, or off, in between, for less than the time between two looks.
                self._lives[site.number] = site.lives
                here.pop(site.number, None)
                gone.pop(site.number, None)
            if site.life is None:
                gone.setdefault(site.number, now)
            else:
                gone.pop(site.number, None)
            if running:
                here.setdefault(site.number, now)
            else:
                here.pop(site.number, None)
        for site in self._honest.values():
            since = self._running_since.get(site.number)
            if since is not None:
                self._look_at(site, now, now - since)
        while self._federation.refusals:
            receiver, sender, error = self._federation.refusals.popleft()
            # A message that was on its way when its sender was retired is refused, and nothing else of an honest one.
            honest = sender.key in self._honest and receiver.key in self._honest
            if honest and sender.index not in self._play.retired:
                self._say("refused", receiver, sender, text=f"refused a message: {error}")

    def _look_at(self, site: PeerSite, now: Micros, running_us: Micros) -> None:
        assert site.life is not None
        document = site.document()
        states = {member.key: member for member in document.members}
        if running_us > VISIBLE_AFTER:
            for other in self._originals():
                off_us = now - self._off_since.get(other.number, now)
                member = states.get(other.key.hex())
                if off_us > VISIBLE_AFTER and member is not None and member.state == "alive":
                    self._say("unseen", site, other, text="is off, and status says alive")
        averaging = site.life.peer.averaging
        self.doubts += averaging.waiting == IN_DOUBT
        idle = averaging.phase is Phase.TRAINING and site.life.open_round is None and not site.disk.waiting
        if not idle or averaging.waiting:
            self._idle_since.pop(site.number, None)
        elif now - self._idle_since.setdefault(site.number, now) > SILENT_AFTER:
            self._say("silent", site, text="neither trains nor says why")
        sent = site.bytes_out - self._sent.get(site.number, 0)
        self._sent[site.number] = site.bytes_out
        if sent > MOST_BYTES_PER_S * LOOK_EVERY / SECOND:
            self._say("traffic", site, text=f"sent {sent} bytes within {LOOK_EVERY // SECOND} s")
        waiting = averaging.ledger.waiting if isinstance(averaging, LedgerAveraging) else 0
        if waiting + site.disk.waiting > MOST_WAITING:
            self._say("memory", site, text=f"{waiting} entries and {site.disk.waiting} writes wait")

    def _watch(self, site: PeerSite, effect: Effect) -> None:
        if site.key not in self._honest:
            return
        if isinstance(effect, Persist) and isinstance(effect.record, EntryRecord):
            self._stored(site, effect.record)
        elif isinstance(effect, Emit):
            epochs = self._play.schedule.epochs
            match effect.event:
                case LogEnded(author=author, reason=reason) if self._goes_on(author, reason):
                    # Its log goes on in another epoch; at the end it must have.
                    pass
                case LogEnded(author=author, number=number, reason=reason) if author in self._honest:
                    self._say(
                        "convicted", site, self._honest[author], text=f"ended the log before entry {number}: {reason}"
                    )
                case LateFault(author=author, reason=reason) if author in self._honest:
                    self._say("convicted", site, self._honest[author], text=f"holds it at fault: {reason}")
                case EntryRefused(reason=reason) if epochs and reason in BRANCHED:
                    pass
                case EntryRefused(sender=sender, reason=reason) if sender in self._honest:
                    self._say("refused", site, self._honest[sender], text=f"refused an entry: {reason}")
                case Divergence(site=other) if other in self._honest:
                    self._say("diverged", site, self._honest[other], text="hold other sums of the same entries")
                case NotPublishedAgain(number=number, reason=reason) if reason.endswith(Refusal.NORM.value):
                    self._above_the_bound.add((site.key, number))
                case EntryPublished(number=number):
                    hash_ = self._newest[site.key, number]
                    earlier = self._published.get((site.key, number), hash_)
                    self._published[site.key, number] = hash_
                    # One that nobody got was never there, and who has an old disk cannot know better.
                    known = site.number not in self._play.damaged and self._is_held(site.key, number, earlier)
                    known = known and not self._is_void(site, earlier)
                    if earlier != hash_ and known:
                        self._say("twice", site, text=f"published two entries {number}")

    def _goes_on(self, author: SiteKey, reason: str) -> bool:
        """Whether an honest site's log that has ended may go on in another epoch."""
        return self._play.schedule.epochs and author in self._honest and reason in BRANCHED

    def _stored(self, site: PeerSite, record: EntryRecord) -> None:
        entry = decode(record.encoded)
        if record.author == site.key:
            self._newest[record.author, record.number] = entry.hash
        if entry.hash not in self._known:
            self._known[entry.hash] = entry
            self._seen.append(entry)

    def _is_void(self, site: PeerSite, hash_: bytes) -> bool:
        """Whether a site's entry was made under an amendment that was overruled."""
        averaging = site.life.peer.averaging if site.life is not None else None
        entry = self._known[hash_]
        return isinstance(averaging, LedgerAveraging) and averaging.ledger.amended_rules.voids(entry.basis)

    def _is_held(self, author: SiteKey, number: int, hash_: bytes) -> bool:
        """Whether another running site has this entry in its ledger."""
        for site in self._federation.running:
            averaging = site.life.peer.averaging if site.life is not None and site.key != author else None
            if isinstance(averaging, LedgerAveraging):
                header = averaging.ledger.accepted.header(author, number)
                if header is not None and header.hash == hash_:
                    return True
        return False

    # ---- when everything has healed -----------------------------------------------------------------------------

    def healed(self) -> None:
        """Remember what the disks hold: from now on nothing of it may be lost."""
        for site in self._taking_part():
            averaging = site.life.peer.averaging if site.life is not None else None
            if isinstance(averaging, LedgerAveraging):
                for entry in averaging.ledger.entries():
                    if entry.author in self._honest:
                        self._held[entry.author, entry.number] = entry

    def has_progressed(self) -> bool:
        """Whether the run is over at every honest site, and they agree. A suspended one waits for the consortium."""
        sites = self._taking_part()
        for site in sites:
            if site.life is None:
                return False
            averaging = site.life.peer.averaging
            suspended = isinstance(averaging, LedgerAveraging) and site.key in averaging.ledger.suspended
            if not averaging.complete and not suspended:
                return False
        return len(self._digests(sites)) <= 1

    def conclude(self) -> None:
        """Look at what came out."""
        self.look()
        sites = self._taking_part()
        off = [site for site in sites if site.life is None]
        for site in off:
            self._say("off", site, text="is off although everything healed")
        machines = [site.life.peer.averaging for site in sites if site.life is not None]
        if any(isinstance(machine, LedgerAveraging) for machine in machines):
            self._conclude_ledger(sites)
        else:
            self._conclude_mass(machines)

    def _conclude_ledger(self, sites: Iterable[PeerSite]) -> None:
        for site in sites:
            averaging = site.life.peer.averaging if site.life is not None else None
            if not isinstance(averaging, LedgerAveraging):
                continue
            ledger = averaging.ledger
            for author in self._honest.keys() & ledger.faults.keys():
                self._say(
                    "convicted", site, self._honest[author], text=f"ended the log: {ledger.faults[author].reason}"
                )
            contents = {header.payload_hash for log in ledger.accepted.logs.values() for header in log.headers()}
            for (author, number), entry in self._held.items():
                header = ledger.accepted.header(author, number)
                if number >= ledger.accepted.end(author):
                    continue
                # An entry of a branch that was disowned, or made under what was overruled, is published again, unless
                # the norms of the others, which bound its own, have sunk: its author's operator is told so.
                void = ledger.accepted.epochs.disowns(entry) or ledger.amended_rules.voids(entry.basis)
                again = void and (entry.payload_hash in contents or (author, number) in self._above_the_bound)
                stands = number <= ledger.head(author) and (header is None or header.hash == entry.hash)
                if not stands and not again:
                    self._say("lost", site, self._honest[author], text=f"does not hold entry {number} of")
            own = (entry for entry in ledger.entries() if entry.author in self._honest)
            counts = Counter((entry.author, entry.payload_hash) for entry in own)
            for author in {author for (author, _), count in counts.items() if count > 1}:
                self._say("doubled", site, self._honest[author], text="counts a payload twice of")
            fresh = fresh_ledger(site.site)
            fresh.amend(site.site.constitution)
            for epoch in ledger.accepted.epochs:
                fresh.begin_epoch(epoch)
            for fault in ledger.faults.values():
                fresh.end_log(fault)
            for vote in ledger.votes:
                fresh.vote(vote)
            for author in ledger.suspended:
                self._judge_suspension(site, ledger, author)
            for entry in self._seen:
                if fresh.offer(entry).verdict is Verdict.DROPPED:
                    break
            if fresh.vector == ledger.vector and fresh.digest() != ledger.digest():
                self._say("sum", site, text="its trunk is not the sum of the entries in its vector")
        digests = self._digests(sites)
        if len({tuple(suspended.items()) for suspended in self._suspended(sites)}) > 1:
            self._say("suspended", text="the honest sites suspend different sites")
        if len(digests) > 1:
            self._say("digests", text=f"the honest sites hold {len(digests)} ledgers")

    def _judge_suspension(self, site: PeerSite, ledger: Ledger, author: SiteKey) -> None:
        """Nobody is suspended whom no honest site found to do harm, and never on honest votes that nobody cast."""
        numbers = {identity.key: index for index, identity in enumerate(self._federation.world.identities)}
        voting = self._play.voting
        against = {numbers[voter] for voter in ledger.votes.against(author)}
        found = {voter for of, voter in voting.accused if of == numbers[author]}
        if not against & found or against - found - voting.colluders:
            self._say("suspended", site, self._federation.sites[numbers[author]], text="suspends without a reason")

    def _conclude_mass(self, machines: Iterable[Any]) -> None:
        """Mass is neither made nor lost, unless a disk was, or a copy ran."""
        if self._play.damaged or self._play.copied:
            return
        states = [machine.state for machine in machines if isinstance(machine, PushSumAveraging)]
        held = sum(state.holding.mass + sum(owed.mass for owed in state.owed.values()) for state in states)
        brought = sum(state.weight for state in states)
        if held != brought:
            self._say("mass", text=f"the sites brought {brought} and hold {held}")

    # ---- inner --------------------------------------------------------------------------------------------------

    def _originals(self) -> list[PeerSite]:
        return self._federation.sites[: len(self._federation.world.identities)]

    def _taking_part(self) -> list[PeerSite]:
        """Honest sites of the roster as it is now."""
        founders = self._play.schedule.founders
        return [
            site
            for site in self._honest.values()
            if (site.index < founders or site.index in self._play.added) and site.index not in self._play.retired
        ]

    def _ledgers(self, sites: Iterable[PeerSite]) -> list[Ledger]:
        lives = [site.life for site in sites if site.life is not None]
        return [life.peer.averaging.ledger for life in lives if isinstance(life.peer.averaging, LedgerAveraging)]

    def _suspended(self, sites: Iterable[PeerSite]) -> list[Mapping[SiteKey, int]]:
        return [ledger.suspended for ledger in self._ledgers(sites)]

    def _digests(self, sites: Iterable[PeerSite]) -> Mapping[bytes, None]:
        return {ledger.digest(): None for ledger in self._ledgers(sites)}

    def _say(self, kind: str, *sites: PeerSite, text: str) -> None:
        names = tuple(site.world.rule(site.index).name for site in sites)
        if (kind, *names) not in self._told:
            self._told.add((kind, *names))
            at_s = self._federation.network.now / SECOND
            self.violations.append(f"{kind}: at {at_s:.1f} s {' about '.join(names)} {text}".replace("  ", " "))
