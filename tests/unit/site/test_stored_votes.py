"""Votes in the store: one of each voter and author, and after a restart the same suspensions as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.ledger.harm.vote import HarmVote, cast
from kmel_p2p.site.modes.stored_ledger import VOTE, keep_vote, open_ledger
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.testbed.peers.site import World, make_site, make_world

AUTHOR = 3


def vote(world: World, voter: int, first: int, number: int, term: int = 0) -> HarmVote:
    author = world.identities[AUTHOR].key
    return cast(world.identities[voter], world.charter.id, author, term, (first, number), {0: 2}, True)


def lifted(world: World) -> tuple[Constitution, bytes]:
    constitution = Constitution(world.charter)
    document = constitution.draft(lift=[world.rule(AUTHOR).name])
    for who in world.identities[:3]:
        document = document.signed_by(who, constitution)
    return constitution.followed_by(document), document.encode()


def test_after_a_lift_and_a_second_suspension_a_restart_finds_the_second_one(tmp_path: Path) -> None:
    world = make_world("ledger", 4, 0, 10)
    site = make_site(world, 0, Constitution(world.charter), tmp_path)
    author = world.identities[AUTHOR].key
    with_store = Store(tmp_path / STORE_NAME)
    for voter in (1, 2):
        keep_vote(with_store, vote(world, voter, 1, 3).encode())
    assert open_ledger(site, with_store).suspended == {author: 1}
    constitution, encoded = lifted(world)
    with_store.add_amendment(1, encoded)
    assert open_ledger(site, with_store).suspended == {}
    for voter in (1, 2):
        keep_vote(with_store, vote(world, voter, 5, 8, term=1).encode())
    found = open_ledger(site, with_store)
    assert found.suspended == {author: 5}
    assert found.constitution is not None
    assert found.constitution.head_hash == constitution.head_hash
    with_store.close()


def test_however_often_a_site_votes_the_store_keeps_one_vote_of_it(tmp_path: Path) -> None:
    world = make_world("ledger", 4, 0, 10)
    site = make_site(world, 0, Constitution(world.charter), tmp_path)
    store = Store(tmp_path / STORE_NAME)
    for number in range(2, 40):
        keep_vote(store, vote(world, 1, number - 1, number).encode())
    assert len(store.blobs(VOTE)) == 1
    (kept,) = open_ledger(site, store).votes
    assert kept.number == 39
    store.close()


def test_a_stored_vote_that_its_voter_did_not_sign_stops_the_start(tmp_path: Path) -> None:
    world = make_world("ledger", 4, 0, 10)
    site = make_site(world, 0, Constitution(world.charter), tmp_path)
    store = Store(tmp_path / STORE_NAME)
    sound = vote(world, 1, 1, 3)
    store.put_blob(f"{VOTE}altered", sound.encode()[:-1] + bytes([sound.encode()[-1] ^ 1]))
    with pytest.raises(ConfigError, match="not signed by its voter"):
        open_ledger(site, store)
    store.close()
