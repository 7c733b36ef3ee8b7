"""Whole federations of sealed rounds in virtual time: loss, kills in every stage, hostile members."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from kmel_p2p.agreement.averaging import quorum_of
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed import averaging as averaging_module
from kmel_p2p.core.sealed import masking
from kmel_p2p.core.sealed.events import RoundVoid, SealRefused, SiteAccused
from kmel_p2p.core.sealed.gathering import turns
from kmel_p2p.core.sealed.levels import quantise
from kmel_p2p.core.sealed.messages import (
    VOID,
    GroupMember,
    SealClose,
    Sealed,
    SealKey,
    SealLoose,
    SealOpen,
    SealPast,
    SealReveal,
    SealSum,
    signed,
)
from kmel_p2p.core.sealed.rules import SealedSettings
from kmel_p2p.core.sealed.stages import Stage
from kmel_p2p.core.sealed.sums import decode_sum
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.sealed_mesh import CHARTER_ID, FAST, Disk, Faults, Mesh


class Account:
    """What every site sealed in every round, noted where it is quantised: the truth beside the protocol."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sealed: dict[tuple[SiteKey, int], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        original = averaging_module.SealedAveraging._store_round

        def noted(site, result):
            def note(*arguments):
                made = quantise(*arguments)
                self.sealed[site._key, site.present.at.number].append(made)
                return made

            monkeypatch.setattr(averaging_module, "quantise", note)
            original(site, result)

        monkeypatch.setattr(averaging_module.SealedAveraging, "_store_round", noted)

    def check(self, mesh: Mesh) -> None:
        """Every sum is the plain sum of what its sites sealed, and every residual has lost what was summed, once.

        What was opened for nothing is lost to the residual as well, so it may be that of a later round.
        """
        log = next(site.log for site in mesh.sites if site is not None)
        newest: dict[SiteKey, int] = {}
        for encoded in log.encoded:
            entry = decode_sum(encoded)
            keys = [key for place, key in enumerate(mesh.keys) if entry.sites >> place & 1]
            plain = sum(self.sealed[key, entry.round][-1][0] for key in keys)
            raised = masking.unpack(entry.packed, log.count, masking.mask_bits(entry.count, log.levels))
            assert np.array_equal(raised.astype(np.int64) - entry.count * log.levels, plain)
            newest |= dict.fromkeys(keys, entry.round)
        for key, number in newest.items():
            site = mesh.sites[mesh.index[key]]
            later = [made for (of, at), made in self.sealed.items() if of == key and at >= number]
            assert site is None or any(np.array_equal(site._residual, made[-1][1]) for made in later)


@pytest.fixture
def account(monkeypatch) -> Account:
    return Account(monkeypatch)


def never_both_kinds(mesh: Mesh, liars: frozenset[int] = frozenset()) -> None:
    """In a round, honest sites give seeds of either kind for one set alone, and only after a quorum voted for it."""
    honest = {key for n, key in enumerate(mesh.keys) if n not in liars}
    voters: dict[tuple[int, bytes], set[SiteKey]] = defaultdict(set)
    opened: dict[int, set[bytes]] = defaultdict(set)
    for _, _, message in mesh.sent:
        if isinstance(message, SealClose):
            voters[message.round, message.choice].add(message.author)
        if isinstance(message, SealLoose | SealReveal) and message.author in honest and message.choice != VOID:
            opened[message.round].add(message.choice)
            assert len(voters[message.round, message.choice]) >= quorum_of(len(mesh.keys))
    assert all(len(choices) == 1 for choices in opened.values())


def run(mesh: Mesh, limit: int = 900) -> None:
    mesh.run(mesh.all_complete, limit * SECOND)
    assert len(mesh.digests()) == 1


def first_opener(mesh: Mesh) -> int:
    return mesh.index[turns(mesh.site(0).present.at, mesh.keys)[0]]


