"""What a second review of sealed rounds tried as an attacker, and what told or broke something until it was mended."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed.asking import (
    FIRST_WAIT_US,
    LEAST_RUN_BYTES,
    LONGEST_WAIT_US,
    ROUND_PERIOD_US,
    STATEMENTS_BYTES,
    WHOLE_ROUNDS,
    Questions,
)
from kmel_p2p.core.sealed.conversation import ANSWER_AGAIN_US
from kmel_p2p.core.sealed.events import ResidualDropped, RoundVoid, SealRefused
from kmel_p2p.core.sealed.exchange import digest_of, has_loose, have, wanted
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.messages import (
    SealClose,
    Sealed,
    SealLoose,
    SealPast,
    SealReveal,
    SealSum,
    SealWant,
    hash_of,
    signed,
)
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
from kmel_p2p.core.sealed.sealed_round import SealedRound
from kmel_p2p.core.types import SECOND
from tests.support import sealed_samples as samples
from tests.testbed.sealed_mesh import Mesh

SHARE_BYTES = 33


def test_the_shares_of_an_opened_seed_tell_nothing_of_another_dealt_in_the_same_round() -> None:
    """A site set back to before it sealed seals again, with the pairs of before. Under the keys of the pairs alone, the
    two encryptions of a member's shares differed by the shares: who opens one seed had the other."""
    opened = samples.messages()["seal_open"]
    group = Group(opened, hash_of(samples.CHARTER_ID, opened), samples.LOG.count, samples.LEVELS)
    part = OwnPart(group, samples.SITES[0].key, samples.SECRETS[0])
    first, again = (part.seal(1, samples.Q[0], bytes([n]) * 32) for n in (1, 2))
    other = OwnPart(group, samples.SITES[1].key, samples.SECRETS[1])
    known, secret = other.share_from(first), other.share_from(again)
    taken = bytes(
        a ^ b ^ c for a, b, c in zip(first.shares[:SHARE_BYTES], again.shares[:SHARE_BYTES], known, strict=True)
    )
    assert taken != secret


def test_a_vector_that_was_sent_is_never_sealed_again_whatever_its_site_heard() -> None:
    """Enough of the others may have opened a sum, and have hidden every vote for it from this site: with the same
    levels in the next sum as well, the two sums hid fewer sites than the charter asks for."""
    mesh = Mesh(5, entry_limit=2)
    mesh.tamper = lambda n, to, m: None if isinstance(m, SealClose | SealReveal) and _opens(m) else m
    mesh.run(lambda: all(site.present.at.number == 2 and not site._tickets for site in mesh.sites), 300 * SECOND)
    assert all(event.spent for _, event in mesh.seen(RoundVoid))
    for n in range(5):
        left = np.frombuffer(mesh.disks[n].residual or b"", "<f4")
        site = mesh.site(n)
        assert np.array_equal(left, site._residual)
        # What round 1 sent is gone from the residual, at its positions.
        assert np.abs(left[site.log.positions(1)]).max() <= 2.0**site.log.exponent / 2
        assert site.committed == 1


def _opens(message: SealClose | SealReveal) -> bool:
    return message.round == 1 and (bool(message.included) if isinstance(message, SealClose) else bool(message.shares))


def test_a_site_set_back_to_an_older_disk_sends_nothing_that_is_in_a_sum_already() -> None:
    mesh = Mesh(6, entry_limit=9)
    mesh.tamper = lambda n, to, m: None if isinstance(m, Sealed) and m.round == 4 else m
    mesh.run(lambda: mesh.site(2).log.number >= 2, 100 * SECOND)
    older = copy.deepcopy(mesh.disks[2])
    mesh.run(lambda: mesh.site(2).log.number >= 5, 200 * SECOND)
    mesh.crash(2)
    mesh.disks[2] = older
    mesh.start(2)
    assert mesh.site(2)._residual.any()
    mesh.run(lambda: mesh.site(2).log.number >= 5, 300 * SECOND)
    assert not mesh.site(2)._residual.any()
    assert [n for n, _ in mesh.seen(ResidualDropped)] == [2]
    # Round 4 was void: it may have sealed then, too.
    assert mesh.site(2).charged >= mesh.site(2).log.last_round > mesh.site(2).log.number
    mesh.run(mesh.all_complete, 600 * SECOND)
    assert len(mesh.digests()) == 1
    disk = mesh.disks[2]
    assert np.array_equal(np.frombuffer(disk.residual or b"", "<f4"), mesh.site(2)._residual)


