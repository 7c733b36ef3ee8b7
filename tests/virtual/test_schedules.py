"""Whole peers under schedules: those that failed once, a few drawn ones, and whether the oracle sees what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.ledger.harm import suspensions
from kmel_p2p.core.ledger.own_epochs import OwnEpochs
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.rounds.completion import Completion
from tests.testbed.peers.happenings import Play
from tests.testbed.peers.run import play
from tests.testbed.peers.schedule import Happening, Schedule, made_up, shrunk

FOLDER = Path(__file__).parents[1] / "testbed" / "schedules"
KEPT = sorted(FOLDER.glob("*.toml"))
IMAGE = "an-image-put-back-and-not-waited-for.toml"
DRAWN = (6, 8, 11)
"""Both modes, each within a few seconds."""

LOST_AND_PARTED = Schedule(
    seed=1,
    founders=4,
    spares=0,
    entry_limit=40,
    happenings=(
        *(Happening(0.0, "start", site) for site in range(4)),
        Happening(8.0, "backup", 0),
        Happening(9.0, "part", other=0b1001, lasts_s=60.0),
        Happening(30.0, "power", 3, lasts_s=80.0),
        Happening(31.0, "put back", 0, lasts_s=2.0),
    ),
)
"""Site 0 goes on from an old store while the only site that knows its newest entries is away."""

SUSPENDED_TWICE = Schedule(
    seed=3,
    founders=4,
    spares=1,
    entry_limit=36,
    happenings=(
        *(Happening(0.0, "start", site) for site in range(4)),
        Happening(10.0, "harm", 3, other=0b0111, lasts_s=6.0),
        Happening(11.0, "collude", 0, lasts_s=1.0),
        Happening(14.0, "power", 1, lasts_s=4.0),
        Happening(19.0, "add", 0, lasts_s=3.0),
        Happening(24.0, "lift", 0),
        Happening(26.0, "harm", 3, other=0b0111, lasts_s=10.0),
        Happening(27.0, "collude", 3, lasts_s=1.0),
        Happening(34.0, "power", 2, lasts_s=4.0),
        Happening(36.0, "wipe", 1, lasts_s=4.0),
    ),
)
"""A site is voted out, put back and voted out again, while others join, lose power and lose their disk."""


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_schedule_that_failed_once_holds(path: Path) -> None:
    played = play(Schedule.read(path))
    assert not played.violations


@pytest.mark.parametrize("seed", DRAWN)
def test_a_drawn_schedule_holds(seed: int) -> None:
    played = play(made_up(seed))
    assert not played.violations
    assert played.liveness_s is not None


@pytest.mark.parametrize("mode", ["ledger", "pushsum"])
@pytest.mark.parametrize("begins_s", [2.0, 12.0])
def test_a_site_that_pauses_holds_nobody_up_and_ends_with_the_others(mode: Mode, begins_s: float) -> None:
    starts = tuple(Happening(0.0, "start", site) for site in range(4))
    rest = Happening(begins_s, "rest", 1, lasts_s=40.0)
    played = play(Schedule(1, mode, founders=4, spares=0, entry_limit=10, happenings=(*starts, rest)))
    assert not played.violations
    assert played.reached["happening: rest"]


@pytest.mark.parametrize("how", ["put back", "image"])
def test_an_old_store_is_noticed_where_sites_exchange_shares(how: str) -> None:
    starts = tuple(Happening(0.0, "start", site) for site in range(3))
    old = Happening(6.0, "backup"), Happening(16.0, how, lasts_s=1.0)
    played = play(Schedule(1, "pushsum", founders=3, spares=0, entry_limit=20, happenings=(*starts, *old)))
    assert not played.violations
    assert played.reached["StoreOutdated"] == 1


def test_a_schedule_replays_exactly() -> None:
    schedule = Schedule(3, founders=3, entry_limit=4, happenings=tuple(Happening(0.0, "start", i) for i in range(3)))
    one, other = play(schedule), play(schedule)
    assert one.trace == other.trace
    assert one.reached == other.reached


def test_what_lacks_witnesses_waits_until_an_operator_trusts_one_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Play, "_operators_look", lambda self: None)
    whole = Schedule.read(FOLDER / "two-of-three-disks-lost-and-one-ledger-trusted.toml")
    without = tuple(each for each in whole.happenings if each.what != "trust")
    (stands,) = [text for text in play(replace(whole, happenings=without)).violations if text.startswith("liveness")]
    assert stands.count("kmel-peer trust SITE takes the word") >= 2


def test_an_old_store_beside_a_site_that_knows_more_holds() -> None:
    played = play(LOST_AND_PARTED)
    assert not played.violations
    assert played.reached["happening: put back"]
    assert played.reached["a site waits because its log may lack entries"]


def test_a_site_suspended_twice_amid_everything_else_is_so_everywhere() -> None:
    played = play(SUSPENDED_TWICE)
    assert not played.violations
    assert played.reached["AuthorSuspended"] >= 8
    assert played.reached["SuspensionLifted"] >= 4
    assert played.reached["happening: wipe"]


def test_the_oracle_sees_a_suspension_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspensions, "votes_needed", lambda others, quorum: 1)
    starts = tuple(Happening(0.0, "start", site) for site in range(4))
    # Of the colluding votes, the newest is one against site 0.
    schedule = Schedule(3, founders=4, entry_limit=12, happenings=(*starts, Happening(12.0, "collude")))
    assert any(text.startswith("suspended: ") for text in play(schedule).violations)


def test_the_oracle_sees_a_log_that_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnEpochs, "look", lambda self, alive, has_twin, now: None)
    kinds = {text.partition(":")[0] for text in play(Schedule.read(FOLDER / IMAGE)).violations}
    assert "convicted" in kinds


def test_the_oracle_sees_a_run_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Completion, "look", lambda self, state, now: False)
    schedule = Schedule(1, founders=3, spares=0, entry_limit=3, happenings=(Happening(0.0, "start"),))
    assert any(text.startswith("liveness: ") for text in play(schedule).violations)


def test_the_oracle_sees_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Peer, now: int) -> None:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(Peer, "advance", broken)
    schedule = Schedule(1, founders=3, spares=0, happenings=(Happening(0.0, "start"),))
    assert any("broken on purpose" in text for text in play(schedule).violations)


def test_a_failing_schedule_is_shrunk_to_what_matters() -> None:
    whole = made_up(4)
    needed = {whole.happenings[0], whole.happenings[-1]}
    short = shrunk(whole, lambda candidate: needed <= set(candidate.happenings))
    assert set(short.happenings) == needed


def test_a_schedule_reads_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(made_up(9).render(), encoding="utf-8")
    assert Schedule.read(path) == made_up(9)
    path.write_text("seed = 1\nsites = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"one\.toml: not a schedule"):
        Schedule.read(path)
