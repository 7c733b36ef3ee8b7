"""Averaging mode `ledger`: every site holds every log; the trunk is their exact sum.

Opens a round when the charter's pace allows one and publishes what the trainer answers. Nothing here waits for a
named site: every wait is for a count of sites that membership calls alive, or for a period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Computed, Effect, Emit, Event, Message, Persisted
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.publisher import Publisher, State
from kmel_p2p.core.ledger.rules.weights import Trains, weights_of
from kmel_p2p.core.ledger.snapshot import maintenance
from kmel_p2p.core.ledger.snapshot.maintenance import Maintenance
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy, AntiEntropySettings
from kmel_p2p.core.ledger.sync.claims import ClaimSettings
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Announce, Bodies, Have, Heads, Proofs, Stubs, Want
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberLeft, MemberRemoved, MemberUnreachable
from kmel_p2p.core.pacing import HEARING, Pacing, size_class
from kmel_p2p.core.rounds import (
    Amend,
    Approve,
    Listen,
    Members,
    Phase,
    Ready,
    Reject,
    RoundFailed,
    RunComplete,
    Trained,
    Unready,
)
from kmel_p2p.core.types import SECOND, Micros, Randomness


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What a site may set about its own part."""

    hold: bool = False
    """Keep each entry back until the operator approves it."""
    settle: Micros = 5 * SECOND
    """How long a starting site waits to hear from every alive site before its first round. Guards a site that lost
    its store against numbering entries anew; bounded, so a mute site holds nobody up."""
    turn_bytes: int = 256 * 1024
    """Payload bytes judged and applied before other inputs have their turn (about 50 ms of work)."""
    patience: Micros = 30 * SECOND
    """How long a site that trains, but whose log does not move, holds this one back; at least
    `pacing.PATIENCE_ROUNDS` of our own rounds."""
    catch_up: Micros = 15 * SECOND
    """A site far behind trains only when nothing came in for so long: an entry made on old ground helps nobody."""
    claims: ClaimSettings = field(default_factory=ClaimSettings)
    antientropy: AntiEntropySettings = field(default_factory=AntiEntropySettings)


