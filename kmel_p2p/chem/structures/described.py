"""Standardised, described structures for a whole table of SMILES, from the cache or from all cores."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.features import describe
from kmel_p2p.chem.structures.parallel import map_blocks, map_chunks
from kmel_p2p.chem.structures.parent import StructureError
from kmel_p2p.chem.structures.series import murcko_scaffold, series
from kmel_p2p.chem.structures.standardise import Structure, standardise
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

CHUNK = 256
"""Molecules per piece of work: half a second, short enough for progress and long enough to hide the overhead."""

KEPT = 4096
"""Molecules that an interrupted run loses at most, beside those in work: some 40 seconds of one core."""

LOST = "the process that computed it ended: RDKit crashed on it, or memory was short"
"""Reason of a structure that was given up."""

Progress = Callable[[int, int], None]
"""Called with (molecules done, molecules in all)."""


def ignore_progress(done: int, total: int) -> None:
    """No progress wanted."""


@dataclass(frozen=True, slots=True)
class Described:
    """Answer of `describe_all`: one row per input SMILES, in order."""

    table: StructureTable
    row_of: NDArray[np.int64]
    """int64[n]: row of `table` for each input; equal inputs share one."""

    computed: int
    """How many distinct SMILES had to be computed, the rest came from the cache."""

    def part(self, count: int) -> Described:
        """The answer for the first `count` inputs alone, its table in the order of their first appearance."""
        rows = list(dict.fromkeys(self.row_of[:count].tolist()))
        place = {row: at for at, row in enumerate(rows)}
        row_of = np.array([place[row] for row in self.row_of[:count].tolist()], np.int64)
        return Described(self.table.take(rows), row_of, self.computed)


def describe_all(
    smiles: Sequence[str],
    policy: FeatureRule,
    *,
    cache: StructureCache | None = None,
    workers: int = 1,
    progress: Progress = ignore_progress,
) -> Described:
    """Standardise and describe every SMILES.

    Args:
        smiles: as found in the file; unusable ones get a reason in `table.reasons`, never an exception.
        cache: results of earlier runs, extended by this one, block by block while it works.
        workers: processes to use.
        progress: see `Progress`.
    """
    distinct = list(dict.fromkeys(smiles))
    known, todo = cache.look_up(distinct, policy) if cache else (None, distinct)
    have = len(distinct) - len(todo)
    progress(have, len(distinct))
    parts: dict[int, StructureTable] = {}
    done = have
    work, lose = functools.partial(describe_chunk, policy=policy), functools.partial(_lost, policy=policy)
    loose: list[StructureTable] = []
    try:
        for index, found in map_chunks(work, todo, chunk=CHUNK, workers=workers, lost=lose):
            part = parts[index] = StructureTable.concatenate(found, policy.bits)
            loose.append(_settled(part))
            done += len(part)
            if cache and sum(map(len, loose)) >= KEPT:
                cache.keep(StructureTable.concatenate(loose, policy.bits), policy)
                loose = []
            progress(done, len(distinct))
    except BaseException:
        if cache and loose:
            cache.keep(StructureTable.concatenate(loose, policy.bits), policy)
        raise
    fresh = [parts[index] for index in sorted(parts)]
    table = StructureTable.concatenate(([known] if known is not None else []) + fresh, policy.bits)
    if cache and todo:
        cache.add(_settled(StructureTable.concatenate(fresh, policy.bits)), policy)
    place = {text: row for row, text in enumerate(table.sources)}
    return Described(table, np.array([place[text] for text in smiles], np.int64), len(todo))


def describe_blocks(
    blocks: Iterable[Sequence[str]],
    policy: FeatureRule,
    *,
    workers: int = 1,
    isolated: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[Described]:
    """The same for any number of blocks of SMILES, in order and bounded memory, without what relates compounds.

    Args:
        blocks: taken as they are needed; a SMILES that stands twice in one is described once.
        policy, workers: as `describe_all`.
        isolated: never in this process, so that a structure on which RDKit crashes costs its row alone.
        done: told how many distinct SMILES were finished, from time to time.
    """
    rows: deque[NDArray[np.int64]] = deque()

    def distinct() -> Iterator[list[str]]:
        for block in blocks:
            places: dict[str, int] = {}
            rows.append(np.array([places.setdefault(text, len(places)) for text in block], np.int64))
            yield list(places)

    work, lose = (
        functools.partial(describe_chunk, policy=policy, related=False),
        functools.partial(_lost, policy=policy),
    )
    found = map_blocks(work, distinct(), chunk=CHUNK, workers=workers, lost=lose, isolated=isolated, done=done)
    for parts in found:
        table = StructureTable.concatenate(parts, policy.bits)
        yield Described(table, rows.popleft(), len(table))


def describe_chunk(smiles: Sequence[str], policy: FeatureRule, *, related: bool = True) -> StructureTable:
    """`StructureTable` of these SMILES, in order. Runs in a child process.

    Args:
        related: also say which records are one compound and which compounds are related: identities, scaffolds and
            series. Predicting needs none of them, and they take a tenth of the time.
    """
    blank = np.zeros(policy.bits, np.uint32)
    empty = np.zeros(len(descriptor_constants()), np.float32)
    structures: list[Structure | None] = []
    reasons, scaffolds, kinships, counts, descriptors = [], [], [], [], []
    for text in smiles:
        try:
            structure, molecule = standardise(text, policy, identify=related)
        except StructureError as error:
            structures.append(None)
            reasons.append(str(error))
            scaffolds.append("")
            kinships.append("")
            counts.append(blank)
            descriptors.append(empty)
            continue
        structures.append(structure)
        reasons.append("")
        scaffolds.append(murcko_scaffold(molecule) if related else "")
        kinships.append(series(molecule) if related else "")
        row_counts, row_descriptors = describe(molecule, policy)
        counts.append(row_counts)
        descriptors.append(row_descriptors)
    return StructureTable(
        sources=list(smiles),
        smiles=[structure.smiles if structure else "" for structure in structures],
        identities=[structure.identity if structure else "" for structure in structures],
        scaffolds=scaffolds,
        series=kinships,
        reasons=reasons,
        changes=["; ".join(map(str, structure.changes)) if structure else "" for structure in structures],
        counts=CountMatrix.from_rows(counts, policy.bits),
        descriptors=np.array(descriptors, np.float32).reshape(len(smiles), len(empty)),
    )


def _lost(smiles: str, policy: FeatureRule) -> StructureTable:
    """The row of a structure that was given up."""
    blank = np.zeros((1, len(descriptor_constants())), np.float32)
    counts = CountMatrix.from_rows([np.zeros(policy.bits, np.uint32)], policy.bits)
    return StructureTable([smiles], [""], [""], [""], [""], [LOST], [""], counts, blank)


def _settled(table: StructureTable) -> StructureTable:
    """What another run would find, too: memory may have been short in this one only."""
    kept = [row for row, reason in enumerate(table.reasons) if reason != LOST]
    return table if len(kept) == len(table) else table.take(kept)