@pytest.mark.parametrize(("count", "sums"), [(4, 4), (8, 3)])
def test_sums_of_small_and_large_groups_are_exact(account, count, sums) -> None:
    mesh = Mesh(count, entry_limit=sums)
    run(mesh)
    account.check(mesh)
    assert [decode_sum(encoded).count for encoded in mesh.site(0).log.encoded] == [count] * sums


def test_a_federation_learns_from_sums_alone(account) -> None:
    count = 5
    mesh = Mesh(count, entry_limit=24)
    run(mesh)
    account.check(mesh)
    assert not mesh.seen(RoundVoid)
    assert not mesh.seen(SealRefused)
    log = mesh.site(0).log
    assert log.number == 24
    targets = [mesh.drift(n, 0, np.zeros(len(log), np.float32)) * 5 for n in range(count)]
    apart = np.linalg.norm(mesh.site(0).trunk() - np.mean(targets, 0)) / np.linalg.norm(np.mean(targets, 0))
    assert apart < 0.25


def test_no_plain_delta_leaves_a_site(account) -> None:
    mesh = Mesh(5, entry_limit=4)
    run(mesh)
    wire = b"".join(mesh.wire.encode(message) for _, _, message in mesh.sent)
    for (key, number), made in account.sealed.items():
        q = made[-1][0]
        bits = masking.mask_bits(5, 7)
        for plain in (masking.pack((q + 7).astype(np.uint16), bits), q.astype(np.int8).tobytes(), q.tobytes()):
            assert plain not in wire, (key, number)
    never_both_kinds(mesh)


@pytest.mark.parametrize("seed", range(4))
def test_loss_and_repetition_cost_time_alone(account, seed) -> None:
    mesh = Mesh(5 + seed, seed=seed, faults=Faults(loss=0.1, repeat=0.1), entry_limit=8)
    run(mesh)
    account.check(mesh)
    never_both_kinds(mesh)
    assert not mesh.seen(SiteAccused)
    assert all(event.reason for _, event in mesh.seen(RoundVoid))


@pytest.mark.parametrize(
    "stage", [Stage.IDLE, Stage.TRAINING, Stage.STORED, Stage.SEALED, Stage.CLOSED, Stage.REVEALED]
)
def test_a_site_that_is_killed_in_any_stage_says_nothing_else_afterwards(account, stage) -> None:
    mesh = Mesh(5, seed=7, faults=Faults(loss=0.1), entry_limit=8)
    killed: set[int] = set()

    def watch(n: int) -> None:
        site = mesh.sites[n]
        at = site.present.at.number if site is not None else 0
        if site is not None and site.present.stage is stage and at not in killed and at % 5 == n:
            killed.add(at)
            mesh.at(mesh.now, lambda: mesh.restart(n) if mesh.sites[n] is site else None)

    mesh.watch = watch
    run(mesh)
    assert len(killed) > 2
    account.check(mesh)
    never_both_kinds(mesh)
    assert not mesh.seen(SiteAccused)


@pytest.mark.parametrize("seed", range(3))
def test_random_kills_of_any_site(account, seed) -> None:
    mesh = Mesh(6, seed=seed, faults=Faults(loss=0.1), entry_limit=10)
    for at in range(3, 60, 7):
        mesh.at(at * SECOND, lambda: mesh.restart(mesh.rng.randrange(6)))
    run(mesh)
    account.check(mesh)
    never_both_kinds(mesh)
    assert not mesh.seen(SiteAccused)


def test_sites_that_start_again_after_their_first_vote_go_on_to_the_next_ballot(account) -> None:
    mesh = Mesh(5, entry_limit=2)
    restarted: set[int] = set()

    def watch(n: int) -> None:
        site = mesh.sites[n]
        if site is not None and site.present.stage is Stage.CLOSED and n not in restarted:
            restarted.add(n)
            # What it said is stored by then.
            mesh.at(mesh.now + 20 * MILLISECOND, lambda: mesh.restart(n, SECOND))

    def tamper(n: int, to: int, message: Message) -> Message | None:
        """Nobody hears of a vote in the first ballot of the first round."""
        lost = isinstance(message, SealClose) and (message.round, message.ballot) == (1, 0)
        return None if lost else message

    mesh.watch, mesh.tamper = watch, tamper
    run(mesh)
    assert restarted == set(range(5))
    account.check(mesh)
    never_both_kinds(mesh)


