"""What a second review of sealed rounds tried as an attacker, and what told or broke something until it was mended."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed.asking import LEAST_RUN_BYTES, ROUND_PERIOD_US, STATEMENTS_BYTES, WHOLE_ROUNDS
from kmel_p2p.core.sealed.conversation import ANSWER_AGAIN_US
from kmel_p2p.core.sealed.events import ResidualDropped, RoundVoid, SealRefused
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.messages import SealClose, Sealed, SealPast, SealReveal, SealWant, hash_of
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
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
