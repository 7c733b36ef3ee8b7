"""Carries out what a schedule says: each kind of happening as one function, and the healing at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution, RekeyRule, RetireRule
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.peers.campaigns import next_campaign
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.schedule import END_S, Happening, Schedule
from tests.testbed.peers.voting import Voting

LOSS = (0.05, 0.1, 0.2, 0.3)
TAKES_OVER_S = 12.0
"""A copy of a machine is started and has something to publish no sooner."""
OPERATORS_LOOK_EVERY_S = 60
OPERATORS_LOOK_FOR_S = 900
"""How long after everything healed operators still do what `status` asks for."""
SLOW_US = (50 * MILLISECOND, 500 * MILLISECOND, 3 * SECOND)


class Play:
    """One schedule on its way through a federation.

    Attributes:
        damaged: sites whose disk was lost, or replaced by an older one.
        copied: sites of which a copy ran.
        held_off: sites that are off and come back by themselves.
        retired: sites that an amendment retires.
        added: spare sites that an amendment adds.
        voting: who voted about whom.
    """

    def __init__(self, federation: PeerFederation, schedule: Schedule) -> None:
        self.federation = federation
        self.schedule = schedule
        self.damaged: set[int] = set()
        self.copied: set[int] = set()
        self.retired: set[int] = set()
        self.added: set[int] = set()
        self.voting = Voting(federation, self.at)
        self.done: list[Happening] = []
        self._lacks_attestations: set[int] = set()
        """Sites whose `status` named the order at the last look already: a wait of seconds asks nobody to decide."""
        self._backups: set[int] = set()
        self._amendments = 0
        """Signed so far: nobody signs two of one number."""
        for happening in schedule.happenings:
            self.at(round(happening.at_s * SECOND), partial(self._happen, happening))
        for due_s in range(round(END_S), round(END_S + OPERATORS_LOOK_FOR_S), OPERATORS_LOOK_EVERY_S):
            self.at(due_s * SECOND, self._operators_look)
        for late_s in (0, 10):
            # A site that was about to stop is off a moment later.
            self.at(round((END_S + late_s) * SECOND), self._heal)

    @property
    def honest(self) -> list[PeerSite]:
        """The sites that keep the rules, without copies of them."""
        last = self.schedule.founders - 1
        originals = self.federation.sites[: len(self.federation.world.identities)]
        return [site for site in originals if not (self.schedule.malice and site.index == last)]

    # ---- time ---------------------------------------------------------------------------------------------------

    def at(self, when: Micros, action: Callable[[], object]) -> None:
        """Do something at a time."""

        def act() -> None:
            action()

        self.federation.network.call_at(when, act)

    def _then(self, happening: Happening, undo: Callable[[], object]) -> None:
        """Undo a happening when its time is over, at the end of the schedule at the latest."""
        self.at(round(min(happening.at_s + happening.lasts_s, END_S) * SECOND), undo)

    def _happen(self, happening: Happening) -> None:
        site = self.federation.sites[happening.site]
        if HAPPENINGS[happening.what](self, site, happening) is not False:
            self.done.append(happening)

    def _heal(self) -> None:
        """Everything that can be mended is: whatever is still wrong after a while is a fault of ours."""
        federation = self.federation
        for site in self.honest:
            if site.index < self.schedule.founders or site.index in self.added:
                federation.start(site)
        for site in federation.sites:
            if site.index in self.copied and site.life is not None:
                # Where the copy was found out only after its operator had spoken, nobody else ends the pause.
                federation.order(site, "claim")

    def _operators_look(self) -> None:
        """Whoever reads in `status` for a while that `kmel-peer trust` would help, trusts the site that holds most."""
        before, self._lacks_attestations = self._lacks_attestations, set()
        for site in self.honest:
            waits = site.document().waits if site.life is not None else ()
            if not any("kmel-peer trust" in wait.reason for wait in waits):
                continue
            self._lacks_attestations.add(site.index)
            if site.index in before:
                self._trust_the_most(site)

    def _trust_the_most(self, site: PeerSite) -> None:
        lives = {other: other.life for other in self.honest if other is not site and other.life is not None}
        held = {other: sum(life.peer.averaging.vector.values()) for other, life in lives.items()}
        for other in sorted(held, key=held.__getitem__, reverse=True):
            happening = Happening(self.federation.network.now / SECOND, "trust", site.index, other.index)
            if self.trust(site, happening):
                self.done.append(happening)
                return

    # ---- power and disks ----------------------------------------------------------------------------------------

    def start(self, site: PeerSite, happening: Happening) -> None:
        self.federation.start(site)

    def power(self, site: PeerSite, happening: Happening) -> bool:
        return self._off(site, happening, partial(self.federation.lose_power, site))

    def kill(self, site: PeerSite, happening: Happening) -> bool:
        return self._off(site, happening, partial(self.federation.lose_power, site, reset=True))

    def stop(self, site: PeerSite, happening: Happening) -> bool:
        return self._off(site, replace(happening, lasts_s=happening.lasts_s + 3), partial(self.federation.stop, site))

    def wipe(self, site: PeerSite, happening: Happening) -> bool:
        def replaced() -> None:
            self.federation.lose_power(site)
            site.disk.wipe()
            self.damaged.add(site.index)

        return self._off(site, happening, replaced)

    def backup(self, site: PeerSite, happening: Happening) -> bool:
        if site.disk.is_new:
            return False
        site.disk.copy_to(self._backup_of(site))
        self._backups.add(site.number)
        return True

    def put_back(self, site: PeerSite, happening: Happening, as_image: bool = False) -> bool:
        if site.number not in self._backups:
            return False

        def replaced() -> None:
            self.federation.lose_power(site)
            site.disk.put_back(self._backup_of(site), as_image)
            self.damaged.add(site.index)

        return self._off(site, happening, replaced)

    def image(self, site: PeerSite, happening: Happening) -> bool:
        return self.put_back(site, happening, as_image=True)

    def twin(self, site: PeerSite, happening: Happening) -> bool:
        """The copy runs until the operator finds out, stops it and says which one goes on."""
        if site.life is None or site.index in self.copied:
            return False
        copy = self.federation.copy(site)
        self.copied.add(site.index)
        self.federation.start(copy)

        def decided() -> None:
            self.federation.lose_power(copy, reset=True)
            self.federation.order(site, "claim")

        self._then(happening, decided)
        return True

    def stand_still(self, site: PeerSite, happening: Happening) -> bool:
        """The machine stands still while a copy of its disk runs elsewhere, and goes on when that is gone."""
        network, host = self.federation.network, self.federation.hosts[site.number]
        if site.life is None or site.index in self.copied or not host.running:
            return False
        copy = self.federation.copy(site)
        self.copied.add(site.index)
        network.pause(host)
        self.federation.start(copy)

        def goes_on() -> None:
            self.federation.lose_power(copy, reset=True)
            network.resume(host, clock_stood_still=happening.other % 2 == 1)

        self._then(replace(happening, lasts_s=happening.lasts_s + TAKES_OVER_S), goes_on)
        return True

    def full_disk(self, site: PeerSite, happening: Happening) -> None:
        site.disk.full = True
        self._then(happening, site.disk.room)

    def slow_disk(self, site: PeerSite, happening: Happening) -> None:
        site.disk.latency_us = SLOW_US[happening.other % len(SLOW_US)]

        def fast() -> None:
            site.disk.latency_us = 2 * MILLISECOND

        self._then(happening, fast)

    def _off(self, site: PeerSite, happening: Happening, how: Callable[[], None]) -> bool:
        if site.life is None or site.life.leaving:
            return False
        how()
        self._then(happening, partial(self.federation.start, site))
        return True

    def _backup_of(self, site: PeerSite) -> Path:
        return self.federation.folder / f"backup{site.number}"

    # ---- network and clocks -------------------------------------------------------------------------------------

    def part(self, site: PeerSite, happening: Happening) -> None:
        one = [host for host in self._hosts() if happening.other >> host.index & 1]
        rest = [host for host in self._hosts() if not happening.other >> host.index & 1]
        self._block(happening, one, rest)
        self._block(happening, rest, one)

    def cut(self, site: PeerSite, happening: Happening) -> bool:
        if happening.other == happening.site:
            return False
        hosts = self.federation.hosts
        self._block(happening, [hosts[happening.site]], [hosts[happening.other]])
        return True

    def loss(self, site: PeerSite, happening: Happening) -> None:
        share = LOSS[happening.other % len(LOSS)]
        self._conditions(lambda conditions: replace(conditions, loss=share))
        self._then(happening, partial(self._conditions, lambda conditions: replace(conditions, loss=0.0)))

    def clock(self, site: PeerSite, happening: Happening) -> None:
        self.federation.network.jump_clock(self.federation.hosts[site.number], round(happening.lasts_s * SECOND))

    def pause(self, site: PeerSite, happening: Happening) -> None:
        network, host = self.federation.network, self.federation.hosts[site.number]
        network.pause(host)
        self._then(happening, partial(network.resume, host, clock_stood_still=happening.other % 2 == 1))

    def _hosts(self) -> list[Host]:
        return self.federation.hosts[: len(self.federation.world.identities)]

    def _block(self, happening: Happening, sources: list[Host], targets: list[Host]) -> None:
        network = self.federation.network
        network.block(sources, targets)
        self._then(happening, partial(network.unblock, sources, targets))

    def _conditions(self, change: Callable[[Conditions], Conditions]) -> None:
        network = self.federation.network
        for source in network.hosts.values():
            for target in network.hosts.values():
                direction = network.direction(source, target)
                direction.conditions = change(direction.conditions)

    # ---- people -------------------------------------------------------------------------------------------------

    def trainer(self, site: PeerSite, happening: Happening) -> None:
        self.federation.lose_trainer(site)

    def begin(self, site: PeerSite, happening: Happening) -> bool:
        """Who knows that a disk is old does not order what ends the log, unless it can go on in another epoch."""
        if site.index in self.damaged and not self.schedule.epochs:
            return False
        return self.federation.order(site, "begin")

    def trust(self, site: PeerSite, happening: Happening) -> bool:
        """The operator takes the word of another site for the ledger."""
        name = self.federation.world.rule(happening.other).name
        return site.life is not None and self.federation.order(site, "trust", site=name)

    def listen(self, site: PeerSite, happening: Happening) -> bool:
        return self.federation.order(site, "listen")

    def conclude(self, site: PeerSite, happening: Happening) -> bool:
        return self.federation.order(site, "conclude")

    def rest(self, site: PeerSite, happening: Happening) -> bool:
        """The operator pauses training for a while."""
        self._then(happening, partial(self.federation.order, site, "resume"))
        return self.federation.order(site, "pause")

    def block(self, site: PeerSite, happening: Happening) -> bool:
        if site.life is None or happening.other == happening.site:
            return False
        name = self.federation.world.rule(happening.other).name
        self._then(happening, partial(self.federation.order, site, "unblock", site=name))
        return self.federation.order(site, "block", site=name, reason="by a schedule")

    def extend(self, site: PeerSite, happening: Happening) -> bool:
        if site.life is None:
            return False
        return self._amend(site, entries=site.site.constitution.campaign.entries + 10) is not None

    def campaign(self, site: PeerSite, happening: Happening, sits_out: Collection[int] = ()) -> bool:
        """The site has the next campaign opened, after the entries that it holds."""
        return site.life is not None and bool(self._amend(site, campaign=next_campaign(site, happening.site, sits_out)))

    def sit_out(self, site: PeerSite, happening: Happening) -> bool:
        """A campaign in which some founders have no part."""
        out = [index for index in range(self.schedule.founders) if happening.other >> index & 1]
        return self.campaign(site, happening, out)

    def retire(self, site: PeerSite, happening: Happening) -> bool:
        """The site retires another one, as of the entries of it that it holds."""
        if site.life is None or happening.other == happening.site or self.retired:
            return False
        rule = self.federation.world.rule(happening.other)
        last = site.life.peer.averaging.vector.get(rule.site_key, 0)
        if self._amend(site, retire=(RetireRule(name=rule.name, last=last),)) is not None:
            self.retired.add(happening.other)
            return True
        return False

    def add(self, site: PeerSite, happening: Happening) -> bool:
        """A site is added, and starts with the amendments as files some time later."""
        spares = [new for new in self.federation.sites if new.index >= self.schedule.founders]
        fresh = [new for new in spares if new.index not in self.added and new.index < len(self._hosts())]
        if site.life is None or not fresh:
            return False
        newcomer = fresh[0]
        amended = self._amend(site, add=(self.federation.world.rule(newcomer.index),))
        if amended is None:
            return False
        self.added.add(newcomer.index)
        newcomer.constitution = amended
        self._then(happening, partial(self.federation.start, newcomer))
        return True

    def harm(self, site: PeerSite, happening: Happening) -> None:
        self.voting.look(self._among(happening.other), site, happening, harm=1.0)

    def calm(self, site: PeerSite, happening: Happening) -> None:
        self.voting.look(self._among(happening.other), site, happening, harm=0.0)

    def collude(self, site: PeerSite, happening: Happening) -> bool:
        """The last founder's key signs whatever votes it likes."""
        last = self.federation.sites[self.schedule.founders - 1]
        return last is not site and self.voting.collude(last, site, happening)

    def lift(self, site: PeerSite, happening: Happening) -> bool:
        """The sites decide that somebody who is suspended goes on."""
        if site.life is None or not isinstance(site.life.peer.averaging, LedgerAveraging):
            return False
        constitution = site.site.constitution
        suspended = [constitution.everyone[key].name for key in site.life.peer.averaging.ledger.suspended]
        names = [name for name in suspended if constitution.site_named(name) is not None]
        return bool(names) and self._amend(site, lift=tuple(sorted(set(names)))) is not None

    def _among(self, mask: int) -> list[PeerSite]:
        return [site for site in self.honest if site.index < self.schedule.founders and mask >> site.index & 1]

    def rekey(self, site: PeerSite, happening: Happening) -> bool:
        """Another site gets a new key: a spare site runs under it some time later."""
        spares = [new for new in self.federation.sites if new.index >= self.schedule.founders]
        fresh = [new for new in spares if new.index not in self.added and new.index < len(self._hosts())]
        if site.life is None or happening.other == happening.site or self.retired or not fresh:
            return False
        rule = self.federation.world.rule(happening.other)
        last = site.life.peer.averaging.vector.get(rule.site_key, 0)
        change = RekeyRule(name=rule.name, key=fresh[0].key.hex(), last=last)
        amended = self._amend(site, rekey=(change,))
        if amended is None:
            return False
        self.retired.add(happening.other)
        self.added.add(fresh[0].index)
        fresh[0].constitution = amended
        self._then(happening, partial(self.federation.start, fresh[0]))
        return True

    def rivals(self, site: PeerSite, happening: Happening) -> bool:
        """Two amendments of one number come into force on the two sides of a cut: some sites signed both."""

        def changes(end: PeerSite) -> list[Mapping[str, Any]]:
            limit = end.site.constitution.campaign.entries
            return [{"entries": limit + 10}, {"entries": limit + 20, "quorum": "two-thirds"}]

        return self._rivals(site, happening, changes)

    def rival_campaigns(self, site: PeerSite, happening: Happening) -> bool:
        """As `rivals`: a campaign on one side, on the other one another campaign or a longer run."""

        def changes(end: PeerSite) -> list[Mapping[str, Any]]:
            longer = {"entries": end.site.constitution.campaign.entries + 10}
            other = {"campaign": next_campaign(end, happening.site + 1)}
            return [{"campaign": next_campaign(end, happening.site)}, longer if happening.other % 2 else other]

        return self._rivals(site, happening, changes)

    def _rivals(
        self, site: PeerSite, happening: Happening, changes: Callable[[PeerSite], list[Mapping[str, Any]]]
    ) -> bool:
        sides = [[s for s in self.honest if happening.other >> s.index & 1 == side] for side in (1, 0)]
        ends = [next((s for s in half if self._may_amend(s)), None) for half in sides]
        if ends[0] is None or ends[1] is None:
            return False
        constitution = ends[0].site.constitution
        signers = [s for s in self.honest if s.key in constitution.roster]
        needed = constitution.signatures_needed
        if len(signers) < needed:
            return False
        halves = signers[:needed], signers[-needed:]
        try:
            documents = [constitution.draft(**change) for change in changes(ends[0])]
        except ConfigError:
            # As the command refuses: it lacks entries that an earlier campaign counts.
            return False
        self.part(site, happening)
        for end, document, half in zip(ends, documents, halves, strict=True):
            for signer in half:
                document = document.signed_by(self.federation.world.identities[signer.index], constitution)
            assert end is not None, "looked at above"
            self.federation.amend(end, document)
        self._amendments += 1
        return True

    def _may_amend(self, site: PeerSite) -> bool:
        """Whether a site is on, and goes by the newest amendments, as all others do that are on."""
        if site.life is None or site.site.constitution.number != self._amendments:
            return False
        heads = {other.site.constitution.head_hash for other in self.honest if other.life is not None}
        newest = site.site.constitution.head_hash
        had_rivals = any(happening.what.startswith("rival") for happening in self.done)
        return heads == {newest} or not had_rivals

    def _amend(self, site: PeerSite, **changes: object) -> Constitution | None:
        """An amendment signed by all honest sites of the roster; nobody signs two of one number.

        Returns what is agreed with it (a paused site takes it later); None: it was not handed in.
        """
        if not self._may_amend(site):
            return None
        constitution = site.site.constitution
        try:
            document: AmendmentDocument = constitution.draft(**changes)
        except ConfigError:
            # As the command refuses.
            return None
        for signer in self.honest:
            if signer.key in constitution.roster:
                document = document.signed_by(self.federation.world.identities[signer.index], constitution)
        if constitution.why_not_in_force(document):
            return None
        if not self.federation.amend(site, document):
            return None
        self._amendments += 1
        return constitution.followed_by(document)


