from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.membership import OwnDescription, make_descriptor
from kmel_p2p.core.membership.messages import Gossip, MemberVersion
from tests.support.virtual_membership import CHARTER, identity, membership

DESCRIPTORS = [
    make_descriptor(identity(2), CHARTER, OwnDescription(generation), serial, left)
    for generation in (0, 1, 3)
    for serial in (0, 2)
    for left in (False, True)
    if left is (serial > 0)  # a site signs a version once
]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(DESCRIPTORS), min_size=1, max_size=10))
def test_the_newest_fact_wins_in_whatever_order_and_however_often_facts_arrive(facts):
    peer = membership(1, (1, 2, 3))
    for fact in facts:
        peer.receive(identity(3).key, Gossip((fact,)), 1)
    newest = max(facts, key=lambda fact: (fact.generation, fact.serial))
    assert peer.version(identity(2).key) == MemberVersion(newest.generation, newest.serial, 3 if newest.left else 0)
    assert peer.descriptor(identity(2).key) == newest
