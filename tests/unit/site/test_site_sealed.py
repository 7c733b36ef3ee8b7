"""A site in averaging mode sealed: what its store holds, what goes with what, and what the operator is told."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed.averaging import SealedAveraging
from kmel_p2p.core.sealed.events import AccusationRecord, CandidateRecord, OwnStateRecord, SumRecord
from kmel_p2p.core.sealed.messages import Sealed, SealPast
from kmel_p2p.core.sealed.own_part import SealedState
from kmel_p2p.core.sealed.rules import SealedRules
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import create_federation
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site, trainer_plan
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.modes.sealed import ACCUSATION, Kept
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.peer_machine import make_peer
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store


def made(tmp_path: Path, **averaging: object) -> Site:
    (tmp_path / "t.csv").write_text("smiles,logS\nCCO,1\n")
    simulation = Simulation.model_validate(
        {
            "task": "trial",
            "data": {"kind": "csv", "train": Path("t.csv"), "test": Path("t.csv")},
            "sites": {"names": ("north", "south", "east", "west")},
            "charter": {
                "federation": "trial",
                "model": {"hidden": (8,)},
                "features": {"bits": 64},
                "averaging": {"mode": "sealed", "min_group": 4, "entry_limit": 9, **averaging},
                "pace": {"start_sites": 1},
                "assay_endpoints": ({"name": "solubility", "column": "logS", "head": "shared"},),
            },
        }
    )
    out = tmp_path / "run"
    create_federation(simulation, out, [tmp_path / "t.csv"] * 4, tmp_path / "t.csv", "0" * 64)
    return load_site(load_config(out / "sites" / "north" / "site.toml"))


def opened(site: Site) -> Store:
    site.config.site.state_dir.mkdir(exist_ok=True)
    return Store(site.config.site.state_dir / STORE_NAME)


def test_a_store_goes_on_where_it_was(tmp_path: Path) -> None:
    site = made(tmp_path)
    mode, size = mode_of(site.charter), site.layout.size
    assert trainer_plan(site, 1).codec is None
    with closing(opened(site)) as store:
        first = mode.open(site, store)
        assert isinstance(first, Kept)
        assert first.own == SealedState()
        log = first.log
        total = np.arange(log.count) % 29 - 14
        entry = log.entry(3, 0b1111, bytes(32), total)
        left = np.linspace(-1, 1, size, dtype=np.float32)
        state = SealedState(4, 1).encode(site.charter.id)
        records = (
            OwnStateRecord(SealedState(3, 0, b"x" * 32).encode(site.charter.id)),
            CandidateRecord(left.tobytes()),
            SumRecord(log.lane, 1, entry.encode(), "round-1.safetensors", True, state),
            AccusationRecord(site.identity.key, 3, "two votes in one ballot", (b"one", b"other")),
        )
        for record in records:
            work_of(record, site)(store)
        log.add(entry)
    with closing(opened(site)) as store:
        again = mode.open(site, store)
        assert again.log.chain == log.chain
        assert np.array_equal(again.log.trunk(), log.trunk())
        assert np.array_equal(again.residual, left)
        assert again.candidate is None
        assert (again.own.round, again.own.committed, again.own.secret) == (4, 1, b"")
        assert mode.own_state_file(site, store) == "round-1.safetensors"
        assert [row["reason"] for row in store.history(ACCUSATION)] == ["two votes in one ballot"]
        store.put_blob("sealed residual", b"short")
        with pytest.raises(ConfigError, match="sealed residual has 5 bytes"):
            mode.open(site, store)


@pytest.mark.parametrize("opened_a_sum", [True, False])
def test_the_secrets_of_a_round_are_in_no_file_once_it_is_over(tmp_path: Path, opened_a_sum: bool) -> None:
    """Half of the last thirty rounds' seeds stood in the write-ahead log: a copied disk opened these rounds."""
    site = made(tmp_path)
    rules = SealedRules.of(site.charter)
    log, rng = rules.empty_log(site.initial_trunk()), random.Random(4)
    secrets = [rng.randbytes(32) for _ in range(5)]

    def found() -> int:
        files = [path.read_bytes() for path in site.config.site.state_dir.rglob("*") if path.is_file()]
        return sum(secret in content for secret in secrets for content in files)

    with closing(opened(site)) as store:
        mode_of(site.charter).open(site, store)
        for number, secret in enumerate(secrets, 1):
            state = SealedState(number, 0, secret[::-1], secret).encode(site.charter.id)
            work_of(OwnStateRecord(state), site)(store)
            assert found() == 1
            after = SealedState(number + 1, 1).encode(site.charter.id)
            if opened_a_sum:
                entry = log.entry(number, 0b1111, bytes(32), np.zeros(log.count, np.int64))
                log.add(entry)
                ended: SumRecord | OwnStateRecord = SumRecord(log.lane, number, entry.encode(), None, False, after)
            else:
                ended = OwnStateRecord(after, over=True)
            with store.transaction("group"):
                work_of(ended, site)(store)
            assert found() == 0