def test_sums_that_nobody_asked_for_are_not_kept() -> None:
    """A member that was asked once could go on and fill the memory."""
    mesh = Mesh(6, entry_limit=6)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    mesh.crash(4)
    mesh.run(lambda: mesh.site(0).log.number >= 3, 200 * SECOND)
    mesh.start(4)
    mesh.run(lambda: mesh.site(4).log.number >= 3, 300 * SECOND)
    talk, giver = mesh.site(4)._talk, mesh.site(4)._talk._giver
    assert giver is not None
    for _ in range(3):
        first = mesh.site(4).log.number + 1 + len(talk._past)
        assert not talk.receive(giver, SealPast(first, (bytes(100),)), mesh.now)
    assert not talk._past


def test_a_sum_larger_than_any_can_be_is_refused_before_it_is_kept() -> None:
    mesh = Mesh(6, entry_limit=6)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    mesh.crash(4)
    mesh.run(lambda: mesh.site(0).log.number >= 3, 200 * SECOND)
    large: list[int] = []

    def inflate(n, to, message):
        if isinstance(message, SealPast) and n < 3:
            large.append(n)
            return replace(message, sums=(bytes(50_000),))
        return message

    mesh.tamper = inflate
    mesh.start(4)
    mesh.run(lambda: mesh.site(4).log.number >= 3, 300 * SECOND)
    log = mesh.site(0).log
    assert max(map(len, log.encoded)) <= log.most_bytes < 50_000


def test_a_vector_of_the_former_dealing_is_forgotten_and_not_said_again() -> None:
    said = samples.messages()
    former = SealedState(1, 0, b"x" * 32, b"y" * 32, "round-1", said["seal_open"], [said["seal_key"], said["sealed"]])
    packed = former.encode(samples.CHARTER_ID)
    assert packed[1] == 3
    read = decode_own_state(packed[:1] + b"\x02" + packed[2:], samples.CHARTER_ID, "store")
    assert read == SealedState(1, 0, b"x" * 32, said=[said["seal_key"]])


@pytest.mark.parametrize("cut", [1, 16])
def test_a_share_under_altered_commitments_does_not_decrypt(cut: int) -> None:
    opened = samples.messages()["seal_open"]
    group = Group(opened, hash_of(samples.CHARTER_ID, opened), samples.LOG.count, samples.LEVELS)
    sealed: Sealed = OwnPart(group, samples.SITES[0].key, samples.SECRETS[0]).seal(1, samples.Q[0], bytes(32))
    other = OwnPart(group, samples.SITES[1].key, samples.SECRETS[1])
    changed = sealed.commitments[:-cut] + bytes(byte ^ 1 for byte in sealed.commitments[-cut:])
    with pytest.raises(WireError, match="does not decrypt"):
        other.share_from(replace(sealed, commitments=changed))


def test_a_member_that_asks_without_end_is_given_what_recovery_takes_and_named() -> None:
    """Asked every 0.2 s, a site gave megabytes for questions of some bytes."""
    mesh = Mesh(6, entry_limit=12, size=80_000, train_time=lambda site: (4 if site == 4 else 1) * SECOND)
    asking, giving = 5, 0
    given: dict[type[Message], int] = defaultdict(int)

    def count(n, to, message):
        if (n, to) == (giving, asking):
            given[type(message)] += len(mesh.wire.encode(message))
        return message

    def ask() -> None:
        number = mesh.site(giving).present.at.number
        wants = [SealWant(number, key, 0) for key in mesh.keys] + [SealWant(number, b"", 1)]
        for want in wants:
            mesh._deliver(asking, giving, mesh.wire.encode(want))
        mesh.at(mesh.now + ANSWER_AGAIN_US, ask)

    mesh.tamper = count
    ask()
    mesh.run(lambda: mesh.site(giving).log.number >= 12, 600 * SECOND)
    log = mesh.site(giving).log
    rounds = WHOLE_ROUNDS + 1 + log.number + mesh.now // ROUND_PERIOD_US
    assert given[Sealed] < rounds * len(mesh.keys) * (log.most_bytes + STATEMENTS_BYTES)
    assert given[SealPast] < 2 * (log.encoded_bytes + LEAST_RUN_BYTES) + log.encoded_bytes
    refused = [event for n, event in mesh.seen(SealRefused) if n == giving]
    assert {event.sender for event in refused} == {mesh.keys[asking]}
    assert {"sums", "the round"} == {event.reason.split(" of ")[1].split(" than")[0] for event in refused}
    assert not [n for n, _ in mesh.seen(RoundVoid)]


