"""Disjoint chemistry for simulated sites: whole scaffold clusters go to one site, similar clusters to the same one.

Real partners hold different series, so a random split would flatter every federation. Scaffolds are grouped by leader
clustering (sphere exclusion, Butina 1999 in its one-pass form), then handed out greedily: the largest cluster first,
each to the site whose chemistry is nearest among those that still have room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

LEADER_SIMILARITY = 0.5
"""Scaffolds at least this similar to a cluster's first one belong to it."""

ROOM = 1.35
"""Largest share a site may get, relative to the equal share, unless one cluster alone is larger."""


@dataclass(frozen=True, slots=True)
class Disjointness:
    """How different the chemistry of one site is.

    Attributes:
        compounds: compounds of the site.
        scaffolds: distinct scaffolds of the site.
        shared_scaffolds: scaffolds that another site holds too.
        similarity_within: mean similarity of a compound to its nearest neighbour at the same site.
        similarity_across: the same, to its nearest neighbour at any other site.
    """

    compounds: int
    scaffolds: int
    shared_scaffolds: int
    similarity_within: float
    similarity_across: float


def scaffold_partition(table: StructureTable, sites: int, seed: int = 0) -> NDArray[np.int64]:
    """Site (0 to sites - 1) of every compound of `table`, int64[n].

    Args:
        table: structures without reasons against them.
        sites: how many sites; each gets at least one scaffold cluster.
        seed: breaks ties and shuffles the order of equal clusters.

    Raises:
        DataError: fewer scaffold clusters than sites.
    """
    scaffolds = sorted(set(table.scaffolds))
    members = {scaffold: [row for row, own in enumerate(table.scaffolds) if own == scaffold] for scaffold in scaffolds}
    profiles = np.stack([_profile(table.counts, members[scaffold]) for scaffold in scaffolds])
    sizes = np.array([len(members[scaffold]) for scaffold in scaffolds])
    clusters = _leader_clusters(profiles, sizes, np.random.default_rng(seed))
    if len(clusters) < sites:
        raise DataError(f"{len(clusters)} scaffold clusters cannot be divided over {sites} sites")
    site_of = _hand_out(clusters, profiles, sizes, sites)
    assigned = np.empty(len(table), np.int64)
    for scaffold, site in zip(scaffolds, site_of, strict=True):
        assigned[members[scaffold]] = site
    return assigned


def disjointness(table: StructureTable, site_of: NDArray[np.int64], sites: int) -> list[Disjointness]:
    """Figures of each site, in order; similarity is Tanimoto on the presence of Morgan environments."""
    presence = (table.counts.dense(np.arange(len(table))) > 0).astype(np.float32)
    similarity = _tanimoto(presence, presence)
    np.fill_diagonal(similarity, -1.0)
    scaffolds = [set(np.array(table.scaffolds, object)[site_of == site]) for site in range(sites)]
    report = []
    for site in range(sites):
        own, other = site_of == site, site_of != site
        elsewhere = set().union(*(scaffolds[index] for index in range(sites) if index != site))
        report.append(
            Disjointness(
                int(own.sum()),
                len(scaffolds[site]),
                len(scaffolds[site] & elsewhere),
                _mean_nearest(similarity[np.ix_(own, own)]),
                _mean_nearest(similarity[np.ix_(own, other)]),
            )
        )
    return report


def _mean_nearest(similarity: NDArray[np.float32]) -> float:
    return float(similarity.max(axis=1).mean()) if similarity.shape[0] and similarity.shape[1] else 0.0


def _profile(counts: CountMatrix, rows: Sequence[int]) -> NDArray[np.float32]:
    """Share of the scaffold's compounds that show each Morgan environment."""
    share: NDArray[np.float32] = (counts.dense(np.asarray(rows)) > 0).mean(axis=0, dtype=np.float32)
    return share


def _tanimoto(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Generalised Tanimoto similarity of every pair: a.b / (a.a + b.b - a.b)."""
    dot = left @ right.T
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    return np.asarray(dot / np.maximum(squares - dot, 1e-9), np.float32)


def _leader_clusters(
    profiles: NDArray[np.float32], sizes: NDArray[np.int64], rng: np.random.Generator
) -> list[list[int]]:
    """Scaffolds by cluster; the most populated scaffolds lead."""
    order = np.lexsort((rng.random(len(sizes)), -sizes))
    similarity = _tanimoto(profiles, profiles)
    clusters: list[list[int]] = []
    for scaffold in order:
        near = [similarity[scaffold, cluster[0]] for cluster in clusters]
        if near and max(near) >= LEADER_SIMILARITY:
            clusters[int(np.argmax(near))].append(int(scaffold))
        else:
            clusters.append([int(scaffold)])
    return clusters


def _hand_out(
    clusters: list[list[int]], profiles: NDArray[np.float32], sizes: NDArray[np.int64], sites: int
) -> NDArray[np.int64]:
    """Site of each scaffold."""
    weight = np.array([sizes[cluster].sum() for cluster in clusters])
    centres = np.stack([np.average(profiles[cluster], axis=0, weights=sizes[cluster]) for cluster in clusters])
    room = ROOM * sizes.sum() / sites
    site_of = np.empty(len(sizes), np.int64)
    load = np.zeros(sites)
    chemistry = np.zeros((sites, profiles.shape[1]), np.float32)
    for at, cluster in enumerate(np.argsort(-weight, kind="stable")):
        site = at if at < sites else _nearest_with_room(centres[cluster], chemistry, load, room, weight[cluster])
        site_of[clusters[cluster]] = site
        total = load[site] + weight[cluster]
        chemistry[site] += (centres[cluster] - chemistry[site]) * np.float32(weight[cluster] / total)
        load[site] = total
    return site_of


def _nearest_with_room(
    centre: NDArray[np.float32], chemistry: NDArray[np.float32], load: NDArray[np.float64], room: float, weight: int
) -> int:
    similarity = _tanimoto(centre[None], chemistry)[0]
    fits = load + weight <= room
    if not fits.any():
        return int(np.argmin(load))
    # Empty space counts too: without it the nearest site fills up first and the last clusters go anywhere.
    return int(np.argmax(np.where(fits, similarity * (1 - load / room), -1.0)))