def test_a_member_that_never_seals_is_left_out(account) -> None:
    mesh = Mesh(6, entry_limit=3, train_time=lambda site: (300 if site == 2 else 1) * SECOND)
    mesh.run(lambda: all(mesh.site(n).log.number >= 1 for n in range(6) if n != 2), 100 * SECOND)
    assert decode_sum(mesh.site(0).log.encoded[0]).count == 5
    never_both_kinds(mesh)
    account.check(mesh)


def test_a_late_vector_stays_hidden(account) -> None:
    """It comes after the others gave its pair seeds: nobody gives shares of its self seed."""
    late: list[Sealed] = []
    mesh = Mesh(6, entry_limit=3)

    def hold_back(n, to, message):
        if isinstance(message, Sealed) and n == 2 and message.round == 1:
            late.append(message)
            return None
        return message

    mesh.tamper = hold_back
    mesh.run(lambda: all(site.log.number >= 1 for site in mesh.sites), 100 * SECOND)
    assert late
    assert decode_sum(mesh.site(0).log.encoded[0]).count == 5
    assert mesh.site(2)._residual.any() == 0
    run(mesh)
    never_both_kinds(mesh)
    account.check(mesh)


def test_a_member_that_dies_after_it_sealed_is_in_the_sum(account) -> None:
    mesh = Mesh(6, entry_limit=2)
    dead: list[int] = []

    def watch(n: int) -> None:
        site = mesh.sites[n]
        if n == 3 and site is not None and site.present.stage is Stage.SEALED and not dead:
            dead.append(n)
            mesh.at(mesh.now + SECOND // 5, lambda: mesh.crash(3))

    mesh.train_time = lambda site: (1 if site == 3 else 2) * SECOND
    mesh.watch = watch
    mesh.run(lambda: mesh.site(0).log.number >= 1, 100 * SECOND)
    assert decode_sum(mesh.site(0).log.encoded[0]).count == 6
    mesh.start(3)
    mesh.watch = lambda n: None
    run(mesh)
    account.check(mesh)
    # Round 2 need not have waited for it.
    own = [mesh.keys[3] in decode_sum(encoded).authors(mesh.keys) for encoded in mesh.site(3).log.encoded]
    assert own[0]
    assert mesh.site(3).committed == sum(own)


def test_too_few_sites_wait_and_say_for_whom() -> None:
    mesh = Mesh(5, entry_limit=3)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    for n in (1, 2):
        mesh.crash(n)
    before = mesh.site(0).log.number
    mesh.run(lambda: mesh.now > 200 * SECOND, 201 * SECOND)
    assert mesh.site(0).log.number <= before + 1
    waits = mesh.site(0).waits
    assert {mesh.keys[1], mesh.keys[2]} <= set(waits[0].sites)
    for n in (1, 2):
        mesh.start(n)
    run(mesh)


def test_a_partition_without_a_quorum_opens_nothing_and_goes_on_afterwards(account) -> None:
    mesh = Mesh(6, entry_limit=6)
    mesh.run(lambda: mesh.site(0).log.number >= 2, 60 * SECOND)
    mesh.cut = lambda a, b: (a < 3) != (b < 3)
    began = mesh.now
    mesh.run(lambda: mesh.now > began + 60 * SECOND, began + 61 * SECOND)
    assert max(site.log.number for site in mesh.sites) <= 3
    mesh.cut = lambda a, b: False
    run(mesh)
    account.check(mesh)


def test_a_site_that_was_away_for_rounds_gets_the_sums(account) -> None:
    mesh = Mesh(7, entry_limit=8)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    mesh.crash(4)
    mesh.run(lambda: mesh.site(0).log.number >= 5, 200 * SECOND)
    mesh.start(4)
    run(mesh)
    account.check(mesh)


@pytest.mark.parametrize("seed", range(3))
def test_a_site_that_comes_late_and_one_that_loses_its_disk_end_with_the_same_trunk(seed) -> None:
    rng = np.random.default_rng(seed)
    count = 5 + seed
    mesh = Mesh(count, seed=seed, faults=Faults(loss=0.05), entry_limit=6)
    late, lost = map(int, rng.choice(count, 2, replace=False))
    mesh.crash(late)

    def lose() -> None:
        mesh.crash(lost)
        mesh.disks[lost] = Disk()
        mesh.at(mesh.now + 3 * SECOND, lambda: mesh.start(lost))

    mesh.at(int(rng.integers(5, 20)) * SECOND, lambda: mesh.start(late))
    mesh.at(int(rng.integers(3_000, 25_000)) * MILLISECOND, lose)
    mesh.run(lambda: mesh.now > 30 * SECOND and mesh.all_complete(), 900 * SECOND)
    assert len(mesh.digests()) == 1
    assert mesh.site(late).log.number == mesh.site(lost).log.number == 6
    assert {event.site for _, event in mesh.seen(SiteAccused)} <= {mesh.keys[lost]}
    assert not mesh.seen(SealRefused)


# ---- hostile members --------------------------------------------------------------------------------------------


def liar(mesh: Mesh, n: int, change):
    """Site n sends what `change(to, message)` makes of its statements, signed anew."""

    def tamper(sender, to, message):
        if sender != n or not hasattr(message, "signature") or message.author != mesh.keys[n]:
            return message
        changed = change(to, message)
        if changed is None or changed == message:
            return changed
        return signed(mesh.identities[n], CHARTER_ID, changed)

    mesh.tamper = tamper


def honest_agree(mesh: Mesh, n: int, limit: int = 900) -> None:
    def others_done() -> bool:
        return all(
            site is None or i == n or site.log.number >= mesh.rules.entry_limit for i, site in enumerate(mesh.sites)
        )

    mesh.run(others_done, limit * SECOND)
    ended = mesh.now
    mesh.run(lambda: mesh.now > ended + 5 * SECOND, limit * SECOND)
    held = [site.digest_work()() for i, site in enumerate(mesh.sites) if i != n and site is not None]
    assert len({*held}) == 1
    never_both_kinds(mesh, frozenset({n}))


def accused(mesh: Mesh) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = defaultdict(set)
    for _, event in mesh.seen(SiteAccused):
        found[event.site].add(event.reason)
    return found


def test_an_opener_with_two_groups_is_named() -> None:
    mesh = Mesh(6, entry_limit=3)
    opener = first_opener(mesh)

    def two_groups(to, message):
        if isinstance(message, SealOpen) and to % 2 and len(message.members) > 5:
            dropped = next(m for m in message.members if m.site != mesh.keys[opener])
            return replace(message, members=tuple(m for m in message.members if m != dropped))
        return message

    liar(mesh, opener, two_groups)
    honest_agree(mesh, opener)
    assert dict(accused(mesh)) == {mesh.keys[opener]: {"two groups for one round"}}


def test_an_opener_cannot_put_its_own_key_in_a_members_place() -> None:
    mesh = Mesh(5, entry_limit=2)
    opener = first_opener(mesh)

    def forge(to, message):
        if not isinstance(message, SealOpen):
            return message
        forged = [GroupMember(m.site, bytes([n + 9]) * 32, m.signature) for n, m in enumerate(message.members)]
        return replace(message, members=tuple(forged))

    liar(mesh, opener, forge)
    honest_agree(mesh, opener)
    assert any("without its author's signature" in event.reason for _, event in mesh.seen(SealRefused))


def test_an_opener_cannot_choose_its_victims_company() -> None:
    """An Open that leaves out more than a quarter of those that are ready is not gone by."""
    mesh = Mesh(8, entry_limit=2)
    opener = first_opener(mesh)

    def choose(to, message):
        if isinstance(message, SealOpen) and len(message.members) == 8:
            others = [m for m in message.members if m.site != mesh.keys[opener]][3:]
            return replace(message, members=tuple(m for m in message.members if m not in others))
        return message

    liar(mesh, opener, choose)
    honest_agree(mesh, opener)
    assert all(decode_sum(encoded).count >= 6 for encoded in mesh.site((opener + 1) % 8).log.encoded)


def test_two_votes_in_one_ballot_are_named_and_open_one_sum_at_most(account) -> None:
    mesh = Mesh(6, entry_limit=4)

    def two_votes(to, message):
        if isinstance(message, SealClose) and message.included and to % 2:
            return replace(message, open=VOID, included=())
        return message

    liar(mesh, 1, two_votes)
    honest_agree(mesh, 1)
    assert "two votes in one ballot" in accused(mesh)[mesh.keys[1]]


@pytest.mark.parametrize("count", [5, 7])
def test_an_opener_that_asks_each_site_for_another_set_gets_no_pair_seeds(count) -> None:
    """Seeds that went with the votes would bare a site: its pair seeds by one set, its self seed by another."""
    mesh = Mesh(count, entry_limit=2, min_sum=3)
    opener = first_opener(mesh)
    wished: set[bytes] = set()

    def split(to, message):
        if isinstance(message, SealClose) and len(message.included) > 3 and to % 2:
            others = [each for each in message.included if each.site not in (mesh.keys[opener], mesh.keys[to])]
            asked = replace(message, included=tuple(each for each in message.included if each != others[0]))
            wished.add(asked.choice)
            return asked
        return message

    liar(mesh, opener, split)
    honest_agree(mesh, opener)
    assert wished
    given = {m.choice for _, _, m in mesh.sent if isinstance(m, SealLoose) and m.author != mesh.keys[opener]}
    assert not given & wished


def test_a_member_that_never_sealed_and_one_that_died_end_in_a_void_round(account) -> None:
    """Nobody has the pair seed of these two: the round is void, and the next one goes on."""
    mesh = Mesh(7, entry_limit=2)
    dead: list[int] = []

    def lose(n, to, message):
        if message.__class__ is Sealed and n == 5 and message.round == 1:
            return None
        if isinstance(message, SealLoose) and n == 3 and message.round == 1:
            if not dead:
                dead.append(n)
                mesh.at(mesh.now, lambda: mesh.crash(3))
                mesh.at(mesh.now + 40 * SECOND, lambda: mesh.start(3))
            return None
        return message

    mesh.tamper = lose
    run(mesh)
    assert dead
    account.check(mesh)
    never_both_kinds(mesh)


def test_two_reveals_are_named() -> None:
    mesh = Mesh(6, entry_limit=3)
    liar(
        mesh,
        1,
        lambda to, m: replace(m, choice=VOID, shares=()) if isinstance(m, SealReveal) and to % 2 else m,
    )
    honest_agree(mesh, 1)
    assert "two reveals in one ballot" in accused(mesh)[mesh.keys[1]]


def test_a_member_that_reveals_wrong_shares_is_named(account) -> None:
    mesh = Mesh(6, entry_limit=3)
    liar(
        mesh,
        2,
        lambda to, m: replace(m, shares=m.shares[::-1]) if isinstance(m, SealReveal) and m.shares else m,
    )
    honest_agree(mesh, 2)
    assert "it revealed shares that were not dealt to it" in accused(mesh)[mesh.keys[2]]
    assert set(accused(mesh)) == {mesh.keys[2]}


def test_a_member_that_withholds_its_reveals_stops_nobody(account) -> None:
    mesh = Mesh(6, entry_limit=3)
    liar(mesh, 2, lambda to, m: None if isinstance(m, SealReveal) else m)
    honest_agree(mesh, 2)
    assert not accused(mesh)


def test_a_dealer_of_shares_that_do_not_decrypt_is_named_and_left_out(account) -> None:
    mesh = Mesh(6, entry_limit=3)
    liar(mesh, 3, lambda to, m: replace(m, shares=bytes(len(m.shares))) if isinstance(m, Sealed) else m)
    honest_agree(mesh, 3)
    assert any("dealt this site" in reason for reason in accused(mesh)[mesh.keys[3]])
    place = 1 << 3
    assert not any(decode_sum(encoded).sites & place for encoded in mesh.site(0).log.encoded)


def test_a_vector_of_garbage_makes_the_round_void_and_harms_no_trunk() -> None:
    mesh = Mesh(5, entry_limit=2)

    def garbage(to, message):
        if isinstance(message, Sealed) and message.round == 1:
            values = np.random.default_rng(5).integers(0, 128, 60).astype(np.uint16)
            return replace(message, payload=masking.pack(values, 7))
        return message

    member = (first_opener(mesh) + 1) % 5
    liar(mesh, member, garbage)
    honest_agree(mesh, member)
    voids = [event for n, event in mesh.seen(RoundVoid) if event.round == 1 and n != member]
    assert any("beyond what its sites can have sealed" in event.reason for event in voids)
    assert mesh.site(0).log.last_round == 3


def test_what_was_opened_for_nothing_is_never_sealed_again(account) -> None:
    """One garbage vector voids a round after its sum is open; in the next, a site is late. The difference of the two
    sums was that site's levels, because it had sealed the same residual twice."""
    mesh = Mesh(6, entry_limit=2)
    member, late = 1, 4

    def spoil(n, to, message):
        if not isinstance(message, Sealed) or message.author != mesh.keys[n]:
            return message
        if n == late and message.round == 2:
            return None
        if n == member and message.round == 1:
            values = masking.unpack(message.payload, 60, 7).copy()
            values[0] = (values[0] + 62) % 128
            message = replace(message, payload=masking.pack(values, 7))
            return signed(mesh.identities[n], CHARTER_ID, message)
        return message

    mesh.tamper = spoil
    mesh.run(lambda: mesh.site(0).log.number >= 1, 300 * SECOND)
    assert [event.round for n, event in mesh.seen(RoundVoid) if n == 0] == [1]
    first, left = account.sealed[mesh.keys[late], 1][0]
    assert first.any()
    site = mesh.site(late)
    assert site.committed == 1, "its trainer goes on"
    kept = mesh.disks[late].residual
    assert kept is not None
    again = account.sealed[mesh.keys[late], 2]
    if again:
        assert not np.array_equal(again[0][0], first)
    assert np.array_equal(np.frombuffer(kept, "<f4"), left)


def test_two_sites_with_one_key_make_a_group_that_opens_nothing_of_the_other(account) -> None:
    """Refusing the group let a site that copies another's key stop every opener, after each restart again."""
    mesh = Mesh(6, entry_limit=2)
    copied: dict[int, bytes] = {}

    def copy(n, to, message):
        if isinstance(message, SealKey) and message.author == mesh.keys[2]:
            copied[message.round] = message.public
        if isinstance(message, SealKey) and message.author == mesh.keys[3] and n == 3 and message.round in copied:
            return signed(mesh.identities[3], CHARTER_ID, replace(message, public=copied[message.round]))
        return message

    mesh.tamper = copy
    honest_agree(mesh, 3)
    assert copied


def test_a_vote_for_nothing_that_names_a_group_is_refused() -> None:
    mesh = Mesh(5, entry_limit=2)
    at = mesh.site(1).present.at
    said = signed(mesh.identities[2], CHARTER_ID, SealClose(mesh.keys[2], at.number, 0, b"o" * 32, ()))
    with pytest.raises(WireError, match="for no sum that names a group"):
        at.take(said)


def test_a_group_has_a_quorum_of_the_roster_in_it() -> None:
    """In a group of 5 of 10, three that lie held enough shares to open whoever was left out."""
    mesh = Mesh(10, entry_limit=2, min_group=5)
    for n in range(6, 10):
        mesh.crash(n)
    with pytest.raises(AssertionError, match="6 sites are ready; a group takes 7"):
        mesh.run(lambda: mesh.site(0).log.number >= 1, 120 * SECOND)
    mesh.start(6)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 400 * SECOND)


