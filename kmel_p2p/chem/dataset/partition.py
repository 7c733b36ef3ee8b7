"""Disjoint chemistry for simulated sites: whole clusters of series go to one site, similar clusters to the same one.

Real partners hold different series, so a random split would flatter every federation. Series (those of the folds, see
`structures.series`) are grouped by leader clustering (sphere exclusion, Butina 1999 in its one-pass form), then handed
out greedily: the largest cluster first, each to the site whose chemistry is nearest among those that still have room.

Memory grows with the compounds, not with pairs of them: similarities are computed in blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.structures.table import CountMatrix, StructureTable

LEADER_SIMILARITY = 0.5
"""Series at least this similar to a cluster's first one belong to it."""

ROOM = 1.35
"""Largest share a site may get, relative to the equal share, unless one cluster alone is larger."""

BLOCK = 256
"""Series, or compounds, whose similarities are computed at once."""

ASKED = 1000
"""Compounds of a site whose nearest neighbours are looked for, at most; they are spread evenly over its rows."""


@dataclass(frozen=True, slots=True)
class Disjointness:
    """How different the chemistry of one site is.

    Attributes:
        compounds: compounds of the site.
        scaffolds: distinct scaffolds of the site.
        shared_scaffolds: scaffolds that another site holds too (benzene and the like; series have one site).
        similarity_within: mean similarity of a compound to its nearest neighbour at the same site.
        similarity_across: the same, to its nearest neighbour at any other site.
    """

    compounds: int
    scaffolds: int
    shared_scaffolds: int
    similarity_within: float
    similarity_across: float


def series_partition(table: StructureTable, sites: int, seed: int = 0) -> NDArray[np.int64]:
    """Site (0 to sites - 1) of every compound of `table`, int64[n].

    Args:
        table: structures without reasons against them.
        sites: how many sites; each gets at least one cluster of series.
        seed: breaks ties and shuffles the order of equal clusters.

    Raises:
        DataError: fewer clusters than sites.
    """
    places = {name: place for place, name in enumerate(sorted(set(table.series)))}
    series_of = np.fromiter((places[name] for name in table.series), np.int64, len(table))
    groups = _Groups(table.counts, series_of)
    clusters = _leader_clusters(groups, np.random.default_rng(seed))
    if len(clusters) < sites:
        raise DataError(f"{len(clusters)} clusters of series cannot be divided over {sites} sites")
    cluster_of = np.empty(len(places), np.int64)
    for at, cluster in enumerate(clusters):
        cluster_of[cluster] = at
    site_of = _hand_out(_Groups(table.counts, cluster_of[series_of]), sites)
    assigned: NDArray[np.int64] = site_of[cluster_of[series_of]]
    return assigned


