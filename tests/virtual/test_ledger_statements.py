"""A site that says logs go further than they do holds nobody up for longer than its word counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from kmel_p2p.agreement.errors import RemoteError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.events import EntryRefused, HeadShown, HeadUnproved, SnapshotAdopted
from kmel_p2p.core.ledger.log.entry import NO_AMENDMENTS, create
from kmel_p2p.core.ledger.snapshot import maintenance
from kmel_p2p.core.ledger.sync import forks
from kmel_p2p.core.ledger.sync import statements as statements_module
from kmel_p2p.core.ledger.sync.messages import ANY_HASH, Compacted, Have, Heads, Holdings, LogHead, Stubs
from kmel_p2p.core.ledger.sync.own_states import state_digest
from kmel_p2p.core.ledger.sync.statements import ASK_AFTER, MOVES_WITHIN, SHOWN_WITHIN, LogStatements
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import Delivered, LedgerHost
from tests.testbed.ledger.toy import toy_world
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions

LIAR = 3
FAR = 2**39
LIMIT = 30

Lie = Callable[[SiteKey, SiteKey], dict[SiteKey, int]]
"""(liar, receiver) -> the numbers that the liar names wrongly."""


class LyingHost(LedgerHost):
    """An honest machine whose vectors are changed on their way to those who have published."""

    def __init__(self, averaging: LedgerAveraging, lie: Lie) -> None:
        super().__init__(averaging)
        self._lie = lie

    def poll(self) -> Effect | None:
        effect = super().poll()
        if not isinstance(effect, Send) or not isinstance(effect.message, (Have, Holdings)):
            return effect
        accepted, message = self.averaging.ledger.accepted, effect.message
        numbers = accepted.held.padded(len(accepted.order) + 1)
        for key, number in self._lie(self.averaging.antientropy._own, effect.to).items():
            numbers[accepted.order.place(key) if key in accepted.order else len(accepted.order)] = number
        vector, chains = RosterVector.of(numbers), accepted.chains(accepted.held)
        assert chains is not None
        if isinstance(message, Have):
            state = state_digest(NO_AMENDMENTS, vector, chains, {})
            return dataclasses.replace(effect, message=dataclasses.replace(message, state=state))
        return dataclasses.replace(effect, message=dataclasses.replace(message, vector=vector))


def federation(lie: Lie | None) -> LedgerFederation:
    world = toy_world(4, {"entry_limit": LIMIT, "retain_entries": 16}, {"max_lead": 2})
    if lie is not None:
        told = lie
        world = dataclasses.replace(
            world, make_host=lambda i, averaging: LyingHost(averaging, told) if i == LIAR else LedgerHost(averaging)
        )
    made = LedgerFederation(world, seed=21)
    made.start_all()
    return made


def until_trained(made: LedgerFederation) -> int:
    """Microseconds until the three honest sites have published all they may."""

    def done() -> bool:
        ledger = made.averaging(0).ledger
        return all(ledger.head(made.sites[index].key) == LIMIT for index in range(LIAR))

    assert made.run(900 * SECOND, until=done), [made.averaging(i).waiting for i in range(4)]
    return made.network.now


def test_naming_a_few_entries_more_each_time_delays_nobody() -> None:
    honest = until_trained(federation(None))
    there: list[LedgerFederation] = []

    def one_more(own: SiteKey, to: SiteKey) -> dict[SiteKey, int]:
        heads = [made.averaging(site.index).ledger.head(to) for made in there for site in made.sites if site.key == to]
        return {to: heads[0] + 3} if heads else {}

    made = federation(one_more)
    there.append(made)
    assert until_trained(made) <= honest + 5 * SECOND


def test_a_number_counts_for_nothing_before_its_header_is_shown() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    made.partition([2], [0, 1, 3])
    made.run(20 * SECOND)
    statements, ledger = made.averaging(2).antientropy.statements, made.averaging(2).ledger
    author = made.sites[1].key
    further = made.averaging(0).ledger.head(author)
    here = ledger.head(author)
    assert further > here
    statements.said(made.sites[0].key, {author: further}, made.network.now)
    assert statements.credible({author: further}) == statements.offered({author: further}) == {author: here}
    header = made.averaging(0).ledger.accepted.header(author, further)
    assert header is not None
    with pytest.raises(WireError, match="proves nothing"):
        statements.shown(dataclasses.replace(header, signature=bytes(64)), made.network.now)
    statements.shown(header, made.network.now)
    assert statements.credible({author: further}) == statements.offered({author: further}) == {author: further}


def test_who_says_that_a_log_goes_further_shows_its_header_unasked() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    made.partition([2], [0, 1, 3])
    made.run(20 * SECOND)
    asked: list[Heads] = []
    told: list[Holdings] = []

    class Watcher:
        def stepped(self, host: Host, now: Micros) -> None: ...
        def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...
        def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
            if isinstance(effect, Send) and isinstance(effect.message, Heads):
                asked.append(effect.message)
            elif isinstance(effect, Send) and isinstance(effect.message, Holdings):
                told.append(effect.message)

    here = dict(made.averaging(0).ledger.vector)
    made.network.watchers.append(Watcher())
    made.heal([2], [0, 1, 3])
    made.run(20 * SECOND)
    assert all(made.averaging(2).ledger.head(author) >= number for author, number in here.items())
    assert any(message.headers for message in told)
    assert not asked


@pytest.mark.parametrize("alive", [True, False], ids=["after a long sleep", "out of reach"])
def test_nobody_is_named_for_time_in_which_it_could_prove_nothing(alive: bool) -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    averaging, now = made.averaging(0), made.network.now
    statements, sayer = averaging.antientropy.statements, made.sites[1].key
    ahead = {sayer: averaging.ledger.head(sayer) + 1}
    statements.advance([sayer], now)
    statements.said(sayer, ahead, now)
    if alive:
        statements.advance([sayer], now + 3600 * SECOND)
    else:
        wait(statements, [], now, 100 * SECOND)
    assert not any(isinstance(getattr(e, "event", None), HeadUnproved) for e in iter(averaging.poll, None))


def test_an_entry_that_was_taken_back_need_not_be_shown() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    averaging, now = made.averaging(0), made.network.now
    statements, sayer, author = averaging.antientropy.statements, made.sites[1].key, made.sites[2].key
    statements.said(sayer, {author: averaging.ledger.head(author) + 2}, now)
    averaging.ledger.accepted.retired[author] = averaging.ledger.head(author) + 1
    wait(statements, [sayer], now, 2 * SHOWN_WITHIN)
    assert not any(isinstance(getattr(e, "event", None), HeadUnproved) for e in iter(averaging.poll, None))


def test_who_says_all_the_time_that_entries_were_dropped_is_not_the_only_one_asked() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    averaging, now = made.averaging(0), made.network.now
    loud, quiet, author = made.sites[LIAR].key, made.sites[1].key, made.sites[2].key
    averaging.antientropy.statements.said(quiet, {author: FAR - 1}, now)
    asked: set[SiteKey] = set()
    for _ in range(40):
        now += SECOND // 2
        floor = averaging.ledger.accepted.order.vector({author: FAR})
        averaging.maintenance.receive(loud, Compacted(NO_AMENDMENTS, floor), now)
        averaging.antientropy.statements.advance([loud, quiet], now)
        sent = [effect for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
        asked |= {effect.to for effect in sent if isinstance(effect.message, Heads)}
    assert asked == {loud, quiet}


def test_headers_asked_for_as_proof_do_not_wait_behind_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 20)
    averaging, asker, author = made.averaging(0), made.sites[2].key, made.sites[1].key
    monkeypatch.setattr(forks, "PROOF_BYTES", 2000)
    asked = tuple(LogHead(author, number, ANY_HASH) for number in range(1, 21))
    averaging.antientropy._forks.on_heads(asker, Heads(asked))
    sent = [effect for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
    answers = [(effect.lane, effect.message) for effect in sent if isinstance(effect.message, Stubs)]
    told = [(lane, stub) for lane, message in answers for stub in message.stubs]
    headers = [averaging.ledger.accepted.header(author, number) for number in range(1, 21)]
    assert [stub for _, stub in told] == [header.stub() for header in headers if header is not None]
    quick = [message for lane, message in answers if lane is Lane.CONTROL]
    assert 1 < len(quick) <= forks.PROOFS_AT_ONCE
    assert all(sum(map(len, message.stubs)) <= 2000 for message in quick)


def test_a_number_of_nobodys_log_delays_nobody() -> None:
    honest = until_trained(federation(None))
    made = federation(lambda own, to: {SiteKey(b"\xee" * 32): FAR})
    assert until_trained(made) == honest
    for index in range(LIAR):
        refused = [e for e in made.events(index, EntryRefused) if isinstance(e, EntryRefused)]
        assert {(event.sender, event.reason) for event in refused} == {
            (made.sites[LIAR].key, "its vector counts sites that were never on the roster")
        }


LIES: list[Lie] = [lambda own, to: {to: FAR}, lambda own, to: {own: FAR}, lambda own, to: {own: 40, to: 40}]


@pytest.mark.parametrize("lie", LIES, ids=["of the receiver's log", "of its own log", "of both, and not far"])
def test_a_number_that_nobody_proves_delays_nobody_and_its_sayer_is_named(lie: Lie) -> None:
    honest = until_trained(federation(None))
    made = federation(lie)
    assert until_trained(made) <= honest + 5 * SECOND
    assert made.run(120 * SECOND, until=lambda: all(made.averaging(i).complete for i in range(LIAR)))
    made.run(SHOWN_WITHIN + 10 * SECOND)
    named = {event.site for i in range(LIAR) for event in made.events(i, HeadUnproved)}  # type: ignore[attr-defined]
    assert named == {made.sites[LIAR].key}
    # Once per log that is lied about.
    assert all(1 <= len(made.events(i, HeadUnproved)) <= 2 for i in range(LIAR))
    assert not any(made.events(i, SnapshotAdopted) for i in range(LIAR))


def test_a_site_that_says_entries_were_dropped_makes_nobody_fetch_a_snapshot() -> None:
    made = federation(lambda own, to: {own: FAR})
    liar = made.sites[LIAR].key
    for _ in range(60):
        floor = made.averaging(0).ledger.accepted.order.vector({liar: FAR, made.sites[0].key: FAR})
        made.network.command(made.host(0), Delivered(liar, Compacted(NO_AMENDMENTS, floor)))
        made.run(SECOND)
    assert not made.events(0, SnapshotAdopted)
    assert not made.averaging(0).maintenance.fetcher.active


def test_a_newcomer_whose_first_tries_are_in_vain_still_comes_to_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs is compacted, so no log moves there, however true the headers are."""
    monkeypatch.setattr(statements_module, "MOVES_WITHIN", 30 * SECOND)
    monkeypatch.setattr(maintenance, "AGAIN_MOST", 60 * SECOND)
    made = LedgerFederation(toy_world(3, {"entry_limit": LIMIT, "retain_entries": 8}), seed=4)
    made.start(0)
    made.start(1)
    made.run(600 * SECOND, until=lambda: made.averaging(0).ledger.accepted.floor.get(made.sites[0].key, 0) > 8)
    made.start(2)
    with monkeypatch.context() as patch:
        patch.setattr(made.averaging(2).maintenance.fetcher, "want", lambda now: None)
        made.run(60 * SECOND)
    assert not made.averaging(2).ledger.vector
    assert made.run(90 * SECOND, until=lambda: bool(made.events(2, SnapshotAdopted)))


