"""Tables of structures: order, cache, processes; folds and partitions."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.partition import disjointness, series_partition
from kmel_p2p.chem.structures import described
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

POLICY = FeatureRule(bits=64)
INPUTS = ["CCO", "bad(", "c1ccccc1C", "CCO", "OCC", ""]


def test_every_input_keeps_its_place() -> None:
    seen: list[tuple[int, int]] = []
    got = describe_all(INPUTS, POLICY, progress=lambda done, total: seen.append((done, total)))
    assert [got.table.sources[row] for row in got.row_of] == INPUTS
    assert [bool(got.table.reasons[row]) for row in got.row_of] == [False, True, False, False, False, True]
    assert got.table.smiles[got.row_of[4]] == "CCO"
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)


def test_several_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "CHUNK", 40)
    many = ["C" * (1 + i % 20) + "O" * (1 + i // 20) for i in range(2 * described.CHUNK + 3)]
    alone, together = describe_all(many, POLICY), describe_all(many, POLICY, workers=2)
    assert alone.table.smiles == together.table.smiles
    assert alone.table.reasons == together.table.reasons
    assert np.array_equal(alone.table.descriptors, together.table.descriptors)
    assert np.array_equal(alone.table.counts.positions, together.table.counts.positions)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    code = (
        "import os\n"
        "from kmel_p2p.chem.structures.parallel import usable_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"


def test_the_cache_answers_what_it_knows(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cache = StructureCache(tmp_path)
    first = describe_all(INPUTS, POLICY, cache=cache)
    assert first.computed == 5
    again = describe_all(["CCN", *INPUTS], POLICY, cache=cache)
    assert again.computed == 1
    fresh = describe_all(["CCN", *INPUTS], POLICY)
    for place in range(len(INPUTS) + 1):
        left, right = again.row_of[place], fresh.row_of[place]
        assert again.table.smiles[left] == fresh.table.smiles[right]
        assert again.table.reasons[left] == fresh.table.reasons[right]
        assert again.table.series[left] == fresh.table.series[right]
        assert np.array_equal(again.table.descriptors[left], fresh.table.descriptors[right])
        assert np.array_equal(again.table.counts.dense(np.array([left])), fresh.table.counts.dense(np.array([right])))
    assert describe_all(INPUTS, FeatureRule(bits=128), cache=cache).computed == 5


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"short"])
def test_a_damaged_cache_is_computed_again(tmp_path, damage: bytes) -> None:  # type: ignore[no-untyped-def]
    cache = StructureCache(tmp_path)
    describe_all(INPUTS, POLICY, cache=cache)
    path = cache.path(POLICY)
    whole = path.read_bytes()
    for content in (damage, whole[: len(whole) // 2], whole.replace(b"CCO", b"CCX", 1)):
        path.write_bytes(content)
        assert describe_all(INPUTS, POLICY, cache=cache).computed == 5
    assert cache.damaged == 3


def test_projects_may_share_a_cache_which_nobody_else_can_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "shared"
    one, other = StructureCache(folder), StructureCache(folder)
    assert describe_all(INPUTS[:3], POLICY, cache=one).computed > 0
    assert describe_all(INPUTS[:3], POLICY, cache=other).computed == 0
    assert folder.stat().st_mode & 0o077 == 0
    assert one.path(POLICY).stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path) -> None:  # type: ignore[no-untyped-def]
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = StructureCache(blocked / "cache")
    assert describe_all(["CCO"], POLICY, cache=cache).computed == 1


@given(st.text(max_size=30), st.text(max_size=80), st.floats(0, 0.45), st.floats(0, 0.45))
@settings(deadline=None, max_examples=80)
def test_folds_depend_on_series_and_key_alone(series: str, key: str, valid: float, test: float) -> None:
    fold = SplitRule(fold_key=key, valid_fraction=valid, test_fraction=test).fold(series)
    assert fold is SplitRule(fold_key=key, valid_fraction=valid, test_fraction=test).fold(series)
    # Growing the test share never moves a test compound out of it.
    assert not (
        fold is Fold.TEST
        and SplitRule(fold_key=key, valid_fraction=valid, test_fraction=test + 0.05).fold(series) is not Fold.TEST
    )


def test_fold_shares_are_as_asked_and_the_key_matters() -> None:
    names = [f"scaffold {i}" for i in range(4000)]
    folds = SplitRule(fold_key="a", valid_fraction=0.1, test_fraction=0.2).folds(names)
    shares = [float((folds == fold).mean()) for fold in Fold]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert (SplitRule(fold_key="b", valid_fraction=0.1, test_fraction=0.2).folds(names) != folds).mean() > 0.3


@pytest.mark.parametrize("fractions", [(1.0, 0.0), (0.5, 0.5), (-0.1, 0.2)])
def test_impossible_splits_are_refused(fractions: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="fraction"):
        SplitRule(valid_fraction=fractions[0], test_fraction=fractions[1])


def test_partition_keeps_series_whole_and_sites_apart() -> None:
    rings = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccc2ccccc2c1", "c1ccoc1", "c1ccsc1", "C1CCNCC1", "c1c[nH]cn1"]
    many = [f"{'C' * n}{ring}" for ring in rings for n in range(1, 13)] + ["C" * n for n in range(2, 12)]
    table = describe_all(many, FeatureRule()).table
    sites = series_partition(table, 3, seed=1)
    assert np.array_equal(sites, series_partition(table, 3, seed=1))
    assert set(sites) == {0, 1, 2}
    for series in set(table.series):
        assert len({int(s) for s, own in zip(sites, table.series, strict=True) if own == series}) == 1
    report = disjointness(table, sites, 3)
    assert sum(site.compounds for site in report) == len(many)
    assert all(site.similarity_within > site.similarity_across for site in report)
    assert max(site.compounds for site in report) <= 1.5 * len(many) / 3


def test_acyclic_compounds_are_divided_as_the_folds_divide_them() -> None:
    """They had one scaffold, none, so that one site got them all."""
    acyclic = [
        "CCO",
        "NCCN",
        "CC(=O)OC",
        "CS(C)(=O)=O",
        "ClC(Cl)Cl",
        "CC(C)(C)C#N",
        "OCC(O)CO",
        "CSSC",
        "C=CC=C",
        "BrCCBr",
    ]
    table = describe_all(acyclic, FeatureRule()).table
    assert set(series_partition(table, 2)) == {0, 1}


def made_up(rows: int) -> StructureTable:
    """Compounds of three to a series, on average, with 24 of 512 environments each."""
    rng = np.random.default_rng(rows)
    series = rng.integers(rows // 3, size=rows)
    parts = [np.random.default_rng(int(one)).choice(512, 16, replace=False) for one in series]
    positions = [np.unique(np.concatenate([part, rng.choice(512, 8)])).astype(np.uint16) for part in parts]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in positions])])
    joined = np.concatenate(positions)
    counts = CountMatrix(offsets, joined, np.ones(len(joined), np.uint8), 512)
    names, empty = [f"series {one}" for one in series], [""] * rows
    return StructureTable(empty, empty, empty, names, names, empty, empty, counts, np.zeros((rows, 1), np.float32))


def test_partition_takes_no_memory_for_pairs_of_compounds() -> None:
    table = made_up(6000)
    tracemalloc.start()
    try:
        sites = series_partition(table, 4)
        report = disjointness(table, sites, 4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6000 * 6000  # a quarter of one matrix of all similarities
    assert [site.shared_scaffolds for site in report] == [0] * 4
    assert min(site.compounds for site in report) > 1000


def test_too_few_series_cannot_be_partitioned() -> None:
    table = describe_all(["Cc1ccc2ccccc2c1", "CCc1ccc2ccccc2c1"], POLICY).table
    with pytest.raises(DataError, match="1 clusters of series cannot be divided over 2 sites"):
        series_partition(table, 2)
