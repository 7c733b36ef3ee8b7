"""When the next round of a site may open in averaging mode `ledger`, and what stands in its way."""

from __future__ import annotations

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger import reasons
from kmel_p2p.core.ledger.catching_up import CatchingUp
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.own_campaign import OwnCampaign
from kmel_p2p.core.ledger.own_epochs import AGAIN, PARTED, OwnEpochs
from kmel_p2p.core.ledger.own_log import OwnLog
from kmel_p2p.core.ledger.publisher import Publisher
from kmel_p2p.core.ledger.snapshot.maintenance import Maintenance
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy
from kmel_p2p.core.ledger.sync.other_peers import OtherPeer
from kmel_p2p.core.rounds.contract import Phase, never_meet
from kmel_p2p.core.rounds.machine import HEARING, RoundMachine
from kmel_p2p.core.rounds.states import End, Wait
from kmel_p2p.core.types import Micros


class NextRound(RoundMachine):
    """The part of `LedgerAveraging` that decides about the next round. The attributes are those of the whole."""

    ledger: Ledger
    publisher: Publisher
    antientropy: AntiEntropy
    maintenance: Maintenance
    _charter: Charter
    _own_campaign: OwnCampaign
    _own_log: OwnLog
    _own_epochs: OwnEpochs
    _catching_up: CatchingUp

    @property
    def entry_limit(self) -> int:
        """Entries that this site may publish in all: see `OwnCampaign`."""
        return self._own_campaign.entry_limit

    @property
    def campaign(self) -> int:
        """The number of the campaign in force."""
        return self._own_campaign.now.number

    @property
    def before_campaign(self) -> int:
        """Own entries of earlier campaigns."""
        return self._own_campaign.before

    def _obstacle(self, now: Micros) -> Wait | End | None:
        if self._key in self.ledger.accepted.retired:
            return End("this site was retired by an amendment", may_go_on=False)
        if self.maintenance.amendments.left_out:
            return End(reasons.LEFT_OUT, may_go_on=False)
        if self._own_epochs.again:
            return self._wait_for_own_log() or self._wait_to_hear() or Wait(AGAIN)
        end = self._own_campaign.sits_out() or self._limit(self.publisher.next_number - 1) or self._plateau()
        end = end or self._alone_for_good()
        if end is not None:
            return end
        wait = self._wait_for_own_log() or self._wait_for_others(now)
        return wait or (End(reasons.COMES_AFTER_THE_END) if self._comes_after_the_end() else None)

    def _maybe_go_on(self) -> None:
        # With the others, not before them: what a newcomer heard of them may be from before the run was extended.
        if not self._is_new() or self._those_in(Phase.TRAINING):
            super()._maybe_go_on()

    def _is_new(self) -> bool:
        """Whether this site was added, and has published nothing yet where others have, in the campaign in force."""
        added = self._key not in self._charter.roster
        return added and self.publisher.next_number == 1 and self._own_campaign.has_begun

    def _comes_after_the_end(self) -> bool:
        """Whether the others were done before this site had a part. For a founder they go on (`LateFounders`)."""
        told = [self._told(key) for key in self._members.alive()]
        return self._is_new() and bool(told) and all(t is not None and t.phase is Phase.LISTENING for t in told)

    def _wait_for_own_log(self) -> Wait | None:
        """What rules out an own entry now, whatever the others do."""
        next_number = self.publisher.next_number
        holders = [k for k in self._members.alive() if self.antientropy.holds(k, self._key) >= next_number]
        if holders:
            return self.maintenance.fetching or Wait(reasons.LOST, tuple(holders))
        if self._runs_ahead_alone():
            return Wait("no other site has published yet", tuple(sorted(self._others())))
        if self.maintenance.claims.vote.outvoted:
            fetcher = self.maintenance.fetcher
            return Wait(reasons.OUTVOTED, fetcher.awaited, fetcher.until_us)
        if self._key in self.ledger.suspended:
            return Wait(reasons.SUSPENDED, tuple(self.ledger.votes.against(self._key)))
        if self._key in self.ledger.faults:
            return Wait(PARTED if self._own_epochs.may_help else reasons.ENDED)
        return None

    def _others(self) -> frozenset[SiteKey]:
        return self.ledger.rules.current - self._blocked - {self._key}

    def _runs_ahead_alone(self) -> bool:
        """Whether this site has published as much as the charter lets one that has seen no entry of another site."""
        lone = self.ledger.rules.lone_entries
        alone = not self.ledger.vector.keys() - {self._key}
        return lone is not None and alone and self.publisher.next_number > lone

    def _alone_for_good(self) -> End | None:
        """All others are in sight and done, and have published nothing: this site would wait for them for ever."""
        if not self._runs_ahead_alone():
            return None
        nobody = self._others() <= {*self._those_in(Phase.LISTENING), *self.ledger.accepted.ended}
        return End(reasons.NOBODY_ELSE) if nobody else None

    def _wait_to_hear(self) -> Wait | None:
        """What others may hold of this site's log; a site that it never meets has that from those whom both meet."""
        signed, asked = self.antientropy.statements.proved(self._key), self.ledger.rules.current - self._blocked
        met = (site for site in asked if not never_meet(self._members, self._key, site))
        return self._own_log.wait(frozenset(met), signed)

    def _wait_for_others(self, now: Micros) -> Wait | None:
        """What has to come in before the next round."""
        silent = [key for key in self._members.alive() if not self.antientropy.has_heard(key)]
        if self._pacing.is_settling and silent:
            return Wait(HEARING, tuple(silent), self._pacing.settled_at_us)
        if fetching := self.maintenance.fetching:
            return fetching
        training = self._those_in(Phase.TRAINING)
        missing, until_us = self._catching_up.look(self.ledger.vector, self.antientropy.behind, now)
        if missing:
            reason = f"catching up: {missing} entries of the others are not here yet"
            return Wait(reason, self.antientropy.ahead(), until_us, reasons.CATCHING_UP)
        if self.campaign > 1 and not self._begun:
            start = self._own_campaign.wait(self._may_take_part(), training)
        else:
            start = None if self.ledger.vector else self._start(training, self.ledger.rules.current - self._gave_up())
        heads, number = {key: self.ledger.head(key) for key in training}, self.publisher.next_number - 1
        return start or self._wait_to_hear() or self._too_far_ahead(heads, number, now)

    def _may_take_part(self) -> list[SiteKey]:
        """Alive sites whose logs go on, without those that listen although they know the campaign."""
        out = self.ledger.accepted.ended.keys() | self.ledger.suspended.keys() | self._blocked
        alive = [key for key in self._members.alive() if key not in out]
        informed = self.antientropy.states.named_our_state(self._those_in(Phase.LISTENING))
        return [key for key in alive if key not in informed]

    def _gave_up(self) -> frozenset[SiteKey]:
        """Sites that say that they listen and hold nothing: they will never begin. After a run, they hold entries."""
        order, listening = self.ledger.accepted.order, self._those_in(Phase.LISTENING)
        known = ((key, told.vector) for key in listening if (told := self._told(key)) is not None and told.explained)
        return frozenset(key for key, vector in known if vector is not None and not any(order.named(vector).values()))

    def _those_in(self, phase: Phase) -> list[SiteKey]:
        """Alive sites in this phase, without us and without those whose log has ended or that are suspended."""
        told = ((key, self._told(key)) for key in self._members.alive())
        out = self.ledger.accepted.ended.keys() | self.ledger.suspended.keys()
        return [k for k, t in told if t is not None and t.phase is phase and k not in out]

    def _told(self, key: SiteKey) -> OtherPeer | None:
        """What a site last told of itself."""
        return self.antientropy.other_peer(key)

    def _has_told_our_log(self, key: SiteKey) -> bool:
        """Whether a site has told how much it holds of this site's log, and has shown it, or could have."""
        told = self._told(key)
        known = told is not None and told.vector is not None and told.epochs == self.ledger.accepted.epochs.hash
        return known and not self.antientropy.statements.may_show(key, self._key)