def test_what_a_site_lost_is_waited_for_although_its_entries_are_slow_to_come() -> None:
    """A header with this site's own signature is proof: it never numbers entries anew that others hold."""
    conditions = Conditions(latency_us=50 * MILLISECOND)
    made = LedgerFederation(toy_world(3, {"entry_limit": 30}, conditions=conditions), seed=5)
    made.start_all()
    key = made.sites[0].key
    made.run(120 * SECOND, until=lambda: made.averaging(1).ledger.head(key) >= 5)
    made.crash(0)
    made.run(10 * SECOND)
    before = made.averaging(1).ledger.head(key)
    made.sites[0].disk.lost()
    for index in (1, 2):
        # They show headers and answer everything else, but give no entries.
        averaging = made.averaging(index)
        averaging.ledger.accepted.get = lambda author, number: None  # type: ignore[method-assign]
    made.start(0)
    made.run(4 * SHOWN_WITHIN)
    assert made.averaging(0).publisher.next_number <= before
    assert "its store lost" in made.averaging(0).waiting
    assert not made.averaging(1).ledger.faults


def test_a_site_that_was_named_is_cleared_when_it_shows_the_header() -> None:
    made = federation(None)
    made.run(200 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 12)
    made.partition([2], [0, 1, 3])
    made.run(200 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 24)
    statements = made.averaging(2).antientropy.statements
    sayer, now = made.sites[0].key, made.network.now
    ahead = made.averaging(0).ledger.vector
    statements.said(sayer, ahead, now)
    now = wait(statements, [sayer], now, SHOWN_WITHIN + SECOND)
    told = [effect.event for effect in iter(made.averaging(2).poll, None) if hasattr(effect, "event")]
    assert {event.site for event in told if isinstance(event, HeadUnproved)} == {sayer}
    for author, number in ahead.items():
        header = made.averaging(0).ledger.accepted.header(author, number)
        assert header is not None
        statements.shown(header, now)
    statements.advance([], now)
    assert statements.credible(ahead) == ahead
    told = [effect.event for effect in iter(made.averaging(2).poll, None) if hasattr(effect, "event")]
    assert HeadShown(sayer) in told