class _Groups:
    """Compounds in numbered groups without gaps, and what each group looks like."""

    def __init__(self, counts: CountMatrix, group_of: NDArray[np.int64]) -> None:
        self._counts = counts
        self.sizes: NDArray[np.int64] = np.bincount(group_of)
        self._rows = np.argsort(group_of, kind="stable")
        self._ends = np.cumsum(self.sizes)

    @property
    def width(self) -> int:
        return self._counts.width

    def profiles(self, groups: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[groups, width]: share of each group's compounds that show each Morgan environment."""
        sizes = self.sizes[groups]
        rows = [self._rows[self._ends[group] - self.sizes[group] : self._ends[group]] for group in groups]
        part = self._counts.take(np.concatenate(rows))
        owner = np.repeat(np.repeat(np.arange(len(sizes)), sizes), np.diff(part.offsets))
        cells = np.bincount(owner * self.width + part.positions, minlength=len(sizes) * self.width)
        return (cells.reshape(len(sizes), self.width) / sizes[:, None]).astype(np.float32)


def disjointness(table: StructureTable, site_of: NDArray[np.int64], sites: int) -> list[Disjointness]:
    """Figures of each site, in order; similarity is Tanimoto on the presence of Morgan environments."""
    held = [{table.scaffolds[row] for row in np.flatnonzero(site_of == site)} - {""} for site in range(sites)]
    holders = Counter(scaffold for scaffolds in held for scaffold in scaffolds)
    report = []
    for site, scaffolds in enumerate(held):
        rows = np.flatnonzero(site_of == site)
        within, across = _nearest(table.counts, site_of, site, _spread(rows, ASKED))
        shared = sum(1 for scaffold in scaffolds if holders[scaffold] > 1)
        report.append(Disjointness(len(rows), len(scaffolds), shared, _mean(within), _mean(across)))
    return report


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """All rows, or evenly spaced ones where there are more than `most`."""
    if len(rows) <= most:
        return rows
    chosen: NDArray[np.int64] = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return chosen


def _nearest(
    counts: CountMatrix, site_of: NDArray[np.int64], site: int, asked: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Similarity of each row asked about to the nearest other one at the site, and at other sites; -1 without any."""
    queries = counts.occupied(asked).astype(np.float32)
    within, across = np.full((2, len(asked)), -1.0, np.float32)
    for rows in _blocks(np.arange(len(counts))):
        similarity = _tanimoto(queries, counts.occupied(rows).astype(np.float32))
        similarity[asked[:, None] == rows[None, :]] = -1.0
        own = site_of[rows] == site
        within = np.maximum(within, similarity[:, own].max(axis=1, initial=-1.0))
        across = np.maximum(across, similarity[:, ~own].max(axis=1, initial=-1.0))
    return within, across


def _mean(nearest: NDArray[np.float32]) -> float:
    found = nearest[nearest >= 0]
    return float(found.mean()) if len(found) else 0.0


def _blocks(items: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(items), BLOCK):
        yield items[start : start + BLOCK]


def _tanimoto(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Generalised Tanimoto similarity of every pair: a.b / (a.a + b.b - a.b)."""
    dot = left @ right.T
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    return np.asarray(dot / np.maximum(squares - dot, 1e-9), np.float32)


def _leader_clusters(series: _Groups, rng: np.random.Generator) -> list[list[int]]:
    """Series by cluster; the most populated ones lead. Each joins the cluster whose leader is nearest, if near."""
    order = np.lexsort((rng.random(len(series.sizes)), -series.sizes))
    clusters: list[list[int]] = []
    leaders: list[NDArray[np.float32]] = []
    """Profiles of the first series of each cluster, in their order, by block."""
    for block in _blocks(order):
        profiles = series.profiles(block)
        best, cluster_at = _best_leaders(profiles, leaders)
        among = _tanimoto(profiles, profiles)
        before = len(clusters)
        new: list[int] = []
        for at, one in enumerate(block):
            near = among[at, np.array(new, np.int64)]
            if len(near) and near.max() > best[at]:
                best[at], cluster_at[at] = near.max(), before + int(near.argmax())
            if best[at] >= LEADER_SIMILARITY:
                clusters[cluster_at[at]].append(int(one))
            else:
                clusters.append([int(one)])
                new.append(at)
        if new:
            leaders.append(profiles[new])
    return clusters


def _best_leaders(
    profiles: NDArray[np.float32], leaders: Sequence[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Highest similarity of each profile to a leader, -1 without any, and the number of that leader."""
    best, number = np.full(len(profiles), -1.0, np.float32), np.zeros(len(profiles), np.int64)
    before = 0
    for part in leaders:
        similarity = _tanimoto(profiles, part)
        at = similarity.argmax(axis=1)
        highest = similarity[np.arange(len(profiles)), at]
        better = highest > best
        best[better], number[better] = highest[better], before + at[better]
        before += len(part)
    return best, number


def _hand_out(clusters: _Groups, sites: int) -> NDArray[np.int64]:
    """Site of each cluster."""
    weight = clusters.sizes
    room = ROOM * weight.sum() / sites
    site_of = np.empty(len(weight), np.int64)
    load = np.zeros(sites)
    chemistry = np.zeros((sites, clusters.width), np.float32)
    for at, cluster in enumerate(np.argsort(-weight, kind="stable")):
        (centre,) = clusters.profiles([int(cluster)])
        site = at if at < sites else _nearest_with_room(centre, chemistry, load, room, weight[cluster])
        site_of[cluster] = site
        total = load[site] + weight[cluster]
        chemistry[site] += (centre - chemistry[site]) * np.float32(weight[cluster] / total)
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