def behind_two_givers(bad: int, answers: Callable[[SealPast], SealPast]) -> tuple[Mesh, list[int]]:
    """A mesh in which site 4 lacks sums, knows of two sites that have them, and asks `bad` first."""
    mesh, asked = Mesh(6, entry_limit=6), list[int]()
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    mesh.crash(4)
    mesh.run(lambda: mesh.site(0).log.number >= 5, 200 * SECOND)

    def give(n, to, message):
        if to == 4 and isinstance(message, SealSum):
            return message if n in (bad, 2) else None
        if isinstance(message, SealWant) and n == 4 and message.number:
            asked.append(to)
        return answers(message) if n == bad and isinstance(message, SealPast) else message

    mesh.tamper = give
    mesh.start(4)
    talk = mesh.site(4)._talk
    drawn = talk._rng

    class BadFirst:
        randrange = drawn.randrange

        def choice(self, among):
            return mesh.keys[bad] if mesh.keys[bad] in among else drawn.choice(among)

    talk._rng = cast(Any, BadFirst())
    return mesh, asked


@pytest.mark.parametrize("kept", [0, 1])
def test_a_giver_of_no_sums_or_one_at_a_time_is_left_for_another(kept: int) -> None:
    """Each answer counted as one, however little was in it: the next question went to the same site at once, and it
    could hold a site that came back for ever."""
    mesh, asked = behind_two_givers(1, lambda past: replace(past, sums=past.sums[:kept]))
    mesh.run(lambda: mesh.site(4).log.number >= 5, mesh.now + 30 * SECOND)
    assert asked == [1, 2]
    refused = [event for n, event in mesh.seen(SealRefused) if n == 4]
    assert [event.sender for event in refused] == [mesh.keys[1]]
    assert "where more are left" in refused[0].reason


def test_whoever_says_it_has_a_vector_and_does_not_give_it_is_asked_once_before_the_others() -> None:
    """It says so most often; each question in vain doubled the wait, up to 64 s, also for the sites that have it."""
    asking, (silent, north, south) = Questions(), [SiteKey(bytes([n]) * 32) for n in range(3)]
    now, asked = 0, []
    for _ in range(4):
        asked.append(asking.ask_next(b"v", (silent, north, south), now))
        assert not asking.may_ask(b"v", now + FIRST_WAIT_US - 1)
        now += LONGEST_WAIT_US
    assert asked == [silent, north, south, silent]
    asking.forget()
    assert asking.ask_next(b"v", (south,), now) == south
    assert asking.ask_next(b"v", (south,), now) == south


def round_with_a_quorum() -> tuple[SealedRound, SealLoose]:
    """As the third of three sites knows it, which has sealed nothing: all voted for a set of the others' vectors. And
    the first one's pair seeds, which are not there yet."""
    said, about = samples.messages(), samples.CHARTER_ID
    roster = [site.key for site in samples.SITES]
    here = SealedRound(about, roster, roster[2], 1, samples.LOG.chain, samples.LOG.count, samples.LEVELS, (3, 2))
    here.take(said["seal_open"])
    here.follow(hash_of(about, said["seal_open"]))
    assert here.group is not None
    other = OwnPart(here.group, roster[1], samples.SECRETS[1]).seal(1, samples.Q[1], samples.SELF_SEEDS[1])
    for vector in (said["sealed"], signed(samples.SITES[1], about, other)):
        assert here.take(vector)
    for site in samples.SITES:
        here.take(signed(site, about, replace(said["seal_close"], author=site.key)))
    assert here.ballots.backed_set() == said["seal_loose"].choice
    return here, said["seal_loose"]


