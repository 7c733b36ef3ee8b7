"""One trunk at every site, in whatever order votes, entries, amendments, proofs, restarts and snapshots come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Persist
from kmel_p2p.core.ledger.events import AmendmentRecord, CompactionRecord, SnapshotRecord, VoteRecord
from kmel_p2p.core.ledger.harm.suspensions import vote_reach
from kmel_p2p.core.ledger.harm.vote import HarmVote, cast
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.epoch import Epoch, begin
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, changes
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.snapshot import genesis
from tests.support.plain_ledgers import next_entry
from tests.testbed.ledger.site import Disk
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk

SITES = toy_identities(8)
FOUNDERS = 5
AUTHOR = 0
LAST = 24
"""Entries of each site, but for those that are retired before."""


class Replica:
    """A ledger and its disk."""

    def __init__(self, charter: Charter) -> None:
        self.charter = charter
        self.disk = Disk(ToyCodec(), genesis(charter.id, Accumulator.from_trunk(toy_trunk())))
        self.ledger = fresh(charter)

    def take(self, item: object) -> None:
        ledger = self.ledger
        if isinstance(item, Entry):
            self._record(ledger.offer(item))
        elif isinstance(item, HarmVote):
            if ledger.vote(item):
                self._keep(VoteRecord(item.encode()))
        elif isinstance(item, AmendmentDocument):
            constitution = ledger.constitution
            assert constitution is not None
            if item.amendment.number == constitution.number + 1:
                self._record(ledger.amend(constitution.followed_by(item)))
                self._keep(AmendmentRecord(item.amendment.number, item.encode()))
        elif isinstance(item, tuple):
            self._record(ledger.offer_proof(item))

    def compact(self) -> None:
        """As `Retention` does where everybody holds what is here; votes protect what they are against."""
        ledger, retain = self.ledger, 2 * vote_reach(self.ledger.constitution)
        if ledger.stale:
            return
        until = {}
        for key, head in ledger.vector.items():
            firsts = [vote.first for vote in ledger.votes.against(key).values()]
            until[key] = min([head - retain, *(first - 1 for first in firsts)])
        until = {key: number for key, number in until.items() if number > ledger.accepted.floor.get(key, 0)}
        documents = ledger.constitution.documents if ledger.constitution is not None else ()
        encoded = tuple(document.encode() for document in documents)
        self._keep(CompactionRecord(until, dict(ledger.accepted.withdrawn), encoded))
        ledger.compact(until)

    def restart(self) -> None:
        self.ledger = self.disk.restored(fresh(self.charter), self.charter)

    def adopt(self, giver: Replica) -> None:
        ours, theirs = self.ledger.constitution, giver.ledger.constitution
        assert ours is not None
        assert theirs is not None
        if giver.ledger.stale or theirs.number < ours.number:
            return
        snapshot = giver.ledger.snapshot()
        assert snapshot.problem() == ""
        ended = dict(self.ledger.accepted.ended)
        outcome = self.ledger.adopt(snapshot)
        self._keep(SnapshotRecord(snapshot, outcome.kept, SITES[1].key, ()))
        for document in theirs.documents[ours.number :]:
            self._keep(AmendmentRecord(document.amendment.number, document.encode()))
        self._record(outcome, ended)
        for vote in self.ledger.votes:
            self._keep(VoteRecord(vote.encode()))

    def state(self) -> tuple[bytes, dict[SiteKey, int], bytes]:
        return self.ledger.digest(), dict(self.ledger.suspended), self.ledger.votes.digest()

    def _record(self, outcome: Outcome, ended: dict[SiteKey, int] | None = None) -> None:
        for effect in changes(outcome, self.ledger.accepted, SITES[1].key, ended):
            if isinstance(effect, Persist):
                self._keep(effect.record)

    def _keep(self, record: object) -> None:
        self.disk.write(record, 0)  # type: ignore[arg-type]
        self.disk.settle(0)


def fresh(charter: Charter) -> Ledger:
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), Rules.of(charter, ToyCodec.codec_id, toy_trunk()))
    ledger.amend(Constitution(charter))
    return ledger


def signed(constitution: Constitution, **changed: object) -> AmendmentDocument:
    document = constitution.draft(**changed)
    for who in SITES:
        if who.key in constitution.roster:
            document = document.signed_by(who, constitution)
    return document


def history(charter: Charter, rng: Random) -> list[object]:
    """What happened, in an order in which it could: entries, votes, amendments, perhaps a fork, round by round."""
    writer = Replica(charter)
    found: list[object] = []

    def happens(item: object) -> None:
        found.append(item)
        writer.take(item)

    at = {rng.randrange(3, LAST - 2): kind for kind in rng.sample(AMENDMENTS, rng.randint(0, 4))}
    for number in range(1, LAST + 1):
        constitution = writer.ledger.constitution
        assert constitution is not None
        if number in at:
            changed = at[number](constitution, writer.ledger)
            if changed:
                happens(signed(constitution, **changed))
                constitution = writer.ledger.constitution
                assert constitution is not None
        for place, who in enumerate(SITES):
            if who.key in constitution.roster and not writer.ledger.accepted.is_ended(who.key, number):
                head = writer.ledger.head(who.key)
                entry = next_entry(who, writer.ledger, 1000 + place, head % 16, charter_id=charter.id)
                if place == AUTHOR and number == LAST - 4 and rng.random() < 0.3:
                    other = next_entry(who, writer.ledger, 1003, 5, charter_id=charter.id)
                    stubs = sorted((entry, other), key=lambda each: each.hash)
                    happens(entry)
                    happens(tuple(each.stub() for each in stubs))
                    continue
                happens(entry)
        for _ in range(rng.randint(0, 2)):
            happens(some_vote(charter, constitution, rng, number))
    return found


def some_vote(charter: Charter, constitution: Constitution, rng: Random, head: int) -> HarmVote:
    voter = rng.randrange(1, len(SITES))
    reach = vote_reach(constitution)
    number = rng.randint(1, head + 1)
    first = rng.randint(max(1, number - reach), number)
    author = SITES[AUTHOR if rng.random() < 0.7 else rng.randrange(1, FOUNDERS)].key
    if author == SITES[voter].key:
        author = SITES[AUTHOR].key
    term = rng.choice((constitution.lifted.get(author, 0), 0, 1))
    return cast(SITES[voter], charter.id, author, term, (first, number), {0: 2}, rng.random() < 0.8)


def lift(constitution: Constitution, ledger: Ledger) -> dict[str, object]:
    return {"lift": ["site0"]} if SITES[AUTHOR].key in constitution.roster else {}


def add(constitution: Constitution, ledger: Ledger) -> dict[str, object]:
    new = [who for who in SITES[FOUNDERS:-1] if who.key not in constitution.everyone]
    return {"add": [{"name": f"new{len(new)}", "key": new[0].key.hex()}]} if new else {}


def rekey(constitution: Constitution, ledger: Ledger) -> dict[str, object]:
    if SITES[-1].key in constitution.everyone or constitution.site_named("site1") is None:
        return {}
    return {"rekey": [{"name": "site1", "key": SITES[-1].key.hex(), "last": ledger.head(SITES[1].key)}]}


def retire_voter(constitution: Constitution, ledger: Ledger) -> dict[str, object]:
    if constitution.site_named("site2") is None:
        return {}
    return {"retire": [{"name": "site2", "last": ledger.head(SITES[2].key)}]}


def retire_author(constitution: Constitution, ledger: Ledger) -> dict[str, object]:
    head = ledger.head(SITES[AUTHOR].key)
    first = ledger.suspended.get(SITES[AUTHOR].key, 0)
    if constitution.site_named("site0") is None or first > head:
        return {}
    return {"retire": [{"name": "site0", "last": head, "retract_from": first}]}


AMENDMENTS: list[Callable[[Constitution, Ledger], dict[str, object]]] = [
    lift, lift, add, add, rekey, retire_voter, retire_author
]  # fmt: skip


def played(charter: Charter, items: Iterable[object], rng: Random, others: list[Replica]) -> Replica:
    """A site to which all of it came in some order, with restarts, compaction and snapshots meanwhile."""
    replica, items = Replica(charter), list(items)
    far = rng.choice((0.0, 2.0, 10.0, 1000.0))
    order = sorted(range(len(items)), key=lambda place: place + far * rng.random())
    for place in order:
        replica.take(items[place])
        chance = rng.random()
        if chance < 0.02:
            replica.restart()
        elif chance < 0.06:
            replica.compact()
        elif chance < 0.07 and others:
            replica.adopt(rng.choice(others))
    # What was left comes again.
    for _ in range(4):
        for item in items:
            replica.take(item)
    return replica


@pytest.mark.parametrize("seed", range(20))
def test_every_order_ends_with_one_trunk_and_one_set_of_suspended_sites(seed: int) -> None:
    rng = Random(f"suspension orders {seed}")
    charter = toy_charter(
        SITES[:FOUNDERS],
        {"retain_entries": 16, "suspension_quorum": "majority", "epochs": True, "entry_limit": 1000},
        {"start_sites": 1, "max_lead": 4},
    )
    items = history(charter, rng)
    replicas: list[Replica] = []
    for _ in range(4):
        replicas.append(played(charter, items, rng, replicas))
    heads = {tuple(replica.ledger.vector.items()) for replica in replicas if not replica.ledger.stale}
    assert len({replica.state()[1:] == replicas[0].state()[1:] for replica in replicas}) == 1
    sound = [replica for replica in replicas if not replica.ledger.stale]
    if sound:
        assert len(heads) == 1
        assert len({replica.state()[0] for replica in sound}) == 1
        for replica in replicas:
            if replica.ledger.stale:
                replica.adopt(sound[0])
    else:
        # Nobody can help anybody: a decision of people does.
        constitution = replicas[0].ledger.constitution
        assert constitution is not None
        document = signed(constitution, lift=["site0"])
        for replica in replicas:
            replica.take(document)
    for replica in replicas:
        assert not replica.ledger.stale
        assert replica.state() == replicas[0].state()
        before = replica.state()
        replica.restart()
        assert replica.state() == before


@pytest.mark.parametrize("seed", range(6))
def test_a_suspended_site_exchanges_no_branch_of_its_log_for_one_that_nobody_voted_about(seed: int) -> None:
    charter = toy_charter(
        SITES[:4], {"retain_entries": 32, "suspension_quorum": "majority", "epochs": True}, {"start_sites": 1}
    )
    author, common, public = SITES[AUTHOR], Replica(charter), Replica(charter)

    def grown(replica: Replica, units: int, until: int) -> list[Entry]:
        made = []
        while (number := replica.ledger.head(author.key) + 1) <= until:
            made.append(next_entry(author, replica.ledger, units, number % 16, charter_id=charter.id))
            replica.take(made[-1])
        return made

    shared = [next_entry(who, common.ledger, 1000, charter_id=charter.id) for who in SITES[:4]]
    for each in shared:
        common.take(each)
        public.take(each)
    first, second = grown(public, 1000, 20), grown(common, 1400, 24)
    votes = [cast(SITES[voter], charter.id, author.key, 0, (15, 20), {0: 2}, True) for voter in (1, 2)]
    stubs = sorted((first[0], second[0]), key=lambda entry: entry.hash)
    epoch = begin(author, charter.id, 1, 2, tuple(entry.hash for entry in first))
    items = [*shared, *first, *second, *votes, tuple(each.stub() for each in stubs), epoch]
    rng = Random(seed)
    rng.shuffle(items)
    replica = Replica(charter)
    for _ in range(3):
        for item in items:
            if isinstance(item, Epoch):
                replica.ledger.begin_epoch(item)
            else:
                replica.take(item)
    assert replica.ledger.head(author.key) == 24
    assert replica.ledger.suspended == {author.key: 15}
    assert replica.ledger.accepted.withdrawn == {author.key: 2}
    replica.take(signed(Constitution(charter), lift=["site0"]))
    assert replica.ledger.accumulator.digest() == common.ledger.accumulator.digest()
