"""Digests and vectors: silence while nothing is amiss, the difference found when something is, no work for liars."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise

from kmel_p2p.agreement.errors import RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import EntryRefused, HeadUnproved
from kmel_p2p.core.ledger.log.entry import NO_AMENDMENTS, decode_stub
from kmel_p2p.core.ledger.log.epoch import NO_EPOCHS
from kmel_p2p.core.ledger.sync.messages import MAX_SHOWN, Have, Holdings
from kmel_p2p.core.ledger.sync.own_states import KEPT, OwnStates
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings, Rhythm
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Micros
from tests.support.plain_ledgers import identities, new_ledger, next_entry
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.host import Host

CALM = AntiEntropySettings().calm_us


class Sent:
    """Counts messages by type."""

    def __init__(self) -> None:
        self.count: Counter[type] = Counter()

    def stepped(self, host: Host, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        if isinstance(effect, Send):
            self.count[type(effect.message)] += 1


def complete(sites: int, seed: int) -> LedgerFederation:
    made = LedgerFederation(toy_world(sites, {"entry_limit": 4}), seed)
    made.start_all()
    assert made.run(120 * SECOND, until=made.all_complete)
    return made


def test_where_nothing_changes_a_site_says_little_and_no_vector_moves() -> None:
    made = complete(5, seed=1)
    made.run(120 * SECOND)
    sent = Sent()
    made.network.watchers.append(sent)
    made.run(20 * CALM)
    assert not sent.count[Holdings]
    # Each sends about one in `CALM` and answers as many.
    assert 5 * 20 <= sent.count[Have] <= 5 * 20 * 3


def test_entries_that_were_lost_are_found_although_no_other_follows() -> None:
    made = LedgerFederation(toy_world(4, {"entry_limit": 4}), seed=2)
    made.start_all()
    assert made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[0].key) >= 3)
    others = [made.host(index) for index in (0, 1, 3)]
    made.network.block(others, [made.host(2)])
    made.run(SECOND)  # nobody notices, and what is sent meanwhile is gone
    made.network.unblock(others, [made.host(2)])
    assert made.run(2 * CALM, until=lambda: sum(made.averaging(2).ledger.vector.values()) == 16)
    assert made.run(2 * CALM, until=made.all_complete)


def answers(averaging: LedgerAveraging) -> list[Holdings]:
    sent = [effect.message for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
    return [message for message in sent if isinstance(message, Holdings)]


def question(averaging: LedgerAveraging, vector: RosterVector, headers: tuple[bytes, ...] = ()) -> Holdings:
    return Holdings(0, NO_AMENDMENTS, vector, bytes(32), {}, NO_EPOCHS, headers, True)


def test_who_asks_again_and_again_is_answered_twice_a_second_at_most() -> None:
    made = complete(4, seed=3)
    averaging, asker, now = made.averaging(0), made.sites[1].key, made.network.now
    nothing = averaging.ledger.accepted.order.vector({})
    answers(averaging)
    for step in range(100):
        averaging.receive(asker, question(averaging, nothing), now + step * SECOND // 50)
    told = answers(averaging)
    assert 2 <= len(told) <= 5
    for message in told:
        headers = [decode_stub(stub) for stub in message.headers]
        # Its own log first, each with the header that the vector names.
        assert headers[0].author == asker
        assert {header.author: header.number for header in headers} == averaging.ledger.vector


def test_a_forged_header_proves_nothing_and_its_sender_is_told_of() -> None:
    made = complete(4, seed=4)
    averaging, liar, author = made.averaging(0), made.sites[1].key, made.sites[2].key
    order, ledger = averaging.ledger.accepted.order, averaging.ledger
    here = ledger.head(author)
    newest = ledger.accepted.log(author).newest
    assert newest is not None
    forged = dataclasses.replace(
        next_entry(identities(4)[2], new_ledger(identities(4))), author=author, charter_id=made.world.charter.id
    )
    vector = order.vector({**ledger.vector, author: here + 7})
    made.network.command(made.host(0), Delivered(liar, question(averaging, vector, (forged.stub(),) * MAX_SHOWN)))
    assert averaging.antientropy.credible(liar).get(author) == here
    assert averaging.antientropy.offered(liar).get(author) == here
    made.run(60 * SECOND)
    assert SiteKey(liar) in {e.site for e in made.events(0, HeadUnproved) if isinstance(e, HeadUnproved)}
    assert not any(isinstance(e, EntryRefused) and e.sender != liar for e in made.events(0, EntryRefused))


def test_states_are_remembered_and_told_apart() -> None:
    sites = identities(3)
    ledger = new_ledger(sites)
    states = OwnStates(ledger)
    seen = [states.now()]
    for number in range(6):
        ledger.offer(next_entry(sites[number % 3], ledger, units=1000 + number))
        seen.append(states.now())
        assert states.now() == seen[-1]
    assert len(set(seen)) == 7
    known = states.get(seen[3])
    assert known is not None
    assert sum(number for _, number in known.vector.items()) == 3
    assert known.chains == ledger.accepted.chains(known.vector)
    other = OwnStates(new_ledger(sites))
    assert other.now() == seen[0]
    assert len(states._known) <= KEPT


def test_the_pause_doubles_until_something_is_amiss() -> None:
    class Middle:
        def randrange(self, stop: int) -> int:
            return stop // 2

    settings = AntiEntropySettings()
    rhythm = Rhythm(settings, Middle(), 0)  # type: ignore[arg-type]
    sent = [now for now in range(0, 300 * SECOND, SECOND) if rhythm.is_due(now, waits=False)]
    pauses = [(b - a) // SECOND for a, b in pairwise(sent)]
    assert pauses == [2, 4, 8, 16, *[30] * (len(pauses) - 4)]
    rhythm.amiss(300 * SECOND)
    sent = [now for now in range(300 * SECOND, 310 * SECOND, SECOND) if rhythm.is_due(now, waits=False)]
    assert [now // SECOND for now in sent] == [301, 303, 307]
    rhythm.amiss(400 * SECOND)
    sent = [now for now in range(400 * SECOND, 430 * SECOND, SECOND) if rhythm.is_due(now, waits=True)]
    assert max(b - a for a, b in pairwise(sent)) == settings.awaited_us
