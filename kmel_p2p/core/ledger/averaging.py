"""Averaging mode `ledger`: every site holds every log; the trunk is their exact sum.

Opens a round when the charter's pace allows one and publishes what the trainer answers. Nothing here waits for a
named site: every wait is for a count of sites that membership calls alive, or for a period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Computed, Emit, Event, Message, Persist, Persisted, StoodStill
from kmel_p2p.core.ledger import reasons
from kmel_p2p.core.ledger.bounded_sizes import BoundedSizes
from kmel_p2p.core.ledger.catching_up import CatchingUp
from kmel_p2p.core.ledger.events import EntryPublished, LimitExceeded, RetractionRecord, WithheldRecord
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import RETIRED, Verdict
from kmel_p2p.core.ledger.next_round import NextRound
from kmel_p2p.core.ledger.own_campaign import OwnCampaign
from kmel_p2p.core.ledger.own_epochs import OwnEpochs
from kmel_p2p.core.ledger.own_log import OwnLog
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.ledger.rules.weights import Trains, weights_of
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.snapshot import maintenance
from kmel_p2p.core.ledger.snapshot.maintenance import Maintenance
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Announce, Bodies, Epochs, Have, Heads, Holdings, Proofs, Stubs, Want
from kmel_p2p.core.ledger.sync.refusals import Refusals
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberLeft, MemberRemoved, MemberUnreachable
from kmel_p2p.core.roster_vector import NOTHING
from kmel_p2p.core.rounds.contract import (
    Amend,
    Begin,
    CampaignBegun,
    CurrentWait,
    Members,
    Phase,
    Ready,
    RoundAllowance,
    RoundTrained,
    Trust,
)
from kmel_p2p.core.rounds.looks import Looked
from kmel_p2p.core.rounds.settings import round_settings
from kmel_p2p.core.rounds.states import RoundState
from kmel_p2p.core.types import Micros, Randomness


class LedgerAveraging(NextRound):
    """See the module docstring. Implements `rounds.Averaging`."""

    messages: tuple[type[Message], ...] = (
        Have, Holdings, Want, Bodies, Announce, Proofs, Heads, Stubs, Epochs, *maintenance.MESSAGES
    )  # fmt: skip

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        ledger: Ledger,
        members: Members,
        rng: Randomness,
        settings: LedgerSettings,
        max_payload_bytes: int,
        now: Micros,
    ) -> None:
        if ledger.constitution is None:
            ledger.amend(Constitution(charter))
        self._own_campaign = OwnCampaign(identity.key, charter, ledger, now)
        rounds = round_settings(charter, settings.hold, settings.settle_us, settings.stuck_after_us)
        super().__init__(identity.key, members, self._own_campaign.settings(rounds), now)
        self.ledger = ledger
        ledger.turn_bytes = settings.turn_bytes
        self._charter = charter
        self.publisher = Publisher(identity, ledger, self._outbox)
        forks = ForkFinder(ledger, self._outbox)
        alive, outbox, timing = members.alive, self._outbox, settings.antientropy
        self.antientropy = AntiEntropy(identity.key, ledger, forks, alive, outbox, rng, timing, max_payload_bytes, now)
        self.maintenance = Maintenance(
            identity,
            charter,
            ledger,
            self.antientropy,
            forks,
            alive,
            outbox,
            rng,
            settings.claims,
            now,
            lambda: self._blocked,
        )
        self._own_log = OwnLog(identity.key, ledger, self._outbox, settings.hear_us)
        self._own_epochs = OwnEpochs(identity, ledger, self.antientropy, self._own_log, self._outbox)
        self._announced = NOTHING
        self._lacks_since_us: Micros | None = None
        """Since when this site is done and looks for a snapshot of what it lacks."""
        self.sizes = BoundedSizes(lambda: self._own_campaign.now, members, ledger.head, self._outbox)
        self._catching_up = CatchingUp(charter.pace.max_lead, settings, now)
        self._beyond_limit: set[SiteKey] = set()
        """Sites of which the operator knows that they publish more than they may."""
        self._refusals = Refusals(self._outbox, self._hear)

    @property
    def vector(self) -> Mapping[SiteKey, int]:
        """What is applied here."""
        return self.ledger.vector

    @property
    def revision(self) -> object:
        """`Ledger.standing` and vector: they name the trunk, for amendments and votes may take entries back."""
        return self.ledger.standing, self.ledger.accepted.held

    def digest_work(self) -> Callable[[], bytes] | None:
        """Work for another thread: digest of the trunk at `vector`."""
        return self.ledger.digest_work(self.ledger.accepted.held)

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The trunk at `vector`, float32[d]."""
        return self.ledger.accumulator.trunk(out)

    # ---- inputs -------------------------------------------------------------------------------------------------

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed one of `contract.COMMANDS`."""
        if isinstance(cmd, Ready):
            every = tuple(range(self.ledger.rules.heads))
            self.antientropy.states.heads = every if cmd.heads is None else cmd.heads
        if isinstance(cmd, Begin) and not cmd.again:
            self._own_log.trust()
        super().command(cmd, now)

    def member_event(self, event: Event, now: Micros) -> None:
        """Membership's verdict on a site changed."""
        self._pause.note(event)
        match event:
            case MemberJoined(key=key) | MemberBack(key=key):
                self._ending.came_back(key)
                self._forget(key, now)
                self.antientropy.states.greet(key, now)
                self.maintenance.greet(key)
            case MemberUnreachable(key=key):
                told = self._told(key)
                if not (told is None or told.phase is Phase.LISTENING or key in self.ledger.accepted.ended):
                    self._ending.went_away(key, now)
                self._forget(key, now)
            case MemberLeft(key=key) | MemberRemoved(key=key):
                self._ending.came_back(key)
                self._forget(key, now)
            case _:
                return
        self._turn(now)

    def _on_message(self, sender: SiteKey, message: Message, now: Micros) -> None:
        self._refusals.take(sender, message, now)

    def _hear(self, sender: SiteKey, message: Message, now: Micros) -> None:
        if isinstance(message, maintenance.MESSAGES):
            self.maintenance.receive(sender, message, now)
        else:
            self.antientropy.receive(sender, message, now)
            if isinstance(message, (Have, Holdings)):
                self.maintenance.receive(sender, message, now)

    def _on_command(self, cmd: Any, now: Micros) -> None:
        match cmd:
            case Amend(encoded):
                self.maintenance.amend(AmendmentDocument.decode(encoded))
            case Trust(site):
                self.maintenance.fetcher.trust(site, now)
            case Looked(looks):
                self.maintenance.panel.looked(looks)
            case Computed():
                self.maintenance.computing.computed(cmd.ticket, cmd.result)
            case Persisted(ticket):
                self._persisted(ticket, now)
            case StoodStill():
                self._hear_anew(reasons.STOOD_STILL, now)

    def _on_time(self, now: Micros) -> None:
        self.antientropy.advance(now)
        self.maintenance.advance(now)

    def _deadlines_us(self) -> Iterable[Micros | None]:
        timed = (self.antientropy, self.maintenance, self._own_epochs, self._own_log, self._own_campaign)
        return (part.deadline() for part in timed)

    def _before_round(self, now: Micros) -> None:
        self.antientropy.states.step_us = self._pacing.step_us
        told = self._members.alive() if self._own_log.asks else ()
        signed = self.antientropy.statements.proved(self._key)
        if self._own_log.note(filter(self._has_told_our_log, told), signed, now):
            self._hear_anew(reasons.NOT_OURS, now)
        self._own_epochs.look(self._members.alive(), self._pause.wait is not None, now)
        self._publish_again()
        was_retired = self._key in self.ledger.accepted.retired
        changed = self.maintenance.turn(self._state is not RoundState.STORING and not self._own_epochs.storing, now)
        if changed is not None:
            self._own_epochs.overruled(changed)
            # Whom an overruled amendment had retired goes on.
            if was_retired and self._key not in self.ledger.accepted.retired:
                self._ended_at = RoundAllowance(0, 0)
        # After the amendments that this turn brought, and before a round opens under them.
        if self._own_campaign.changed(now):
            self._begin_campaign()

    def _begin_campaign(self) -> None:
        settings = self._round_settings = self._own_campaign.settings(self._round_settings)
        self._pacing.begin_campaign(settings.max_lead, settings.patience)
        self._begun = False
        if self._ended_at is not None:
            self._ended_at = RoundAllowance(0, 0)
        entries = self._own_campaign.now.limit_of(self._key) - self.before_campaign
        self._outbox.append(Emit(CampaignBegun(self.campaign, entries)))

    @property
    def waits(self) -> tuple[CurrentWait, ...]:
        """What this site waits for; where it is done, also for a snapshot of what it lacks."""
        fetching = self.maintenance.fetching
        if fetching is None or self._lacks_since_us is None:
            return super().waits
        lacks = CurrentWait(fetching.reason, fetching.sites, self._lacks_since_us, fetching.until_us)
        return lacks, *super().waits

    def _after_round(self, now: Micros) -> None:
        lacks = self.phase is Phase.LISTENING and self.maintenance.fetching is not None
        self._lacks_since_us = (self._lacks_since_us or now) if lacks else None
        held, states = self.ledger.accepted.held, self.antientropy.states
        states.awaited = frozenset(key for wait in self.waits for key in wait.sites)
        if states.phase is not self._told_phase():
            states.phase = self._told_phase()
            states.announce()
        if self.phase is Phase.LISTENING and held != self._announced and not self._those_in(Phase.TRAINING):
            # The others cannot see the end before they know what we hold. While anybody trains, it is not the end.
            self._announced = held
            states.announce()

    def _told_phase(self) -> Phase:
        """What the others are told: nobody's pace is to depend on a site that fetches or hears what they hold.

        Before any entry is there, that it hears does not count: who is ready to start would follow from itself. So it
        would where a campaign begins.
        """
        begins = not self.ledger.vector or self._own_campaign.may_begin
        kinds = reasons.FETCHING if begins else reasons.LEARNING
        catches_up = self._wait is not None and self._wait[0].kind in kinds
        return Phase.PREPARING if catches_up and self.phase is Phase.TRAINING else self.phase

    def _phase_changed(self) -> None:
        self.antientropy.states.phase = self.phase
        self.antientropy.states.announce()

    def _hear_anew(self, why: str, now: Micros) -> None:
        """A copy of this site may have run, or runs: as after a start. `why`: an entry not sent yet never is."""
        for site in self._members.alive():
            self._forget(site, now)
        self._own_log.hear_anew()
        withheld = self.publisher.withhold()
        if withheld is not None:
            # Signed before, and sent to nobody: the copy may have signed another one with its number.
            self._outbox.append(Persist(WithheldRecord(withheld)))
            if self._own_epochs.storing:
                self._own_epochs.storing = False
            else:
                self._refuse(why)

    def _forget(self, site: SiteKey, now: Micros) -> None:
        self.antientropy.forget(site)
        self.maintenance.forget(site, now)

    # ---- a round ------------------------------------------------------------------------------------------------

    def _publish_again(self) -> None:
        """Publish what stood in a branch of this site's log that was disowned, while no round is open."""
        free = self._state is RoundState.IDLE and self._pause.wait is None
        entry = self._own_epochs.next if free and self._key not in self.ledger.accepted.retired else None
        if entry is not None and not (self._wait_for_own_log() or self._wait_to_hear()):
            again = RoundTrained(self._begin_round(entry.head_weights)[0], entry.payload, entry.steps, 0, "")
            self._own_epochs.stored(self.publisher.store(again))

    def _begin_round(self, heads: Iterable[int] | None = None) -> tuple[int, float]:
        """`heads`: the shared heads that the entry is about; None: those that this site trains."""
        own_heads = frozenset(self.antientropy.states.heads if heads is None else heads)
        told = {key: self._told(key) for key in self._those_in(Phase.TRAINING)}
        training = {key: Trains(self.sizes.of(key), frozenset(t.heads)) for key, t in told.items() if t is not None}
        training[self._key] = Trains(self.sizes.of(self._key), own_heads)
        rules, number = self.ledger.rules, self.publisher.next_number
        weights = weights_of(self._key, training, rules.cap_at(number), rules.share_at(number))
        return self.publisher.open(weights.trunk, weights.heads)

    def _step_times_us(self) -> Iterable[Micros]:
        told = (self._told(key) for key in self._those_in(Phase.TRAINING))
        return [t.step_us for t in told if t is not None]

    def _check_trained(self, result: RoundTrained) -> int:
        return len(result.payload)

    def _store_round(self, result: RoundTrained) -> None:
        doubt = self._wait_to_hear()
        against = reasons.OUTVOTED if self.maintenance.claims.vote.outvoted else doubt.reason if doubt else ""
        if problem := against or self.publisher.store(result):
            self._refuse(problem)

    def _persisted(self, ticket: int, now: Micros) -> None:
        entry = self.publisher.persisted(ticket)
        if entry is None:
            return
        outcome = self.ledger.offer(entry)
        self._own_log.published(self.ledger.head(self._key))
        if self._own_epochs.storing:
            self._own_epochs.published()
        else:
            self._commit()
        if outcome.verdict is Verdict.APPLIED:
            self._outbox.append(Emit(EntryPublished(entry.number, len(entry.encode()), entry.weight)))
            self.antientropy.push.own(entry, now)
        elif outcome.verdict is Verdict.ENDED:
            # An amendment retired this site while its entry was being stored: the store must not count it.
            self._outbox.append(Persist(RetractionRecord(self._key, entry.number, RETIRED, ())))

    # ---- the end of the run -------------------------------------------------------------------------------------

    def _final_state(self) -> object:
        return self.revision if self._is_complete() else None

    def _run_completed(self) -> None:
        self.maintenance.claims.tell_all()

    def _is_complete(self) -> bool:
        done = self.phase is Phase.LISTENING and self._state is RoundState.IDLE
        return done and not (self._ending.is_waiting() or self._own_epochs.again or self._own_campaign.may_begin)

    def _rounds_published(self) -> Mapping[SiteKey, int]:
        return self.ledger.vector

    def _behind(self) -> dict[SiteKey, int]:
        ended = self.ledger.accepted.ended.keys() | self.ledger.suspended.keys()
        behind, listening = dict[SiteKey, int](), list[SiteKey]()
        for key in self._members.alive():
            told = self._told(key)
            out = key in ended or key in self.antientropy.stuck or key in self.maintenance.amendments.conflicts
            # Nobody is kept from finishing by who broke the rules, was retired or says what cannot be judged; nor by
            # who is reached through others alone and tells nothing, where all that it may publish is here.
            if out or (told is None and self.ledger.head(key) >= self._own_campaign.now.limit_of(key)):
                continue
            if told is None or told.phase is not Phase.LISTENING:
                behind[key] = self._within_limit(key)
            else:
                listening.append(key)
        # While anybody trains, those that listen hold now this and now that, and nobody tells every change.
        if behind:
            return behind
        same = self.antientropy.end_with_us(listening)
        return {key: self._within_limit(key) for key in listening if key not in same}

    def _within_limit(self, key: SiteKey) -> int:
        """Entries of a site without those beyond what it may publish: these are no growth to wait for."""
        head = self.ledger.head(key)
        return min(head, self._own_campaign.most_of(key)) if head > self._own_campaign.now.limit_of(key) else head

    def _spent(self, sites: Iterable[SiteKey]) -> frozenset[SiteKey]:
        # Who listens may still fetch what the others made; that takes its time.
        listening = set(self._those_in(Phase.LISTENING))
        full = (key for key in sites if self.ledger.head(key) >= self._own_campaign.most_of(key))
        spent = frozenset(key for key in full if key not in listening)
        for key in sorted(spent - self._beyond_limit):
            head, most = self.ledger.head(key), self._own_campaign.most_of(key)
            if head > most:
                self._beyond_limit.add(key)
                self._outbox.append(Emit(LimitExceeded(key, head, most)))
        return spent
