from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.membership import SCHEMAS, Descriptor, message_size
from kmel_p2p.core.membership.messages import (
    Accusation,
    Ack,
    Gossip,
    MemberVersion,
    Nack,
    Ping,
    PingRequest,
    SyncDigest,
    SyncEntry,
    SyncFacts,
    SyncSummary,
    TwinEvidence,
)
from kmel_p2p.core.wire import Wire

WIRE = Wire(bytes(32), SCHEMAS)


def blobs(size):
    return st.binary(min_size=size, max_size=size)


generations = st.integers(0, 2**53 - 1) | st.sampled_from([127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
serials = st.integers(0, 2**32 - 1) | st.sampled_from([0, 127, 128, 65535, 65536])
texts = st.text(st.characters(codec="utf-8"), max_size=48)
descriptors = st.builds(
    Descriptor, blobs(32), generations, serials, st.booleans(), st.lists(texts, max_size=8).map(tuple),
    st.integers(0, 63), st.booleans(), texts, blobs(8) | blobs(0), blobs(8) | blobs(0), st.booleans(),
    blobs(64),
)  # fmt: skip
accusations = st.builds(
    Accusation, blobs(8), generations, serials, st.booleans(), st.lists(blobs(8), max_size=8).map(tuple)
)
facts = st.lists(descriptors | accusations, max_size=20).map(tuple)
versions = st.builds(MemberVersion, generations, serials, st.integers(0, 3))
messages = st.one_of(
    st.builds(Ping, serials, generations, serials, facts),
    st.builds(Ack, serials, generations, serials, facts),
    st.builds(PingRequest, serials, blobs(8), st.integers(0, 2**40)),
    st.builds(Nack, serials),
    st.builds(Gossip, facts),
    st.builds(TwinEvidence, st.lists(descriptors, max_size=2).map(tuple)),
    st.builds(SyncDigest, st.lists(blobs(8), max_size=40).map(tuple)),
    st.builds(
        SyncSummary,
        st.integers(0, 256),
        st.lists(st.integers(0, 255), max_size=40).map(tuple),
        st.lists(st.builds(SyncEntry, blobs(8), versions), max_size=20).map(tuple),
    ),
    st.builds(SyncFacts, facts, st.lists(blobs(8), max_size=20).map(tuple)),
)


@settings(deadline=None, max_examples=300)
@given(messages)
def test_every_message_survives_the_wire_and_has_exactly_the_computed_size(message):
    data = WIRE.encode(message)
    assert WIRE.decode(data) == message
    assert message_size(message) == len(data)
