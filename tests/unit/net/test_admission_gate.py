"""Who gets in, who does not, and what the operator is told (T01 to T07)."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
import zmq

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import LinkDown
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane
from kmel_p2p.net.frames import Chunk, Payload, encode
from kmel_p2p.net.link_events import AuthRejected, DialFailed, LinkFault, LinkPhase, PeerMisbehaved, StrangerRefused
from kmel_p2p.net.transport import TICK_MAX
from tests.support.net_peers import Federation, short_settings, until

STRANGER = Identity(b"\x77" * 32)


async def test_a_peer_that_would_let_a_stranger_in_does_not_start(federation: Federation) -> None:
    peer = await federation.add(1, start=False)
    peer.transport._decide = lambda key, address: "00" * 32  # type: ignore[method-assign,assignment]
    with pytest.raises(ConfigError, match="a key outside the roster was let in"):
        await peer.transport.start()


async def test_a_peer_whose_gate_is_dead_does_not_start(federation: Federation, monkeypatch) -> None:
    monkeypatch.setattr("kmel_p2p.net.admission.Gate._answer", lambda self, request: None)
    peer = await federation.add(1, start=False, settings=short_settings(handshake_timeout_us=200 * MILLISECOND))
    with pytest.raises(ConfigError, match="self-test failed"):
        await peer.transport.start()


async def test_a_stranger_is_refused_and_told_about_once(federation: Federation) -> None:
    a = await federation.add(1)
    stranger = await federation.add(9, roster={a.key})
    federation.roster.discard(stranger.key)
    stranger.dial(a)
    await until(lambda: len(stranger.told(AuthRejected)) >= 3)
    assert a.messages == []
    assert not a.up(stranger)
    told = a.told(StrangerRefused)
    assert [event.attempts for event in told] == [1]
    assert told[0].curve_key == stranger.identity.curve_pair()[0].hex()
    assert told[0].address == "127.0.0.1"
    assert a.transport.strangers_refused >= 3
    assert stranger.key.hex() in stranger.told(AuthRejected)[0].explanation
    assert stranger.link(a).phase is LinkPhase.REFUSED


async def test_a_roster_that_raises_refuses_and_later_admits(federation: Federation) -> None:
    broken = False

    class Roster(list):
        def __iter__(self):
            if broken:
                raise OSError("the charter file is gone")
            return super().__iter__()

    roster = Roster()
    a = await federation.add(1, roster=roster)
    b = await federation.add(2, roster={a.key})
    broken = True
    b.dial(a)
    await until(lambda: b.told(AuthRejected) and a.told(LinkFault))
    broken = False
    roster.append(b.key)
    await until(lambda: b.outbound(a))
    assert b.transport.send(a.key, b"in", Lane.CONTROL)
    await until(lambda: a.messages)


async def test_the_gate_replaces_a_socket_that_died(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.transport._gate._socket.close(0)
    await until(lambda: a.transport._gate.restarts == 1)
    b.dial(a)
    await until(lambda: b.outbound(a))


async def test_late_authorisation_recovers_within_one_pause(federation: Federation) -> None:
    settings = short_settings(backoff_first_us=100 * MILLISECOND, backoff_cap_us=500 * MILLISECOND)
    roster: set = set()
    a = await federation.add(1, roster=roster)
    b = await federation.add(2, settings=settings)
    b.dial(a)
    await until(lambda: len(b.told(AuthRejected)) >= 3)
    roster.add(b.key)
    refused = len(b.told(AuthRejected))
    await until(lambda: b.outbound(a))
    assert len(b.told(AuthRejected)) - refused <= 1  # of a dial that was under way


async def test_a_wrong_server_key_is_explained_and_dialled_ever_less(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    settings = short_settings(backoff_first_us=20 * MILLISECOND, backoff_cap_us=100_000 * MILLISECOND)
    c = await federation.add(3, settings=settings)
    c.dial(a, b.address)  # where b is, c expects a
    await until(lambda: len(c.told(DialFailed)) >= 5)
    rejected = c.told(AuthRejected)[-1]
    assert rejected.key == a.key
    assert a.key.hex() in rejected.explanation
    pauses = [event.retry_in_us for event in c.told(DialFailed)]
    assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(pauses))
    state = c.link(a)
    assert state.phase is LinkPhase.REFUSED
    assert state.next_dial_us is not None


async def test_the_default_pauses_allow_two_dials_a_minute_after_five_failures() -> None:
    from kmel_p2p.net.dialler import pause
    from kmel_p2p.net.settings import TransportSettings

    class Lowest:
        def random(self) -> float:
            return 0.0

    assert 2 * pause(6, TransportSettings(), Lowest()) >= 60_000 * MILLISECOND  # type: ignore[arg-type]


async def test_revocation_cuts_live_sessions_both_ways_within_a_second(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    b.dial(a)
    await until(lambda: a.outbound(b) and b.outbound(a) and a.link(b).inbound)
    federation.roster.discard(b.key)  # nobody calls revoke: the transport reads the roster itself
    b.roster = federation.roster | {b.key}
    assert TICK_MAX < SECOND
    await until(lambda: b.told(LinkDown))
    b.transport.send(a.key, b"still here?", Lane.CONTROL)
    await until(lambda: b.told(AuthRejected))
    assert a.messages == []
    assert b.key not in a.transport.links()


async def test_an_explicit_revocation_acts_at_once_and_before_the_roster_says_so(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    b.dial(a)
    await until(lambda: b.outbound(a))
    a.transport.revoke(b.key)
    b.transport.send(a.key, b"under way", Lane.CONTROL)
    await until(lambda: b.told(LinkDown))
    await until(lambda: b.told(AuthRejected))
    assert a.messages == []


async def test_a_routing_id_taken_by_another_site_changes_nobody_s_name_and_gets_nobody_s_mail(
    federation: Federation, raw_dealer
) -> None:
    thief = federation.member(0x55)
    a = await federation.add(1)
    victim = await federation.add(2, bind="")
    victim.dial(a)
    await until(lambda: a.up(victim))
    routing_id = a.transport._links[victim.key].routes.inbound.get(Lane.CONTROL).routing_id
    dealer = raw_dealer(thief, a, routing_id=routing_id)
    dealer.socket.send(dealer.hello())
    dealer.socket.send(encode(Payload(b"from the victim, honestly")))
    for number in range(5):
        assert a.transport.send(victim.key, b"secret %d" % number, Lane.CONTROL)
    await until(lambda: len(victim.messages) == 5)
    assert victim.transport.send(a.key, b"me", Lane.CONTROL)
    await until(lambda: a.messages)
    assert all(sender == victim.key for sender, data, _ in a.messages if data == b"me")
    assert all(sender != victim.key for sender, data, _ in a.messages if data != b"me")
    assert not dealer.socket.poll(0)


async def test_a_site_s_own_hello_and_messages_carry_its_key_whatever_it_says(
    federation: Federation, raw_dealer
) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.send(dealer.hello())
    await dealer.receive()
    dealer.socket.send(encode(Payload(b"hi")))
    await until(lambda: a.messages)
    assert a.messages == [(member.key, b"hi", Lane.CONTROL)]


async def test_a_program_without_curve_is_refused_and_told_about(federation: Federation, raw_dealer) -> None:
    a = await federation.add(1)
    dealer = raw_dealer(STRANGER, a, curve=False)
    dealer.socket.send(b"hello?")
    await until(lambda: a.told(StrangerRefused))
    assert a.told(StrangerRefused)[0].curve_key == ""
    assert a.messages == []


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\x63abc"],
        [b"\x03" + bytes(64 * 1024 + 1)],
        [b"\x04short"],
        [encode(Payload(b"x")), b"data"],
        [encode(Chunk(b"S" * 8, b"i" * 16, 10, 0))],
        [b"\x02\x01" + bytes(33)],
        [b"\x01\x02" + bytes(80)],
    ],
    ids=[
        "empty",
        "unknown kind",
        "oversize control",
        "short ping",
        "data after control",
        "chunk without data",
        "welcome",
        "other version",
    ],
)
async def test_malformed_messages_are_counted_against_their_sender_and_the_rest_arrive(
    federation: Federation, raw_dealer, parts: list[bytes]
) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.send(dealer.hello())
    dealer.socket.send_multipart(parts)
    dealer.socket.send(encode(Payload(b"after")))
    await until(lambda: a.messages)
    assert a.messages == [(member.key, b"after", Lane.CONTROL)]
    assert a.transport.links()[member.key].traffic.misbehaviour == 1
    assert a.told(PeerMisbehaved)[0].key == member.key
    assert a.told(LinkFault) == []


async def test_an_oversize_frame_never_reaches_us(federation: Federation, raw_dealer) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.send(dealer.hello())
    await dealer.receive()
    dealer.socket.send(bytes(300 * 1024))
    dealer.socket.send(encode(Payload(b"lost with it or not")))
    await until(lambda: a.transport.links()[member.key].inbound)

    def welcomed_again() -> int:
        dealer.socket.send(dealer.hello(dial=2))
        return dealer.socket.poll(10)

    await until(welcomed_again)  # it had to reconnect
    assert all(len(data) < 100 for _, data, _ in a.messages)


async def test_a_message_of_too_many_frames_ends_the_connection(federation: Federation, raw_dealer) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    monitor = dealer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.socket.send(dealer.hello())
    await dealer.receive()
    dealer.socket.send_multipart([b"x" * 10] * 5000)
    await until(lambda: monitor.poll(0))
    assert [event.cut for event in a.told(PeerMisbehaved)] == [True]
    dealer.socket.disable_monitor()
    monitor.close(0)


async def test_a_site_that_keeps_misbehaving_is_cut_and_does_not_flood_the_log(
    federation: Federation, raw_dealer
) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.send(dealer.hello())
    await dealer.receive()
    for _ in range(32):
        dealer.socket.send(b"\x63")
    await until(lambda: any(event.cut for event in a.told(PeerMisbehaved)))
    assert len(a.told(PeerMisbehaved)) == 2  # the first, and the cut


async def test_messages_under_way_from_a_revoked_site_are_not_handed_up(federation: Federation, raw_dealer) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.send(dealer.hello())
    await dealer.receive()
    a.transport.revoke(member.key)
    dealer.socket.send(encode(Payload(b"too late")))
    sent = time.monotonic()
    await until(lambda: time.monotonic() - sent > 0.1)
    assert a.messages == []
    assert member.key not in a.transport.links()


async def test_strangers_do_not_grow_memory_or_the_log(federation: Federation) -> None:
    a = await federation.add(1)
    for number in range(2000):
        assert a.transport._decide(number.to_bytes(32, "big"), "192.0.2.1") is None
    assert len(a.transport._strangers._seen) <= 256
    assert len(a.told(StrangerRefused)) <= 20
    assert a.transport.strangers_refused == 2000
    await asyncio.sleep(0)


async def test_a_blocked_site_is_cut_and_turned_away_without_an_alarm_until_it_is_unblocked(
    federation: Federation,
) -> None:
    blocked: set[SiteKey] = set()
    a = await federation.add(1, blocked=lambda: blocked)
    b = await federation.add(2)
    b.dial(a)
    await until(lambda: b.outbound(a) and a.up(b))
    for peer in (a, b):
        peer.events.clear()
    blocked.add(b.key)
    await until(lambda: not b.outbound(a))
    await until(lambda: bool(b.told(AuthRejected)))
    assert a.link(b) is None
    assert a.transport.strangers_refused > 0
    assert not a.told(StrangerRefused)
    blocked.clear()
    await until(lambda: b.outbound(a) and a.up(b))
