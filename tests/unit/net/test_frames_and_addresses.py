"""Frames decode to what was encoded or raise WireError; addresses parse or say what is wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError, LocalError, WireError
from kmel_p2p.core.types import Lane
from kmel_p2p.net.address import Address, check_advertised, parse_address
from kmel_p2p.net.frames import (
    NUMBER_MAX,
    Chunk,
    Done,
    Grant,
    Greeting,
    HeldAnswer,
    HeldQuery,
    Hello,
    Keepalive,
    KeepaliveAnswer,
    Open,
    Payload,
    Reason,
    Refuse,
    VersionError,
    Welcome,
    decode,
    encode,
)

number = st.integers(0, NUMBER_MAX)
eight = st.binary(min_size=8, max_size=8)
message_id = st.binary(min_size=16, max_size=16)
greeting = st.builds(Greeting, st.sampled_from(Lane), eight, number, eight, number)
chunk = st.tuples(eight, message_id, number, number).filter(lambda t: t[3] < t[2]).map(lambda t: Chunk(*t))
frame = st.one_of(
    greeting.map(Hello),
    greeting.map(Welcome),
    st.binary(max_size=200).map(Payload),
    number.map(Keepalive),
    number.map(KeepaliveAnswer),
    chunk,
    st.builds(Grant, eight, number),
    st.builds(Done, message_id),
    st.builds(HeldQuery, message_id, number, st.booleans()),
    st.builds(HeldAnswer, message_id, number, st.binary(min_size=32, max_size=32)),
    st.builds(Refuse, message_id, st.sampled_from(Reason)),
    st.just(Open()),
)


@given(frame)
@settings(deadline=None, max_examples=300)
def test_every_frame_survives_the_wire(one) -> None:
    assert decode(encode(one)) == one


@given(st.binary(max_size=120))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes) -> None:
    try:
        one = decode(data)
    except WireError:
        return
    assert encode(one) == data


@given(frame, st.data())
@settings(deadline=None, max_examples=300)
def test_a_damaged_frame_is_another_frame_or_a_wire_error(one, data) -> None:
    good = bytearray(encode(one))
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(good)))
    for damaged in (bytes(good), bytes(good[:cut])):
        with contextlib.suppress(WireError):
            assert encode(decode(damaged)) == damaged


def test_golden_bytes_of_a_greeting_and_a_chunk() -> None:
    hello = Hello(Greeting(Lane.BULK, b"bootboot", 7, b"sessions", 4194304))
    assert encode(hello).hex() == "010201626f6f74626f6f7400000000000000077365737369 6f6e730000000000400000".replace(
        " ", ""
    )
    header = Chunk(b"sessions", b"i" * 16, 1000, 256)
    assert encode(header).hex() == "0673657373696f6e73" + "69" * 16 + "00000000000003e8" + "0000000000000100"


def test_another_version_is_recognised_whatever_else_it_changed() -> None:
    with pytest.raises(VersionError, match="speaks protocol 1, this one 2: the peer has to be upgraded"):
        decode(b"\x01\x01and then something we do not know")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://peer.example.org:7000", "peer.example.org", 7000),
        ("10.1.2.3:65535", "10.1.2.3", 65535),
        ("tcp://[2001:db8::1]:7000", "2001:db8::1", 7000),
        ("[::1]:1", "::1", 1),
    ],
)
def test_addresses_parse(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("peer.example.org", "no port"),
        ("tcp://peer:", "no port"),
        ("peer:0", "port 0"),
        ("peer:65536", "port 65536"),
        ("peer:７", "no port"),
        ("ipc:///tmp/x:1", "scheme 'ipc'"),
        ("2001:db8::1:7000", "write an IPv6 address as"),
        ("[peer]:7000", "brackets"),
        (":7000", "no host"),
        ("*:7000", "no host"),
        ("pe er:7000", "no host"),
        ("x" * 400 + ":1", "400|402"),
    ],
)
def test_bad_addresses_say_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(LocalError, match=complaint):
        parse_address(text)


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_is_an_address_or_a_local_error(text: str) -> None:
    try:
        parsed = parse_address(text, bindable=True)
    except LocalError:
        return
    assert parse_address(str(parsed), bindable=True) == parsed


def test_a_wildcard_binds_but_is_never_advertised() -> None:
    assert parse_address("tcp://*:0", bindable=True).wildcard
    for text in ("0.0.0.0:7000", "[::]:7000"):
        with pytest.raises(ConfigError, match="every interface"):
            check_advertised(text, roster_is_remote=False)


@pytest.mark.parametrize("text", ["127.0.0.1:7000", "localhost:7000", "[::1]:7000", "127.9.9.9:1"])
def test_loopback_is_advertised_to_local_rosters_only(text: str) -> None:
    assert check_advertised(text, roster_is_remote=False).loopback
    with pytest.raises(ConfigError, match=r"only this machine .* outbound-only"):
        check_advertised(text, roster_is_remote=True)


def test_a_link_local_address_is_not_advertised_to_a_remote_roster() -> None:
    with pytest.raises(ConfigError, match="network segment"):
        check_advertised("[fe80::1%eth0]:7000", roster_is_remote=True)


def test_what_others_can_dial_is_advertised() -> None:
    assert check_advertised("tcp://peer.example.org:7000", roster_is_remote=True) == Address("peer.example.org", 7000)
