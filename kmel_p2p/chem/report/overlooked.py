"""What the settings leave out by a slip: assay endpoints without a column, tested compounds in training, odd dates."""

from __future__ import annotations

import contextlib
import datetime
import difflib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.split import Fold
from kmel_p2p.chem.dataset.catalogue import look_up, plain
from kmel_p2p.chem.dataset.ingest import IN_TEST_FILE
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.read.table_file import table_rows

FIRST_YEAR = 1950
"""No assay of today's kind is older."""

ALIKE = 0.8
"""Names of a column and an assay endpoint this similar may mean the same (`difflib`)."""


def unmapped(source: Source, own: Measurements, retired: Collection[str]) -> list[str]:
    """Assay endpoints that no column is mapped to, without retired ones, with the column that may be meant."""
    left = [endpoint.name for endpoint in own.endpoints if endpoint.name not in (*source.columns, *retired)]
    spare = _spare_columns(source)
    found = {name: column for name in left if (column := _column_like(name, spare))}
    advice = [f"{name} is not mapped; column {column!r} may be it" for name, column in found.items()]
    if rest := [name for name in left if name not in found]:
        advice.append(f"not mapped, so nothing of them is used: {', '.join(rest)}; are they measured here?")
    return advice


def _spare_columns(source: Source) -> list[str]:
    """Columns of a wide table that nothing is read from; none in other formats."""
    if source.format != "wide":
        return []
    used = {source.smiles_column, source.time.column, source.embargo.project_column}
    for rule in source.columns.values():
        used |= {rule.column, rule.relation_column, rule.unit_column, *rule.match}
    with contextlib.suppress(ConfigError, DataError):
        return [name for name in table_rows(source.path, source)[0] if name and name not in used]
    return []


def _column_like(endpoint: str, columns: list[str]) -> str:
    """The column whose name says the same as an assay endpoint's, by the catalogue or by spelling; empty if none."""
    entry = look_up(endpoint)
    names = {plain(name) for name in ((endpoint, entry.endpoint.name, *entry.synonyms) if entry else (endpoint,))}
    for column in columns:
        if plain(column) in names or difflib.get_close_matches(plain(column), names, n=1, cutoff=ALIKE):
            return column
    return ""


def test_overlap(own: Measurements, test: Measurements | None, folds: NDArray[np.int8]) -> list[str]:
    """Compounds of the test file that the other file has, too, and scaffolds that are trained on and tested."""
    if test is None:
        return []
    advice = []
    if lost := sum(1 for reject in own.rejects if reject.reason.startswith(IN_TEST_FILE)):
        advice.append(
            f"{lost} rows are of compounds of the test file and not trained on: does one file hold the other?"
        )
    trained = {own.structures.scaffolds[row] for row in np.flatnonzero(folds == Fold.TRAIN)} - {""}
    known = sum(1 for scaffold in test.structures.scaffolds if scaffold in trained)
    if known:
        advice.append(
            f"{known} of {len(test)} compounds of the test file have a scaffold that is trained on: the score is "
            "that of known series"
        )
    return advice


def odd_dates(own: Measurements, today: datetime.date) -> list[str]:
    """Dates of used rows before any assay, or after today: another form of dates, or a slip."""
    if own.dates is None:
        return []
    first, last = own.dates
    advice = []
    if first.year < FIRST_YEAR:
        advice.append(f"the first date is {first}: check data.time.column and data.time.format")
    if last > today:
        advice.append(f"the last date is {last}, which is to come: check data.time.column and data.time.format")
    return advice
