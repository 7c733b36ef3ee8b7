"""What contributions were worth: measured within a share of the time, added up, kept over restarts, told to people."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds import Stretch, StretchPart, StretchWork
from kmel_p2p.core.types import Vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site.observe.contribution import contribution_report
from kmel_p2p.site.page.contribution_page import WORDS, contribution_page
from kmel_p2p.site.trainer import contributions as module
from kmel_p2p.site.trainer.contribution_book import EARLY, MOST_SPANS, SOON, T_95, ContributionBook
from kmel_p2p.site.trainer.contributions import FOLDER, SHARE, ContributionMeasuring
from tests.testbed.peers.site import make_site, make_world

NORTH, SOUTH, WEST = (SiteKey(name * 32) for name in (b"n", b"s", b"w"))


def one_part(author: SiteKey, first: int, number: int, weight: float = 1.0, copies: int = 0) -> StretchPart:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return StretchPart(author, first, number, weight, 100, copies, 0, *nothing)


def endpoint(*worth: float) -> session.EndpointWorth:
    """Of the parts in order; groups differ a little."""
    groups = tuple(tuple(value * (1 + 0.01 * group) for value in worth) for group in range(-3, 3))
    return session.EndpointWorth(60, 0.5, groups)


def book_of(*stretches: tuple[float, float, float]) -> ContributionBook:
    book = ContributionBook()
    for at, worth in enumerate(stretches):
        parts = tuple(one_part(key, 4 * at + 1, 4 * at + 4) for key in (NORTH, SOUTH, WEST))
        until = dict.fromkeys((NORTH, SOUTH, WEST), 4 * at + 4)
        book.add(Stretch(until, np.zeros(1, np.float32), parts), {0: endpoint(*worth)})
    return book


def test_stretches_are_added_up_by_group_and_survive_the_store() -> None:
    book = book_of((0.3, 0.1, -0.1), (0.1, 0.1, -0.2))
    book.saw(SOUTH, reachable=True)
    book.saw(SOUTH, reachable=False)
    again = ContributionBook.decode(book.encode())
    assert again == book
    assert again.mark == dict.fromkeys((NORTH, SOUTH, WEST), 8)
    assert again.uptime(SOUTH) == 0.5
    assert again.uptime(WEST) is None
    worth = again.worth(NORTH, 0)
    assert worth is not None
    assert worth.value == pytest.approx(0.4, rel=0.01)
    assert worth.low < worth.value < worth.high
    assert again.worth(NORTH, 1) is None
    # Equal weights: beyond the mean of all, which is 0.1.
    beyond = [found.value for key in (NORTH, SOUTH, WEST) if (found := again.beyond_weight(key, 0)) is not None]
    assert beyond == pytest.approx([0.3, 0.1, -0.4], rel=0.02)
    assert ContributionBook.decode(None) == ContributionBook()


def test_an_author_raised_the_loss_only_where_that_is_sure_over_all_its_entries() -> None:
    book = book_of((0.3, 0.1, -0.1), (-0.2, -0.3, -0.1))
    assert [book.raised_loss(key) for key in (NORTH, SOUTH, WEST)] == [False, True, True]
    # Nothing measured of it, or nothing that is told apart from chance.
    assert not ContributionBook().raised_loss(NORTH)
    groups = tuple((value,) for value in (-1.0, 1.0, -1.0, 0.9, -1.1, 1.0))
    unsure = Stretch({NORTH: 1}, np.zeros(1, np.float32), (one_part(NORTH, 1, 1),))
    book = ContributionBook()
    book.add(unsure, {0: session.EndpointWorth(60, 0.5, groups)})
    assert not book.raised_loss(NORTH)
    # Once the standard error is no proof: of a hundred honest authors, sixteen do as much by chance.
    groups = tuple((value,) for value in (-0.1, -0.9, 0.4, -0.7, -0.9, 0.4))
    book = ContributionBook()
    book.add(unsure, {0: session.EndpointWorth(60, 0.5, groups)})
    found = book.worth(NORTH, 0)
    assert found is not None
    error = (found.high - found.value) / T_95[6]
    assert error < -found.value < 2 * error
    assert not book.raised_loss(NORTH)
    # Assay endpoints together: one that gains more than the other loses.
    book.add(unsure, {1: endpoint(2.0), 2: endpoint(-1.0)})
    assert not book.raised_loss(NORTH)
    book.add(unsure, {2: endpoint(-9.0)})
    assert book.raised_loss(NORTH)


def test_an_author_spoilt_the_loss_if_it_never_helped_and_made_it_a_good_part_larger_beyond_chance() -> None:
    # The loss is 0.5. NORTH helped at first and spoils more than it gave; SOUTH spoils too little.
    book = book_of((0.01, -0.01, -0.1), (-0.9, -0.03, -0.1))
    assert [book.spoilt(key) for key in (NORTH, SOUTH, WEST)] == [False, False, True]
    assert all(book.raised_loss(key) for key in (NORTH, SOUTH, WEST))
    assert ContributionBook.decode(book.encode()).spoilt(WEST)
    # So much harm takes some honest authors longer, and with as many entries they do less.
    assert book_of((0.01, 0.0, -0.06), (0.01, 0.0, -0.06)).spoilt(WEST)
    assert not book_of((0.01, 0.0, -0.04), (0.01, 0.0, -0.04)).spoilt(WEST)
    slow = book_of(*[(0.01, 0.0, -0.02)] * (SOON // 4), (0.01, 0.0, -0.02))
    assert slow.raised_loss(WEST)
    assert not slow.spoilt(WEST)
    groups = tuple((value,) for value in (-1.0, 0.1, -0.2, 0.3, -0.9, 0.3))
    unsure = Stretch({NORTH: 1}, np.zeros(1, np.float32), (one_part(NORTH, 1, 1),))
    book = ContributionBook()
    assert not book.spoilt(NORTH)
    book.add(unsure, {0: session.EndpointWorth(60, 0.5, groups)})
    assert not book.spoilt(NORTH)


def test_who_joins_a_trained_trunk_and_does_not_help_is_not_said_to_have_spoilt_it() -> None:
    parts = (one_part(SOUTH, EARLY + 1, EARLY + 1), one_part(NORTH, 1, 1))
    late = Stretch({SOUTH: EARLY + 1, NORTH: 1}, np.zeros(1, np.float32), parts)
    book = ContributionBook()
    book.add(late, {0: endpoint(0.1, -0.4)})
    assert book.raised_loss(NORTH)
    assert not book.spoilt(NORTH)


def test_a_decline_is_told_however_much_an_author_gave_before_and_begins_anew_where_it_is_made_good() -> None:
    book = book_of((5.0, 0.1, -0.1), (5.0, -0.01, 0.2), (-0.02, -0.005, 0.0), (-0.03, -0.005, 0.0))
    # Less than a twentieth of the loss, which is one half, is none; what SOUTH lost is, by now, three hundredths.
    assert [book.declining_since(key, 1) for key in (NORTH, SOUTH, WEST)] == [9, None, None]
    assert ContributionBook.decode(book.encode()) == book
    assert not book.raised_loss(NORTH)
    # Where what it lost is made good, or what it published is looked at from a later entry on, it begins anew.
    assert book.declining_since(NORTH, 10) is None
    assert book.declining_since(NORTH, 1) is None
    assert ContributionBook().declining_since(NORTH, 1) is None
    plain = json.loads(book.encode())
    del plain["declines"]
    assert ContributionBook.decode(json.dumps(plain).encode()).declines == {}


def test_the_second_half_of_a_long_run_is_told_apart_in_bounded_space() -> None:
    book = book_of(*([(1.0, 0.0, 0.0)] * 50 + [(0.0, 1.0, -1.0)] * 50))
    assert len(book.spans) == MOST_SPANS
    assert sum(span.entries for span in book.spans) == 100 * 12
    late = [found.value for key in (NORTH, SOUTH, WEST) if (found := book.late(key, 0)) is not None]
    # Pieces do not end exactly in the middle.
    assert late == pytest.approx([0, 50, -50], abs=5)
    whole = book.worth(NORTH, 0)
    assert whole is not None
    assert whole.value == pytest.approx(50, rel=0.01)
    assert ContributionBook.decode(book.encode()) == book
    assert ContributionBook().late(NORTH, 0) is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"version": 2}', b"\xff"])
def test_an_account_that_cannot_be_read_is_named(damage: bytes) -> None:
    with pytest.raises(ConfigError, match="account of contributions"):
        ContributionBook.decode(damage)


class Bench:
    """A trainer that answers when it is told to, and a store."""

    def __init__(self, folder: Path, book: ContributionBook | None = None) -> None:
        self.asked: list[session.Appraise] = []
        self.kept: list[bytes] = []
        self.marks: list[Vector] = []
        self.measuring = ContributionMeasuring(
            folder, book or ContributionBook(), self.stretch, self.asked.append, self.kept.append
        )

    def stretch(self, mark: Vector) -> StretchWork:
        self.marks.append(mark)
        number = mark.get(SOUTH, 0) + 1
        part = one_part(SOUTH, number, number)
        return lambda: Stretch({SOUTH: number}, np.zeros(3, np.float32), (part,))

    async def round(self, seconds: float = 1.0) -> None:
        self.measuring.trained(seconds)
        if self.measuring._task is not None:
            await self.measuring._task

    def answer(self, seconds: float = 0.1) -> None:
        self.measuring.appraised(session.Appraised({0: endpoint(0.25)}, seconds))


def test_a_stretch_goes_to_the_trainer_in_files_and_what_it_found_to_the_store(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        await bench.round()
        (asked,) = bench.asked
        assert asked.half_way.exists()
        assert asked.count == 1
        assert (tmp_path / FOLDER).stat().st_mode & 0o077 == 0
        await bench.round()
        assert len(bench.asked) == 1, "one at a time"
        bench.answer()
        assert list((tmp_path / FOLDER).iterdir()) == []
        await bench.round()
        assert bench.marks == [{}, {SOUTH: 1}]
        assert ContributionBook.decode(bench.kept[-1]).mark == {SOUTH: 1}
        # After a crash the stretch that was under way is measured again.
        again = Bench(tmp_path, ContributionBook.decode(bench.kept[-1]))
        await again.round()
        assert again.marks == [{SOUTH: 1}]
        await bench.measuring.close()
        await again.measuring.close()

    asyncio.run(scene())


def test_measuring_takes_a_twentieth_of_the_time(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        for _ in range(200):
            asked = len(bench.asked)
            await bench.round()
            if len(bench.asked) > asked:
                bench.answer(0.4)
        spent = 0.4 * len(bench.asked)
        assert SHARE * 200 - 1 <= spent <= SHARE * 200
        await bench.measuring.close()

    asyncio.run(scene())


def test_what_came_last_is_measured_when_the_run_is_over_whatever_time_is_left(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        await bench.round()
        bench.answer(100.0)
        await bench.round()
        assert len(bench.asked) == 1
        bench.measuring.measure_the_rest()
        assert bench.measuring._task is not None
        await bench.measuring._task
        assert len(bench.asked) == 2
        await bench.measuring.close()

    asyncio.run(scene())


def test_a_full_disk_or_a_lost_trainer_costs_one_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)

        def full(path: Path, values: object) -> None:
            raise ConfigError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(module, "write_vector", full)
            await bench.round()
        assert not bench.asked
        await bench.round()
        bench.measuring.lost()
        # An answer of the trainer before is of nothing that is still wanted.
        bench.answer()
        assert not bench.kept
        await bench.round()
        assert len(bench.asked) == 2
        await bench.measuring.close()

    asyncio.run(scene())


def test_the_report_names_harm_copies_and_what_has_no_effect(tmp_path: Path) -> None:
    world = make_world("ledger", 3, 0, 10)
    site = make_site(world, 0, Constitution(world.charter), tmp_path)
    keys = [identity.key for identity in world.identities]
    book = book_of((0.3, 0.0, -0.1), (0.1, 0.0, -0.2))
    moved = dict(zip((NORTH, SOUTH, WEST), keys, strict=True))
    book.authors = {moved[key]: sums for key, sums in book.authors.items()}
    book.authors[keys[1]] = replace(book.authors[keys[1]], copies=7)
    book.saw(keys[1], reachable=True, size_class=9)
    report = contribution_report(site, book)
    json.dumps(report, allow_nan=False)
    names = [site.names[key] for key in keys]
    notes = {name: report["authors"][name]["notes"] for name in names}
    assert notes[names[0]] == []
    assert [note.split()[0] for note in notes[names[1]]] == ["7", "no"]
    assert notes[names[2]] == ["did harm to at least one assay endpoint"]
    found = report["authors"][names[1]]
    assert (found["uptime"], found["size_class"], found["weight_share"]) == (1.0, 9, pytest.approx(1 / 3, abs=1e-3))
    for lang in WORDS:
        page = contribution_page({**report, "federation": "<script>"}, lang)
        assert f'lang="{lang}"' in page
        assert "<script>" not in page
        assert all(name in page for name in names)
        # Who copies and who has no effect shows on it, and who did harm.
        copies = WORDS[lang]["copies"].format(count=7, entries=8)
        assert all(text in page for text in (copies, WORDS[lang]["no_effect"], WORDS[lang]["harm"]))


def test_the_page_has_every_word_in_both_languages() -> None:
    assert WORDS["en"].keys() == WORDS["ko"].keys()
    fields = [{name: set(re.findall(r"{(\w+)", text)) for name, text in words.items()} for words in WORDS.values()]
    assert fields[0] == fields[1]