def test_nonsense_given_first_does_not_keep_out_the_pair_seeds_of_the_set_that_a_quorum_voted_for() -> None:
    """A member gave one site what opens the set, and the others something else: these took nothing more of it, nor did
    they say that they lack it. The one held to the set, the others could not: no ballot had a quorum, for ever."""
    here, good = round_with_a_quorum()
    liar = samples.SITES[0]
    junk = [
        signed(liar, samples.CHARTER_ID, replace(good, choice=bytes([n]) * 32, pair_seeds=(bytes(32),))) for n in (7, 8)
    ]
    wrong = signed(liar, samples.CHARTER_ID, replace(good, pair_seeds=tuple(bytes(32) for _ in good.pair_seeds)))
    assert wrong.pair_seeds != good.pair_seeds
    for said in (*junk, wrong):
        here.take(said)
    assert liar.key not in has_loose(here), "so the others give it again"
    assert any("did not commit to" in fault.reason for fault in here.faults.take())
    assert here.take(good)
    assert liar.key in has_loose(here)
    assert not here.take(wrong)
    third = signed(liar, samples.CHARTER_ID, replace(good, choice=bytes([9]) * 32))
    assert not here.take(third)
    assert len(here.loose[liar.key]) == 3


def test_a_site_that_votes_for_all_and_everything_has_no_two_others_send_each_other_votes_for_ever() -> None:
    """No two sites held the same two of its votes. With 64 ballots of them, honest sites used up what they give each
    other, named each other for it, and gave no vectors any more."""
    (north, good), (south, _) = round_with_a_quorum(), round_with_a_quorum()
    liar, before = samples.SITES[0], digest_of(north)
    assert digest_of(south) == before
    vote = samples.messages()["seal_close"]

    def junk(number: int) -> SealClose:
        sent = tuple(replace(each, hash=bytes([number]) * 32) for each in vote.included)
        return signed(liar, samples.CHARTER_ID, replace(vote, ballot=1, included=sent))

    assert [north.take(junk(n)) for n in (1, 2, 3)] == [True, True, False]
    assert digest_of(north) != digest_of(south), "who knows of none is told"
    assert [south.take(junk(n)) for n in (3, 4, 2)] == [True, True, False]
    assert digest_of(north) == digest_of(south) != before
    # What others vote for is news, though two are held.
    for site in samples.SITES[1:]:
        for here in (north, south):
            assert here.take(signed(site, samples.CHARTER_ID, replace(vote, author=site.key, ballot=1)))
    assert south.ballots.closed(1) is None
    assert south.take(signed(liar, samples.CHARTER_ID, replace(vote, ballot=1)))
    assert south.ballots.closed(1) == good.choice
    assert digest_of(north) != digest_of(south)
    assert north.take(signed(liar, samples.CHARTER_ID, replace(vote, ballot=1)))
    assert digest_of(north) == digest_of(south)
    assert not north.take(junk(5))


def test_a_member_that_seals_two_vectors_keeps_nobody_from_the_one_that_a_quorum_voted_for() -> None:
    """It gave one site another vector than the rest, voted, and fell silent: the others held to the set, and that site
    took no second vector of it nor asked for one. No ballot had a quorum, for ever."""
    right, _ = round_with_a_quorum()
    liar, has = samples.SITES[1], have(right, 0, 1, None)
    first = right.sealed[liar.key]
    here = SealedRound(samples.CHARTER_ID, right.roster, right.roster[2], 1, right.chain, 4, samples.LEVELS, (3, 2))
    here.take(right.group.open)
    here.follow(right.group.hash)
    other = signed(liar, samples.CHARTER_ID, replace(first, payload=first.payload[::-1]))
    for vector in (right.sealed[samples.SITES[0].key], other):
        assert here.take(vector)
    assert not here.take(first), "nobody has voted for it"
    assert not wanted(here, has)
    for votes in right.closes.values():
        for vote in votes.values():
            here.take(vote)
    choice = here.ballots.backed_set()
    assert choice is not None
    assert not here.is_backed(choice)
    assert wanted(here, has) == [liar.key]
    assert here.take(first)
    assert here.is_backed(choice)
    assert not here.take(other)
    assert not wanted(here, has)
    assert {(fault.site, fault.reason) for fault in here.faults.take()} == {
        (liar.key, "two sealed vectors in one round")
    }
