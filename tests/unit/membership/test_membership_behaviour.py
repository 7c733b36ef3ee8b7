import random

import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError, ProtocolError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership import (
    LAN,
    DegradedLink,
    DescribeSelf,
    DuplicateKey,
    GenerationRaised,
    Leave,
    LeaveFinished,
    LinkRestored,
    MemberBack,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    Membership,
    MemberState,
    MemberSuspected,
    MemberUnreachable,
    OwnDescription,
    Recall,
    SetRoster,
    make_descriptor,
)
from kmel_p2p.core.membership.descriptor import RosterSite
from kmel_p2p.core.membership.messages import Accusation, Gossip, Ping, SyncFacts
from kmel_p2p.core.types import SECOND
from tests.support.virtual_membership import CHARTER, Virtual, identity, membership, roster_of

FOUR = (1, 2, 3, 4)


def settled() -> Virtual:
    virtual = Virtual(*FOUR)
    virtual.run(10 * SECOND)
    assert_all_alive(virtual)
    return virtual


def assert_all_alive(virtual: Virtual) -> None:
    for number in FOUR:
        others = sorted(virtual.key(n) for n in FOUR if n != number)
        assert list(virtual.peers[number].alive()) == others
        states = {virtual.peers[number].state(virtual.key(n)) for n in FOUR}
        assert states == {MemberState.ALIVE}


def test_four_sites_that_start_together_know_each_other_and_each_joins_once():
    virtual = settled()
    for number in FOUR:
        joined = [e.key for e in virtual.events[number] if isinstance(e, MemberJoined)]
        assert sorted(joined) == sorted(virtual.key(n) for n in FOUR if n != number)
        assert len(virtual.events[number]) == 3
    assert virtual.peers[1].descriptor(virtual.key(3)).size_class == 3


def test_a_crash_is_suspected_then_unreachable_everywhere_and_back_after_restart():
    virtual = settled()
    virtual.down.add(4)
    virtual.run(30 * SECOND)
    for number in (1, 2, 3):
        assert virtual.peers[number].state(virtual.key(4)) is MemberState.DEAD
        assert virtual.key(4) not in virtual.peers[number].alive()
        kinds = [type(e) for e in virtual.events[number] if getattr(e, "key", None) == virtual.key(4)]
        assert kinds == [MemberJoined, MemberSuspected, MemberUnreachable]
    virtual.peers[4] = membership(4, FOUR, generation=2, now=virtual.now)
    virtual.down.clear()
    virtual.run(10 * SECOND)
    assert_all_alive(virtual)
    assert virtual.peers[1].descriptor(virtual.key(4)).generation == 2
    assert sum(isinstance(e, MemberBack) for e in virtual.events[1]) == 1


def test_a_suspended_process_accuses_nobody_and_is_back_with_a_higher_serial():
    virtual = settled()
    virtual.down.add(4)
    virtual.run(60 * SECOND)
    virtual.down.clear()
    before = len(virtual.messages)
    virtual.run(2 * SECOND)
    accused = [
        fact
        for _, source, _, message in virtual.messages[before:]
        if source == 4
        for fact in getattr(message, "facts", ())
        if isinstance(fact, Accusation)
    ]
    assert accused == []
    virtual.run(3 * SECOND)
    assert_all_alive(virtual)
    assert virtual.peers[1].descriptor(virtual.key(4)).serial >= 1


def test_leaving_is_told_to_everybody_and_is_no_failure():
    virtual = settled()
    virtual.command(2, Leave())
    virtual.run(3 * SECOND)
    assert LeaveFinished() in virtual.events[2]
    virtual.down.add(2)
    virtual.run(60 * SECOND)
    for number in (1, 3, 4):
        assert virtual.peers[number].state(virtual.key(2)) is MemberState.LEFT
        assert MemberLeft(virtual.key(2)) in virtual.events[number]
        assert not any(isinstance(e, MemberUnreachable) for e in virtual.events[number])