HAPPENINGS: Mapping[str, Callable[[Play, PeerSite, Happening], bool | None]] = MappingProxyType(
    {
        "start": Play.start,
        "power": Play.power,
        "kill": Play.kill,
        "stop": Play.stop,
        "wipe": Play.wipe,
        "backup": Play.backup,
        "put back": Play.put_back,
        "image": Play.image,
        "twin": Play.twin,
        "stand still": Play.stand_still,
        "full disk": Play.full_disk,
        "slow disk": Play.slow_disk,
        "part": Play.part,
        "cut": Play.cut,
        "loss": Play.loss,
        "clock": Play.clock,
        "pause": Play.pause,
        "trainer": Play.trainer,
        "begin": Play.begin,
        "trust": Play.trust,
        "listen": Play.listen,
        "conclude": Play.conclude,
        "rest": Play.rest,
        "block": Play.block,
        "extend": Play.extend,
        "retire": Play.retire,
        "add": Play.add,
        "rekey": Play.rekey,
        "harm": Play.harm,
        "calm": Play.calm,
        "collude": Play.collude,
        "lift": Play.lift,
        "rivals": Play.rivals,
        "campaign": Play.campaign,
        "sit out": Play.sit_out,
        "rival campaigns": Play.rival_campaigns,
    }
)
"""By the word in a schedule; a function that changed nothing says False."""
