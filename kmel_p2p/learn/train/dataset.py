"""Measurements as the network takes them: inputs, labels and relations by fold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.split import Fold
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.structures.table import MAX_COUNT, CountMatrix, StructureTable
from kmel_p2p.learn.models.registry import Molecules, kind_of

MAX_DENSE_BYTES = 192 << 20
"""Inputs up to this size are computed once; larger tables are filled batch by batch."""

MIN_APART = 50
"""Validation compounds that choosing and calibrating need each. With fewer, the fold is not divided."""


LEVELS = np.log2(np.arange(1, MAX_COUNT + 2, dtype=np.float32))
"""Input for each count, log2(1 + count): a second occurrence matters less than the first."""


class Inputs:
    """Features of n compounds, handed out by rows."""

    def __init__(
        self, counts: CountMatrix, descriptors: NDArray[np.float32], molecules: Molecules | None = None
    ) -> None:
        """`molecules`: what the trunk reads beside the features (`TrunkKind.molecules`)."""
        self._counts, self._descriptors, self._molecules = counts, descriptors, molecules
        self._dense: NDArray[np.float32] | None = None
        if len(counts) * (counts.width + descriptors.shape[1]) * 4 <= MAX_DENSE_BYTES:
            self._dense = self._fill(np.arange(len(counts)))

    def __len__(self) -> int:
        return len(self._counts)

    def rows(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32[len(rows), width]: `LEVELS` of counts, then descriptors, then what else the trunk reads."""
        features = self._dense[rows] if self._dense is not None else self._fill(rows)
        return features if self._molecules is None else self._molecules.attach(features, rows)

    def read_by(self, model: ModelRule, smiles: Sequence[str]) -> Inputs:
        """The same features, with what the model's kind of trunk reads beside them.

        Args:
            smiles: standardised structures of all compounds.
        """
        found = copy.copy(self)
        found._molecules = kind_of(model).molecules(smiles)
        return found

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compute now what `rows` would compute when first asked (`registry.Molecules.prepare`)."""
        if self._molecules is not None:
            self._molecules.prepare(progress)

    def bits(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """bool[len(rows), width of the fingerprint]: which environments occur."""
        return self._counts.occupied(rows)

    def features(self, rows: NDArray[np.integer]) -> tuple[CountMatrix, NDArray[np.float32]]:
        """What `Inputs` is made of, for these rows: counts, and descriptors as float32[len(rows), descriptors]."""
        return self._counts.take(rows), self._descriptors[rows]

    @property
    def width(self) -> int:
        """Of the fingerprint."""
        return self._counts.width

    def _fill(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        width, descriptors = self._counts.width, self._descriptors
        filled = np.zeros((len(rows), width + descriptors.shape[1]), np.float32)
        self._counts.fill(filled, rows, LEVELS)
        filled[:, width:] = descriptors[rows]
        return filled


@dataclass(frozen=True, slots=True)
class Dataset:
    """n compounds by E assay endpoints.

    Attributes:
        labels: float32[n, E], NaN where nothing was measured.
        relations: int8[n, E]; -1: the true value is below the label, 1: above.
        train, valid, test: rows of each fold, int64.
        smiles: standardised structures, for the files that stay at the site.
        calibration: rows kept out of `train` and `valid` for making intervals, so that nothing is chosen by them. Empty
            if there are too few compounds (see `with_calibration`).
        series: of all compounds (`StructureTable.series`); empty where they are not known.
    """

    endpoints: tuple[AssayEndpoint, ...]
    inputs: Inputs
    labels: NDArray[np.float32]
    relations: NDArray[np.int8]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    smiles: tuple[str, ...] = ()
    calibration: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    series: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        own: Measurements,
        folds: NDArray[np.int8],
        test_only: Measurements | None = None,
        *,
        model: ModelRule | None = None,
    ) -> Dataset:
        """Own measurements by fold; those of a test file are added to the test fold.

        Args:
            model: whose trunk will read the inputs; None: one that reads features alone.
        """
        parts = [own] if test_only is None else [own, test_only]
        bits = own.structures.counts.width
        table = StructureTable.concatenate([part.structures for part in parts], bits)
        extra = np.full(len(table) - len(own), Fold.TEST, np.int8)
        every = np.concatenate([folds, extra])
        return cls(
            own.endpoints,
            Inputs(table.counts, table.descriptors, None if model is None else kind_of(model).molecules(table.smiles)),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.relations for part in parts]),
            np.flatnonzero(every == Fold.TRAIN),
            np.flatnonzero(every == Fold.VALID),
            np.flatnonzero(every == Fold.TEST),
            tuple(table.smiles),
            series=tuple(table.series),
        )

    def of_first(self, count: int) -> Dataset:
        """The same compounds with the first `count` assay endpoints alone."""
        labels, relations = self.labels[:, :count], self.relations[:, :count]
        return replace(self, endpoints=self.endpoints[:count], labels=labels, relations=relations)

    def read_by(self, model: ModelRule) -> Dataset:
        """The same measurements for a network with this model's kind of trunk."""
        return replace(self, inputs=self.inputs.read_by(model, self.smiles))

    def trained_heads(self) -> tuple[int, ...]:
        """Numbers of the shared heads that learn from these measurements: places among the charter's shared heads."""
        shared = [place for place, endpoint in enumerate(self.endpoints) if endpoint.head == "shared"]
        return tuple(
            head
            for head, place in enumerate(shared)
            if self.endpoints[place].weight > 0 and len(self.measured(self.train, place))
        )

    def untrained(self) -> tuple[int, ...]:
        """Places of the assay endpoints that have no measurement in the training fold."""
        return tuple(at for at in range(len(self.endpoints)) if not len(self.measured(self.train, at)))

    def measured(self, rows: NDArray[np.int64], place: int) -> NDArray[np.int64]:
        """Those of `rows` where the assay endpoint at `place` was measured."""
        chosen: NDArray[np.int64] = rows[np.isfinite(self.labels[rows, place])]
        return chosen

    def series_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the series of these compounds, int64[len(rows)]; where they are not known, one for each."""
        if not self.series:
            return np.arange(len(rows))
        numbers: NDArray[np.int64] = np.unique([self.series[row] for row in rows], return_inverse=True)[1]
        return numbers

    def with_calibration(self, apart: NDArray[np.bool_]) -> Dataset:
        """Move validation compounds into `calibration`, if at least `MIN_APART` end up in either part.

        Args:
            apart: bool[at least the highest validation row + 1]: which compounds to move (`SplitRule.apart`).
        """
        moved = apart[self.valid]
        if min(np.count_nonzero(moved), np.count_nonzero(~moved)) < MIN_APART:
            return self
        return replace(self, valid=self.valid[~moved], calibration=self.valid[moved])