def wait(statements: LogStatements, alive: list[SiteKey], now: Micros, for_us: Micros) -> Micros:
    """Let time pass second by second; returns the time then."""
    for second in range(0, for_us + 1, SECOND):
        statements.advance(alive, now + second)
    return now + for_us


def test_a_header_that_no_entries_lead_to_counts_only_while_its_log_moves() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[LIAR].key) >= 3)
    liar, statements, now = made.sites[LIAR], made.averaging(0).antientropy.statements, made.network.now
    ledger = made.averaging(0).ledger
    vector = ledger.accepted.order.vector({liar.key: FAR - 1})
    basis = dataclasses.replace(ledger.accepted.basis_for(liar.key), vector=vector)
    header = create(
        made.world.identities[LIAR],
        charter_id=made.world.charter.id,
        number=FAR,
        previous=bytes(32),
        basis=basis,
        weight=1,
        steps=1,
        norm_squared=0,
        codec_id=made.world.codec.codec_id,
        payload=b"",
    )
    far = {liar.key: FAR}
    statements.said(liar.key, far, now)
    statements.ask(liar.key, now)
    with pytest.raises(WireError, match="proves nothing"):
        statements.shown(dataclasses.replace(header, signature=bytes(64)), now)
    assert statements.proved(liar.key) == ledger.head(liar.key)
    statements.shown(header, now)
    assert statements.proved(liar.key) == FAR
    statements.advance([], now + MOVES_WITHIN - 1)
    assert statements.credible(far) == far
    statements.advance([], now + MOVES_WITHIN)
    assert statements.credible(far) == {liar.key: ledger.head(liar.key)}
    assert statements.proved_behind() == 0
    # But who has it is still asked for it: after an interruption nothing else would make the log move.
    assert statements.offered(far) == far


def test_who_says_much_and_shows_nothing_is_not_the_only_one_asked() -> None:
    made = federation(None)
    made.run(60 * SECOND, until=lambda: made.averaging(0).ledger.head(made.sites[1].key) >= 3)
    averaging, now = made.averaging(0), made.network.now
    statements, others = averaging.antientropy.statements, sorted(site.key for site in made.sites[1:])
    asked: list[SiteKey] = []
    for sayer in others:
        statements.said(sayer, {made.sites[1].key: FAR}, now)
    for step in range(12):
        statements.advance(others, now + step * ASK_AFTER)
        sent = [effect for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
        asked += [effect.to for effect in sent if isinstance(effect.message, Heads)]
    assert [asked.count(sayer) for sayer in others] == [4, 4, 4]