def test_a_site_that_left_and_starts_again_is_a_member_again():
    virtual = settled()
    virtual.command(2, Leave())
    virtual.run(3 * SECOND)
    virtual.peers[2] = membership(2, FOUR, generation=2, now=virtual.now)
    virtual.run(10 * SECOND)
    assert_all_alive(virtual)


def test_a_one_way_link_is_reported_and_nobody_is_suspected():
    virtual = settled()
    virtual.cut = lambda a, b: (a, b) == (1, 2)
    virtual.run(120 * SECOND)
    assert_all_alive(virtual)
    assert DegradedLink(virtual.key(2)) in virtual.events[1]
    assert not any(isinstance(e, MemberSuspected) for n in FOUR for e in virtual.events[n])
    virtual.cut = lambda a, b: False
    virtual.run(20 * SECOND)
    assert LinkRestored(virtual.key(2)) in virtual.events[1]


def test_both_halves_of_a_partition_are_one_again_without_help():
    virtual = settled()
    virtual.cut = lambda a, b: (a <= 2) != (b <= 2)
    virtual.run(600 * SECOND)
    assert virtual.peers[1].alive() == (virtual.key(2),)
    virtual.cut = lambda a, b: False
    virtual.run(60 * SECOND)
    assert_all_alive(virtual)


def test_a_changed_address_replaces_the_old_one_everywhere():
    virtual = settled()
    virtual.command(3, DescribeSelf(addresses=("tcp://10.9.9.9:7000",)))
    virtual.run(5 * SECOND)
    for number in (1, 2, 4):
        assert virtual.peers[number].addresses(virtual.key(3))[0] == "tcp://10.9.9.9:7000"
        assert any(getattr(r, "descriptor", None) for r in virtual.records[number])


def test_accusations_by_the_subject_by_nobody_and_from_the_future_change_nothing():
    virtual = settled()
    subject = virtual.key(3)[:8]
    stranger = identity(9).key[:8]
    accuser = virtual.key(4)[:8]
    for fact in (
        Accusation(subject, 1, 0, True, (subject,)),
        Accusation(subject, 1, 0, True, (stranger,)),
        Accusation(subject, 2**53 - 1, 2**32 - 1, True, (accuser,)),
        Accusation(stranger, 1, 0, True, (accuser,)),
    ):
        virtual.peers[1].receive(virtual.key(2), Gossip((fact,)), virtual.now)
    assert virtual.peers[1].state(virtual.key(3)) is MemberState.ALIVE
    assert virtual.peers[1].counters().accusations_by_nobody == 2
    assert virtual.peers[1].counters().accusations_ahead == 1


def test_a_remote_dead_is_only_a_suspicion_and_is_refuted():
    virtual = settled()
    fact = Accusation(virtual.key(3)[:8], 1, 0, True, (virtual.key(4)[:8],))
    virtual.peers[1].receive(virtual.key(4), Gossip((fact,)), virtual.now)
    assert virtual.peers[1].state(virtual.key(3)) is MemberState.SUSPECT
    assert virtual.key(3) in virtual.peers[1].alive()
    virtual.run(3 * SECOND)
    assert_all_alive(virtual)


def test_a_descriptor_its_owner_did_not_sign_is_refused_and_changes_nothing():
    peer = membership(1, FOUR)
    forged = make_descriptor(identity(4), CHARTER, OwnDescription(5), 0)
    honest = make_descriptor(identity(3), CHARTER, OwnDescription(5), 0)
    fake = type(forged)(identity(2).key, *[getattr(forged, n) for n in forged.__slots__[1:]])
    with pytest.raises(ProtocolError, match="not signed"):
        peer.receive(identity(4).key, Gossip((honest, fake)), 1)
    assert peer.state(identity(2).key) is peer.state(identity(3).key) is MemberState.UNKNOWN
    elsewhere = make_descriptor(identity(3), bytes(32), OwnDescription(5), 0)
    with pytest.raises(ProtocolError, match="not signed"):
        peer.receive(identity(4).key, Gossip((elsewhere,)), 1)


