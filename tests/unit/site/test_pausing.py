"""Training hours and pauses: what the clock says, what the operator says, and what survives a restart."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.cli.main import invoke
from kmel_p2p.core.rounds import Pause, Resume
from kmel_p2p.site.config import load_config, parse_config
from kmel_p2p.site.pausing import Pausing
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.training_hours import Window, closed_until

MONDAY = datetime.datetime(2026, 11, 30)


def at(day: int, clock: str) -> datetime.datetime:
    hour, minute = map(int, clock.split(":"))
    return MONDAY + datetime.timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("hours", "day", "clock", "until"),
    [
        ([], 0, "12:00", ""),
        (["20:00-06:00"], 0, "19:59", "Mon 20:00"),
        (["20:00-06:00"], 0, "20:00", ""),
        (["20:00-06:00"], 1, "05:59", ""),
        (["20:00-06:00"], 1, "06:00", "Tue 20:00"),
        (["Mon-Fri 20:00-06:00"], 5, "05:00", ""),
        (["Mon-Fri 20:00-06:00"], 5, "20:00", "Mon 20:00"),
        (["Mon-Fri 20:00-06:00", "Sat,Sun 00:00-24:00"], 6, "13:00", ""),
        (["Sun 22:00-03:00"], 0, "02:59", ""),
        (["Sun 22:00-03:00"], 0, "03:00", "Sun 22:00"),
        (["Fri-Mon 08:00-09:00"], 1, "08:30", "Fri 08:00"),
        (["Fri-Mon 08:00-09:00"], 0, "08:30", ""),
    ],
)
def test_hours_say_when_training_may_begin(hours: list[str], day: int, clock: str, until: str) -> None:
    assert closed_until(hours, at(day, clock)) == until


@pytest.mark.parametrize("text", ["", "8-9", "08:00-08:00", "25:00-26:00", "08:60-09:00", "Mo 08:00-09:00",
                                  "Mon-Tue-Wed 08:00-09:00", "Mon 08:00-24:01", "Mon,08:00-09:00"])  # fmt: skip
def test_what_are_no_hours_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"20:00-06:00|00:00"):
        Window.parse(text)
    settings = f'[site]\nname = "north"\n[data]\npath = "d.csv"\n[resources]\nhours = ["{text}"]\n'
    with pytest.raises(ConfigError, match=r"resources\.hours"):
        parse_config(settings, Path("site.toml"))


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_window_is_open_for_its_length_each_week(day: int, start: int, length: int, minute: int) -> None:
    window = Window(frozenset({day}), start, length)
    assert sum(window.holds(one) for one in range(7 * 1440)) == length
    assert window.holds(minute) == any((minute - begin) % (7 * 1440) < length for begin in window.starts())


def test_the_protocol_is_told_when_something_changes_and_not_otherwise(tmp_path: Path) -> None:
    told: list[Any] = []
    now = at(0, "12:00")
    orders = OrderBook(tmp_path)
    pausing = Pausing(orders, ["20:00-06:00"], told.append, lambda: now)
    pausing.look()
    pausing.look()
    assert told == [Pause("outside of this site's training hours until Mon 20:00 ([resources] hours)")]
    now = at(0, "20:00")
    pausing.look()
    assert told[1:] == [Resume()]
    orders.pause("the cluster is needed")
    pausing.tell()
    assert told[2:] == [Pause("the cluster is needed; kmel-peer resume goes on")]
    again = OrderBook(tmp_path)
    assert again.orders.paused == "the cluster is needed", "a restart does not undo it"
    again.pause(None)
    assert OrderBook(tmp_path).orders.paused is None


def test_a_peer_that_does_not_run_is_told_at_its_next_start(tmp_path: Path) -> None:
    home = tmp_path / "north"
    assert invoke(["init", str(home), "--name", "north"]) == 0
    settings, state = str(home / "site.toml"), load_config(home / "site.toml").site.state_dir
    assert invoke(["pause", "--reason", "the cluster is needed", "-c", settings]) == 0
    assert OrderBook(state).orders.paused == "the cluster is needed"
    assert invoke(["resume", "-c", settings]) == 0
    assert OrderBook(state).orders.paused is None
