from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.membership import LAN, SCHEMAS, OwnDescription, make_descriptor
from kmel_p2p.core.membership.fact_queues import FactQueue, FactQueues, Receiver, TokenBucket
from kmel_p2p.core.membership.messages import Accusation, Gossip, Ping
from kmel_p2p.core.types import SECOND
from kmel_p2p.core.wire import Wire
from tests.support.virtual_membership import identity


def accusation(number: int) -> Accusation:
    return Accusation(number.to_bytes(8, "big"), 1, 0, False, (bytes(8),))


def to(number: int, members: int = 1000, limit: int = 8) -> Receiver:
    return Receiver(b"member%02d" % number, members, limit)


def take(queue: FactQueue, number: int = 0, budget: int = 100, members: int = 1000, limit: int = 8) -> list:
    return queue.take(b"member%02d" % number, members, budget, 10, limit)[0]


def test_a_fact_is_sent_exactly_the_limit_and_no_more():
    queue = FactQueue()
    queue.put(b"a", "fact", 10, 0)
    sent = [take(queue, number, limit=4) for number in range(6)]
    assert sent == [["fact"]] * 4 + [[], []]


def test_nobody_hears_the_same_twice_or_of_itself_until_everybody_knows():
    queue = FactQueue()
    queue.put(b"member03", "fact", 10, 0, teller=b"member01")
    assert [take(queue, number, members=3) for number in (0, 0, 1, 3, 2)] == [["fact"], [], [], [], ["fact"]]
    # All three know it now, and it may still be sent: a second round, against loss.
    assert take(queue, 0, members=3) == ["fact"]


def test_least_sent_facts_go_first_and_newest_first_among_equals():
    queue = FactQueue()
    for name in (b"a", b"b", b"c"):
        queue.put(name, name, 10, 0)
    assert take(queue, 1, budget=20) == [b"c", b"b"]
    assert take(queue, 2, budget=20)[0] == b"a"


def test_a_newer_fact_about_the_same_subject_replaces_the_older():
    queue = FactQueue()
    for version in range(50):
        queue.put(b"a", version, 10, version)
    assert len(queue) == 1
    assert take(queue) == [49]


def test_what_others_tell_is_told_less_often_but_still_four_times():
    queue = FactQueue()
    queue.put(b"a", "fact", 10, 0)
    queue.heard(b"a", "another", 8, b"member50")
    for number in range(50):
        queue.heard(b"a", "fact", 8, b"member%02d" % (50 + number))
    sent = [take(queue, number) for number in range(6)]
    assert sent == [["fact"]] * 4 + [[], []]


def test_a_fact_that_waited_longer_than_a_full_sync_takes_is_given_up():
    queues = FactQueues(LAN, 0)
    queues.put(bytes(8), accusation(0), 0)
    queues.put(bytes(7) + b"1", accusation(1), LAN.sync_interval_us)
    facts = queues.gossip(to(0), LAN.sync_interval_us + 1)
    assert facts == (accusation(1),)
    assert len(queues) == 1


def test_300_facts_all_leave_in_messages_within_the_budget():
    queues, wire = FactQueues(LAN, 0), Wire(bytes(32), SCHEMAS)
    queues.patience_us = 3600 * SECOND
    for number in range(300):
        queues.put(number.to_bytes(8, "big"), accusation(number), 0)
    seen, now, turn = set(), 0, 0
    while queues and now < 3600 * SECOND:
        now += SECOND // 5
        turn += 1
        facts = queues.gossip(to(turn % 20, limit=4), now)
        assert len(wire.encode(Gossip(facts))) <= LAN.message_budget_bytes
        probe = Ping(2**32 - 1, 2**53 - 1, 2**32 - 1, queues.piggyback(to((turn + 7) % 20, limit=4), (), now))
        assert len(wire.encode(probe)) <= LAN.message_budget_bytes
        seen.update(f.subject for f in facts + probe.facts)
    assert not queues
    assert len(seen) == 300


def test_a_refutation_is_not_held_back_by_the_allowance_of_accusations():
    queues = FactQueues(LAN, 0)
    for number in range(100):
        queues.put(number.to_bytes(8, "big"), accusation(number), 0)
    while queues.gossip(to(0), 0):
        pass  # until the allowance of accusations is spent
    refutation = make_descriptor(identity(1), bytes(32), OwnDescription(1), 1)
    queues.put(refutation.key[:8], refutation, 0)
    assert queues.gossip(to(1), 0) == (refutation,)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 500)), max_size=40))
def test_an_allowance_never_gives_more_than_burst_plus_rate_times_time(steps):
    allowance, now, spent = TokenBucket(100, SECOND, 300, 0), 0, 0
    for wait, units in steps:
        now += wait
        if allowance.available(now) >= units:
            allowance.spend(units, now)
            spent += units
        assert spent <= 300 + 100 * now / SECOND
        ready = allowance.ready_at(units, now)
        assert ready >= now
