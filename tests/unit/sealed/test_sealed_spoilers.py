"""Members that seal nonsense: told by the sets of spoiled rounds, and left out. Nobody's vector is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed import masking
from kmel_p2p.core.sealed.events import RoundSpoiled, RoundVoid
from kmel_p2p.core.sealed.messages import Sealed, signed
from kmel_p2p.core.sealed.spoilers import LONGEST, TRIED_AGAIN, Spoilers
from kmel_p2p.core.sealed.sums import decode_sum
from kmel_p2p.core.types import SECOND
from tests.testbed.sealed_mesh import CHARTER_ID, Mesh

A, B, C, D = (SiteKey(bytes([n]) * 32) for n in range(4))


def spoil(mesh: Mesh, liars: set[int], when: Callable[[int, int], bool] = lambda n, round: True) -> None:
    """These sites seal garbage in the rounds in which they want to."""

    def tamper(n, to, message):
        if isinstance(message, Sealed) and n in liars and message.author == mesh.keys[n] and when(n, message.round):
            bits, count = mesh.site(n).present.at.group.bits, mesh.site(n).log.count
            values = np.random.default_rng(message.round).integers(0, 2**bits, count).astype(np.uint16)
            return signed(mesh.identities[n], CHARTER_ID, replace(message, payload=masking.pack(values, bits)))
        return message

    mesh.tamper = tamper


def spoiled(mesh: Mesh, n: int) -> list[RoundSpoiled]:
    return [event for at, event in mesh.seen(RoundSpoiled) if at == n]


@pytest.mark.parametrize(("count", "liar"), [(5, 0), (6, 3)])
def test_a_site_that_spoils_every_round_is_found_and_left_out_and_the_run_ends(count: int, liar: int) -> None:
    mesh = Mesh(count, seed=count, entry_limit=6)
    spoil(mesh, {liar})
    honest = [n for n in range(count) if n != liar]
    mesh.run(lambda: all(mesh.site(n).log.number >= 6 for n in honest), 900 * SECOND)
    assert len({mesh.site(n).log.chain for n in honest}) == 1
    for n in honest:
        seen = spoiled(mesh, n)
        assert 2 <= len(seen) <= count + 1
        assert all(mesh.keys[liar] in event.suspects for event in seen)
    sums = [decode_sum(encoded) for encoded in mesh.site(honest[0]).log.encoded]
    assert not any(mesh.keys[liar] in entry.authors(mesh.keys) for entry in sums)
    assert all(entry.count >= mesh.rules.min_sum for entry in sums)


def test_where_no_sum_may_have_fewer_sites_nobody_is_left_out_and_all_are_named() -> None:
    mesh = Mesh(4, entry_limit=3)
    spoil(mesh, {1}, lambda n, round: round < 5)
    mesh.run(lambda: all(site.log.number >= 3 for site in map(mesh.site, range(4))), 900 * SECOND)
    assert [event.rounds for event in spoiled(mesh, 0)] == [1, 2, 3, 4]
    assert set(spoiled(mesh, 0)[-1].suspects) == set(mesh.keys)
    assert all(decode_sum(encoded).count == 4 for encoded in mesh.site(0).log.encoded)


@pytest.mark.parametrize("seed", range(2))
def test_a_site_that_spoils_now_and_then_cannot_have_another_one_named(seed: int) -> None:
    mesh = Mesh(5, seed=seed, entry_limit=8)
    spoil(mesh, {2}, lambda n, round: np.random.default_rng((seed, round)).random() < 0.5)
    honest = [n for n in range(5) if n != 2]
    mesh.run(lambda: all(mesh.site(n).log.number >= 8 for n in honest), 900 * SECOND)
    for n in honest:
        assert spoiled(mesh, n)
        assert all(mesh.keys[2] in event.suspects for event in spoiled(mesh, n))
    assert not [event for n, event in mesh.seen(RoundVoid) if not event.reason]


def test_one_spoiled_round_leaves_nobody_out() -> None:
    spoilers = Spoilers()
    assert spoilers.left_out(5) is None
    assert spoilers.spoiled(3, (A, B, C, D)) == RoundSpoiled(3, 1, (A, B, C, D))
    assert spoilers.left_out(5) is None
    spoilers.spoiled(4, (A, B, C, D))
    assert [spoilers.left_out(drawn) for drawn in range(5)] == [A, B, C, D, A]
    assert spoilers.sole is None


def test_who_is_missing_in_a_spoiled_round_is_cleared_and_what_gave_a_sum_is_kept() -> None:
    spoilers = Spoilers()
    spoilers.spoiled(1, (A, B, C, D))
    spoilers.spoiled(2, (A, B, C))
    assert spoilers.suspects == {A, B, C}
    spoilers.added((A, C, D))
    assert [spoilers.left_out(drawn) for drawn in range(4)] == [B] * 4
    assert spoilers.sole is None
    spoilers.spoiled(3, (A, C, D))
    spoilers.spoiled(4, (C, D))
    assert spoilers.sole == C == spoilers.left_out(7)


def test_a_sole_suspect_is_tried_again_each_time_later_and_forgotten_at_last() -> None:
    spoilers = Spoilers()
    for number, sites in enumerate([(A, B), (A, C), (A, D)]):
        spoilers.spoiled(number, sites)
    rest = TRIED_AGAIN
    for _ in range(8):
        for _ in range(rest):
            assert spoilers.sole == A
            spoilers.added((B, C, D))
        assert spoilers.left_out(0) is None is spoilers.sole
        spoilers.spoiled(9, (A, B, C, D))
        rest = min(2 * rest, LONGEST)
    for _ in range(2 * rest):
        spoilers.added((A, B, C, D))
    assert not spoilers.suspects
    assert spoilers.rounds == 0


def test_two_that_take_turns_are_told_to_be_more_than_one() -> None:
    spoilers = Spoilers()
    spoilers.spoiled(1, (A, B, C))
    spoilers.spoiled(2, (B, C, D))
    spoilers.spoiled(3, (C, D))
    assert spoilers.spoiled(4, (A, B, D)) == RoundSpoiled(4, 1, (A, B, D))
