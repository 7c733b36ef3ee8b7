"""An item on which a process ends costs itself alone: in the pool and in tables of structures."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path

import pytest

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures import described, parallel
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import LOST, describe_all
from kmel_p2p.chem.structures.parallel import map_blocks, map_chunks
from tests.support.crashing import CRASHING, crash_on_one
from tests.support.ending import crash_once, doubled, end_at_once

ITEMS = [1, -2, 3, 4, 5]
EXPECTED = [2, None, 6, 8, 10]


def given_up(item: int) -> list[int | None]:
    return [None]


def missing(path: Path) -> list[bool]:
    return [False]


def test_what_ends_a_process_is_given_up_and_everything_else_is_done() -> None:
    counts: list[int] = []
    found = map_blocks(
        doubled, [ITEMS[:3], ITEMS[3:]], chunk=2, workers=1, lost=given_up, isolated=True, done=counts.append
    )
    assert [list(chain.from_iterable(block)) for block in found] == [EXPECTED[:3], EXPECTED[3:]]
    assert sum(counts) == len(ITEMS)


def test_chunks_keep_their_numbers_when_a_process_ends() -> None:
    found = dict(map_chunks(doubled, ITEMS, chunk=2, workers=2, lost=given_up))
    assert [value for index in sorted(found) for part in found[index] for value in part] == EXPECTED


def test_what_only_once_ends_a_process_is_not_given_up(tmp_path: Path) -> None:
    (found,) = map_blocks(crash_once, [[tmp_path / "there"]], chunk=2, workers=1, lost=missing, isolated=True)
    assert found == [[True]]


def test_processes_that_cannot_begin_are_no_fault_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "end_with_parent", end_at_once)
    with pytest.raises(BrokenProcessPool):
        list(map_blocks(doubled, [[1], [2]], chunk=1, workers=2, lost=given_up))


def test_a_structure_that_crashes_is_refused_and_tried_again_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(described, "CHUNK", 2)
    smiles = ["CCO", CRASHING, "CCN", "CCCO", "CCCN"]
    cache = StructureCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "end_with_parent", crash_on_one)
        made = describe_all(smiles, FeatureRule(), cache=cache, workers=2)
    reasons = [made.table.reasons[row] for row in made.row_of]
    assert reasons == ["", LOST, "", "", ""]
    assert made.table.smiles[made.row_of[4]] == "CCCN"
    again = describe_all(smiles, FeatureRule(), cache=cache)
    assert again.computed == 1
    assert set(again.table.reasons) == {""}