class LedgerAveraging:
    """See the module docstring. Implements `rounds.Averaging`."""

    messages: tuple[type[Message], ...] = (Have, Want, Bodies, Announce, Proofs, Heads, Stubs, *maintenance.MESSAGES)

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
        self.ledger = ledger
        if ledger.constitution is None:
            ledger.amend(Constitution(charter))
        ledger.turn_bytes = settings.turn_bytes
        self._key = identity.key
        self._charter = charter
        self._members = members
        self._settings = settings
        self._outbox: deque[Effect] = deque()
        self.publisher = Publisher(identity, ledger, self._outbox, settings.hold)
        forks = ForkFinder(ledger, self._outbox)
        self.antientropy = AntiEntropy(
            identity.key,
            ledger,
            forks,
            members.alive,
            self._outbox,
            rng,
            settings.antientropy,
            max_payload_bytes,
            now,
        )
        self.maintenance = Maintenance(
            identity,
            charter,
            ledger,
            self.antientropy,
            forks,
            members.alive,
            self._outbox,
            rng,
            settings.claims,
            now,
        )
        pace = charter.pace
        self._pacing = Pacing(pace.max_lead, pace.patience, settings.settle, settings.patience, self._outbox, now)
        self._complete = False
        self._completed: object = None
        self._announced: dict[SiteKey, int] = {}
        self._grew = (0, now)

    @property
    def phase(self) -> Phase:
        """What this site does about its own log."""
        return self._pacing.phase

    @property
    def waiting(self) -> str:
        """Why no round is open, for the operator; empty when one is."""
        return self._pacing.waiting

    @property
    def complete(self) -> bool:
        """Whether all alive sites listen and hold our vector."""
        return self._complete

    @property
    def vector(self) -> Mapping[SiteKey, int]:
        """What is applied here."""
        return self.ledger.vector

    @property
    def revision(self) -> object:
        """Newest amendment and vector: they name the trunk, for an amendment may take entries back."""
        return self.ledger.amended_rules.head_hash, dict(self.ledger.vector)

    def digest_work(self) -> Callable[[], bytes] | None:
        """Work for another thread: digest of the trunk at `vector`."""
        return self.ledger.digest_work(self.ledger.vector)

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The trunk at `vector`, float32[d]."""
        return self.ledger.accumulator.trunk(out)

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a ledger message from an authenticated sender."""
        if isinstance(message, maintenance.MESSAGES):
            self.maintenance.receive(sender, message, now)
        else:
            self.antientropy.receive(sender, message, now)
            if isinstance(message, Have):
                self.maintenance.amendments.told(sender, message.amendments)
        self._turn(now)

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed one of `rounds.COMMANDS`."""
        match cmd:
            case Ready(heads):
                self._pacing.ready(now)
                self.antientropy.heads = heads if heads is not None else tuple(range(self.ledger.rules.heads))
                self._set_phase(Phase.TRAINING, "data prepared")
            case Listen(reason):
                self._set_phase(Phase.LISTENING, reason)
            case Trained():
                self._pacing.trained(cmd, now)
                self.antientropy.step_us = self._pacing.step_us
                self.publisher.trained(cmd)
            case Reject():
                self.publisher.abandon(cmd)
            case RoundFailed():
                self.publisher.abandon(cmd)
                self._unready(cmd.reason)
            case Unready(reason):
                self._unready(reason)
            case Approve():
                self.publisher.approve(cmd)
            case Amend(encoded):
                self.maintenance.amend(AmendmentDocument.decode(encoded))
            case Computed():
                self.maintenance.computing.computed(cmd.ticket, cmd.result)
            case Persisted():
                entry = self.publisher.persisted(cmd)
                if entry is not None:
                    self.antientropy.push.own(entry, now)
        self._turn(now)

    def member_event(self, event: Event, now: Micros) -> None:
        """Membership's verdict on a site changed."""
        match event:
            case MemberJoined(key=key) | MemberBack(key=key):
                self._forget(key, now)
                self.antientropy.greet(key)
            case MemberUnreachable(key=key) | MemberLeft(key=key) | MemberRemoved(key=key):
                self._forget(key, now)
            case _:
                return
        self._turn(now)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        self.antientropy.advance(now)
        self.maintenance.advance(now)
        self._turn(now)

    def deadline(self) -> Micros | None:
        """When `advance` is due next."""
        moments = (self.antientropy.deadline(), self.maintenance.deadline(), *self._pacing.deadlines)
        return min((m for m in moments if m is not None), default=None)

    def poll(self) -> Effect | None:
        """The next effect, or None."""
        return self._outbox.popleft() if self._outbox else None

    # ---- inner --------------------------------------------------------------------------------------------------

    def _turn(self, now: Micros) -> None:
        """After every input: see whether a round may open or the run is over."""
        self._pacing.turn(now)
        self.maintenance.turn(self.publisher.state is not State.STORING)
        self._maybe_open_round(now)
        if self.phase is Phase.LISTENING and self.ledger.vector != self._announced:
            # The others cannot see the end before they know what we hold.
            self._announced = self.ledger.vector
            self.antientropy.announce()
        complete = self._is_complete()
        if complete and (not self._complete or self._completed != self.revision):
            self._completed = self.revision
            self._outbox.append(Emit(RunComplete(1 + len(self._members.alive()))))
            self.maintenance.claims.tell_all()
        self._complete = complete

    def _forget(self, site: SiteKey, now: Micros) -> None:
        self.antientropy.forget(site)
        self.maintenance.forget(site, now)

    def _set_phase(self, phase: Phase, reason: str) -> None:
        if self._pacing.enter(phase, reason):
            self.antientropy.phase = phase
            self.antientropy.announce()

    def _unready(self, reason: str) -> None:
        """Nobody's pace may depend on a site that cannot train."""
        self._pacing.is_ready = False
        self._set_phase(Phase.PREPARING, reason)

    def _maybe_open_round(self, now: Micros) -> None:
        if not self._pacing.is_ready or self.publisher.state is not State.IDLE or self.phase is not Phase.TRAINING:
            self._pacing.say("")
            return
        limit = self._charter.averaging.entry_limit
        if self.publisher.next_number > limit:
            self._pacing.say("")
            self._set_phase(Phase.LISTENING, f"the charter's limit of {limit} entries is reached")
            return
        if self._key in self.ledger.accepted.retired:
            self._pacing.say("")
            self._set_phase(Phase.LISTENING, "this site was retired by an amendment")
            return
        if self._pacing.enough:
            self._pacing.say("")
            patience = self._charter.pace.patience
            self._set_phase(Phase.LISTENING, f"validation has not improved over {patience} entries")
            return
        reason = self._why_wait(now)
        self._pacing.say(reason)
        if not reason:
            self._pacing.opened(now)
            self._open_round()

    def _open_round(self) -> None:
        told = {key: self.antientropy.other_peer(key) for key in self._training()}
        training = {key: Trains(self._size_class(key), frozenset(t.heads)) for key, t in told.items() if t is not None}
        training[self._key] = Trains(self._size_class(self._key), frozenset(self.antientropy.heads))
        rules = self.ledger.rules
        weights = weights_of(self._key, training, rules.weight_cap, rules.cap_share)
        self.publisher.open(self._steps(), weights.trunk, weights.heads)

    def _steps(self) -> int:
        told = (self.antientropy.other_peer(key) for key in self._training())
        others = [t.step_us for t in told if t is not None]
        return self._pacing.steps(self._charter.averaging.steps_per_entry, others)

    def _why_wait(self, now: Micros) -> str:
        told = {key: self.antientropy.other_peer(key) for key in self._members.alive()}
        next_number = self.publisher.next_number
        if any(t is not None and t.vector.get(self._key, 0) >= next_number for t in told.values()):
            return "others hold entries of this site that its store lost; fetching them"
        lone = self.ledger.rules.lone_entries
        if lone is not None and next_number > lone and not self.ledger.vector.keys() - {self._key}:
            return "no other site has published yet"
        if self._key in self.ledger.faults:
            return "this site's log was ended by the others; its key must be replaced by an amendment"
        if self._pacing.is_settling and any(t is None for t in told.values()):
            return HEARING
        if self.ledger.stale:
            return "an amendment takes back entries that are folded away here; fetching a snapshot"
        if self.maintenance.fetcher.active:
            return self.maintenance.fetcher.progress
        training = self._training()
        missing = self._catching_up(len(training), now)
        if missing:
            return f"catching up: {missing} entries of the others are not here yet"
        present, needed = 1 + len(training), self._charter.start_sites
        if not self.ledger.vector and present < needed:
            return f"{present} of {needed} sites are ready to start"
        return self._why_slow_down(training, now)

    def _catching_up(self, training: int, now: Micros) -> int:
        """Entries missing here, if that is more than pace explains and they are coming in; else 0."""
        entries = sum(self.ledger.vector.values())
        if entries != self._grew[0]:
            self._grew = (entries, now)
        usual = 2 * self._charter.pace.max_lead * (1 + training)
        behind = self.antientropy.behind
        return behind if behind > usual and now < self._grew[1] + self._settings.catch_up else 0

    def _why_slow_down(self, training: list[SiteKey], now: Micros) -> str:
        own_head = self.publisher.next_number - 1
        if not self._pacing.holds_back({key: self.ledger.head(key) for key in training}, own_head, now):
            return ""
        return f"{self._charter.pace.max_lead} entries ahead of the slowest training site"

    def _training(self) -> list[SiteKey]:
        """Alive sites that publish, without us and without those whose log has ended."""
        told = ((key, self.antientropy.other_peer(key)) for key in self._members.alive())
        ended = self.ledger.accepted.ended
        return [k for k, t in told if t is not None and t.phase is Phase.TRAINING and k not in ended]

    def _size_class(self, key: SiteKey) -> int:
        return size_class(self._members, key)

    def _is_complete(self) -> bool:
        if self.phase is not Phase.LISTENING or self.publisher.state is not State.IDLE:
            return False
        mine, ended = self.ledger.vector, self.ledger.accepted.ended
        for key in self._members.alive():
            if key in ended or key in self.antientropy.stuck:
                # Who broke the rules, was retired or says what cannot be judged keeps nobody from finishing.
                continue
            told = self.antientropy.other_peer(key)
            if told is None or told.phase is not Phase.LISTENING or dict(told.vector) != mine:
                return False
        return True