def test_a_reader_of_the_store_is_not_waited_for_and_the_log_is_emptied_after_it(tmp_path: Path) -> None:
    site = made(tmp_path)
    path = site.config.site.state_dir / STORE_NAME
    secret, later = b"s" * 32, OwnStateRecord(SealedState(2).encode(site.charter.id), over=True)
    with closing(opened(site)) as store:
        work_of(OwnStateRecord(SealedState(1, 0, b"", secret).encode(site.charter.id)), site)(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM blobs").fetchone()[0]
            work_of(later, site)(store)
            assert secret in Path(f"{path}-wal").read_bytes()
            reader.execute("COMMIT")
        store.put_blob("other", b"")
        assert not any(secret in each.read_bytes() for each in path.parent.iterdir() if each.is_file())


def test_a_store_of_another_run_is_refused(tmp_path: Path) -> None:
    site = made(tmp_path)
    with closing(opened(site)) as store:
        store.averaging.put_state(b"x" * 32, 0, b"another", None)
        with pytest.raises(ConfigError, match="holds another run"):
            mode_of(site.charter).open(site, store)


def test_status_says_where_the_round_is_and_for_whom_it_waits(tmp_path: Path) -> None:
    site = made(tmp_path)
    mode = mode_of(site.charter)
    with closing(opened(site)) as store:
        peer = make_peer(site, mode.open(site, store), 1, (), random.Random(1), 0)
    assert isinstance(peer.averaging, SealedAveraging)
    section = mode.status(site, peer.averaging, Activity(lambda: 0.0), "ab" * 32)
    assert section.facts["round"] == 1
    assert "sealed round 1: 0 sites are ready; a group takes 4" in dict(section.summary)["round"]
    assert section.vector == {"sums": 0}
    folder = tmp_path / "trunk"
    writer = mode.trunk_writer(site, peer.averaging, folder)
    assert writer is not None
    assert writer()
    assert not writer()
    with pytest.raises(LocalError, match="amendments are not carried"):
        mode.check_amendment(site, peer.averaging, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "label"),
    [
        (Sealed(b"", 1, b"", b"", b"", b"", b""), "Sealed: 1 masked vector"),  # type: ignore[arg-type]
        (SealPast(1, (b"", b"")), "SealPast: 2 sums"),
    ],
)
def test_the_egress_log_says_what_a_message_holds(tmp_path: Path, message: Message, label: str) -> None:
    site = made(tmp_path)
    assert mode_of(site.charter).label(message) == label


def test_what_does_not_go_with_the_mode_is_named(tmp_path: Path) -> None:
    site = made(tmp_path)
    path = site.config.site.state_dir.parent / "site.toml"
    for key, message in (
        ("amendments", "a charter is not amended"),
        ("neighbours", "belongs to averaging mode pushsum"),
    ):
        text = path.read_text()
        value = '["south"]' if key == "neighbours" else '["a.toml"]'
        changed = text.replace(f"{key} = []", f"{key} = {value}")
        assert changed != text
        (path.parent / "a.toml").write_text("")
        path.write_text(changed)
        with pytest.raises(ConfigError, match=message):
            load_site(load_config(path))
        path.write_text(text)
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match=r"takes averaging\.min_group \(9\) to 16 sites, and 4 are listed"):
        made(tmp_path / "more", min_group=9)