def test_a_stranger_is_refused():
    with pytest.raises(ProtocolError, match="not in the roster"):
        membership(1, FOUR).receive(identity(9).key, Ping(1, 1, 0), 0)


def test_a_site_that_lost_its_disk_outbids_its_earlier_life_and_a_twin_is_reported():
    virtual = settled()
    virtual.peers[4] = membership(4, FOUR, generation=0, now=virtual.now)
    virtual.run(10 * SECOND)
    assert virtual.peers[1].descriptor(virtual.key(4)).generation == 2
    assert virtual.records[4][-1] == GenerationRaised(2)
    assert not any(isinstance(e, DuplicateKey) for e in virtual.events[4])
    twin = make_descriptor(identity(4), CHARTER, OwnDescription(9), 0)
    virtual.peers[4].receive(virtual.key(1), SyncFacts((twin,), ()), virtual.now)
    virtual.run(1)
    assert virtual.peers[4].descriptor(virtual.key(4)).generation == 10
    assert any(isinstance(e, DuplicateKey) for e in virtual.events[4])


def test_recalled_addresses_are_dialled_but_are_no_sign_of_life():
    peer = membership(1, FOUR)
    moved = make_descriptor(identity(2), CHARTER, OwnDescription(1, ("tcp://10.1.1.1:9",)), 3)
    peer.command(Recall((moved,)), 0)
    assert peer.addresses(identity(2).key) == ("tcp://10.1.1.1:9", "tcp://10.0.0.2:5000")
    assert peer.alive() == ()
    peer.receive(identity(3).key, Gossip((moved,)), 1)
    assert peer.alive() == (identity(2).key,)


def test_only_the_roster_removes_a_member():
    virtual = settled()
    virtual.command(1, SetRoster(roster_of(1, 2, 3)))
    assert MemberRemoved(virtual.key(4)) in virtual.events[1]
    assert virtual.key(4) not in virtual.peers[1].alive()
    virtual.run(20 * SECOND)
    assert len(virtual.peers[1].members()) == 2
    with pytest.raises(LocalError, match="not in the roster"):
        virtual.peers[1].command(SetRoster(roster_of(2, 3)), virtual.now)


def test_a_roster_with_clashing_keys_alters_nothing():
    virtual = settled()
    before = virtual.peers[1].roster, virtual.peers[1].table_version
    double = SiteKey(virtual.key(2)[:8] + bytes(24))
    clashing = {**roster_of(1, 2), double: RosterSite(double, "double")}
    with pytest.raises(ConfigError, match="share their first 8 bytes"):
        virtual.peers[1].command(SetRoster(clashing), virtual.now)
    assert (virtual.peers[1].roster, virtual.peers[1].table_version) == before


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (OwnDescription(1, ("tcp://0.0.0.0:5000",)), "wildcard"),
        (OwnDescription(1, ("tcp://*:5000",)), "wildcard"),
        (OwnDescription(1, ("tcp://[::]:5000",)), "wildcard"),
        (OwnDescription(1, ("tcp://127.0.0.1:5000",)), "loopback"),
        (OwnDescription(1, ("tcp://host:0",)), "port"),
        (OwnDescription(1, ("host:5000",)), "tcp://"),
        (OwnDescription(1, tuple(f"tcp://{'h' * 90}{n}:1" for n in range(8))), "too long"),
        (OwnDescription(1, software="x" * 500), "software"),
        (OwnDescription(-1), "generation"),
    ],
)
def test_a_description_others_could_not_use_is_refused_before_it_is_sent(own, said):
    with pytest.raises(ConfigError, match=said):
        Membership(identity(1), CHARTER, roster_of(*FOUR), own, LAN, random.Random(1), 0)