def test_statements_of_an_earlier_round_change_nothing(account) -> None:
    mesh = Mesh(5, entry_limit=4)
    kept: list = []

    def replay(n, to, message):
        if hasattr(message, "signature") and not isinstance(message, SealSum):
            kept.append(message)
            old = kept[len(kept) // 2]
            mesh.at(mesh.now + 1000, lambda: mesh._deliver(n, to, mesh.wire.encode(old)))
        return message

    mesh.tamper = replay
    run(mesh)
    account.check(mesh)
    assert not accused(mesh)


def test_two_keys_for_one_round_are_named() -> None:
    mesh = Mesh(6, entry_limit=2)
    other = bytes(range(32))
    liar(mesh, 4, lambda to, m: replace(m, public=other) if isinstance(m, SealKey) and to % 2 else m)
    honest_agree(mesh, 4)
    assert accused(mesh)[mesh.keys[4]] >= {"two keys for one round"}


def test_one_lying_site_cannot_make_the_others_believe_in_a_sum() -> None:
    mesh = Mesh(5, entry_limit=2)
    for n in (1, 2, 3, 4):
        said = signed(mesh.identities[0], CHARTER_ID, SealSum(mesh.keys[0], 40, 40, b"x" * 32))
        mesh._deliver(0, n, mesh.wire.encode(said))
    run(mesh)
    assert mesh.site(1).log.number == 2


def test_a_site_that_gives_wrong_sums_is_named_and_another_one_asked() -> None:
    mesh = Mesh(6, entry_limit=6)
    mesh.run(lambda: mesh.site(0).log.number >= 1, 60 * SECOND)
    mesh.crash(4)
    mesh.run(lambda: mesh.site(0).log.number >= 4, 200 * SECOND)
    mesh.tamper = lambda n, to, m: replace(m, sums=m.sums[::-1]) if isinstance(m, SealPast) and n < 3 else m
    mesh.start(4)
    run(mesh)
    named = {event.sender for n, event in mesh.seen(SealRefused) if n == 4}
    assert named <= {mesh.keys[n] for n in range(3)}


def test_one_early_vote_hurries_nobody(account) -> None:
    """A vote for nothing, sent when the round opens, does not end it while others train (the opener's does)."""
    mesh = Mesh(6, entry_limit=3, train_time=lambda site: 20 * SECOND)
    liar_site = (first_opener(mesh) + 1) % 6
    early: set[int] = set()

    def hurry(n, to, message):
        if n == liar_site and isinstance(message, SealKey) and (message.author, message.round) == (mesh.keys[n], 1):
            early.add(message.round)
            void = SealClose(mesh.keys[n], message.round, 0, VOID, ())
            sent = mesh.wire.encode(signed(mesh.identities[n], CHARTER_ID, void))
            mesh.at(mesh.now + SECOND, lambda: mesh._deliver(n, to, sent))
        return message

    mesh.tamper = hurry
    honest_agree(mesh, liar_site)
    assert early
    assert not [event for n, event in mesh.seen(RoundVoid) if n != liar_site and event.round == 1]


def test_a_vote_without_a_signature_leaves_no_trace() -> None:
    mesh = Mesh(5, entry_limit=2)
    at = mesh.site(1).present.at
    forged = SealClose(mesh.keys[2], at.number, 9, VOID, (), bytes(64))
    with pytest.raises(WireError, match="without its author's signature"):
        at.take(forged)
    assert not at.closes


def test_settings_of_the_mesh_are_those_of_the_product_but_faster() -> None:
    assert FAST.vote_us < 2 * SealedSettings().vote_us
