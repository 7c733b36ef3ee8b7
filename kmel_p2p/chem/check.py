"""What would be used of a site's data, and what looks wrong with it: the figures behind `kmel-peer data check`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.chem.catalogue import look_up
from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.manifest import reason_kind
from kmel_p2p.chem.measurements import Measurements
from kmel_p2p.chem.reading import Readings
from kmel_p2p.chem.source import Source
from kmel_p2p.chem.split import Fold, SplitPolicy
from kmel_p2p.chem.units import converter

QUORUM_CLASS = 25
"""Compounds of each class that training needs (MELLODDY-TUNER's and K-MELLODDY's rule)."""
QUORUM_VALUES, QUORUM_UNCENSORED = 50, 25
"""Values in all, and values that are no bounds."""

PILE_SHARE, PILE_COUNT = 0.02, 10
"""Equal values at an end of the range that make a pile: share of all values, and at least so many."""

UNIT_FACTORS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
"""Between nM, uM, mM and M, and alike."""


def check(source: Source, own: Measurements, split: SplitPolicy, test: Measurements | None = None) -> dict[str, Any]:
    """The report, JSON-ready.

    Args:
        test: measurements of the separate test file, if there is one.
    """
    folds = own.folds(split)
    endpoints = [_endpoint(own, place, folds, source, test) for place in range(len(own.endpoints))]
    mapped = [report for report in endpoints if report["found"] or report["name"] in source.columns]
    problems = [f"{report['name']}: {text}" for report in mapped for text in report["problems"]]
    return {
        "file": source.path.name,
        "dataset_hash": own.dataset_hash(),
        "rows_in": own.rows_in,
        "compounds": len(own),
        **asdict(own.total),
        "endpoints": mapped,
        "not_measured_here": [e.name for e in own.endpoints if e.name not in source.columns],
        "folds": _folds(own, folds, test) | {"new_by_date": int(own.late.sum())},
        "refused_for": dict(Counter(reason_kind(reject.reason) for reject in own.rejects).most_common()),
        "problems": problems,
        "advice": [f"{report['name']}: {text}" for report in mapped for text in report["advice"]],
        "holds": not problems,
    }


def _endpoint(
    own: Measurements, place: int, folds: NDArray[np.int8], source: Source, test: Measurements | None
) -> dict[str, Any]:
    endpoint, readings = own.endpoints[place], own.readings[place]
    labels, relations = own.labels[:, place].astype(np.float64), own.relations[:, place]
    measured = np.isfinite(labels)
    report: dict[str, Any] = {
        "name": endpoint.name,
        "kind": endpoint.kind,
        "unit": endpoint.reported_unit,
        **asdict(own.counts[place]),
        "train": int(np.count_nonzero(measured & (folds == Fold.TRAIN))),
        "valid": int(np.count_nonzero(measured & (folds == Fold.VALID))),
        "test": int(np.count_nonzero(measured & (folds == Fold.TEST)))
        + (int(np.isfinite(test.labels[:, place]).sum()) if test else 0),
        "below_limit": int(np.count_nonzero(relations[measured] < 0)),
        "above_limit": int(np.count_nonzero(relations[measured] > 0)),
        "limited_by_setting": readings.limited,
        "units": [_unit(unit, n, endpoint, source) for unit, n in readings.units.most_common()],
        "replicates": _replicates(own, place),
    }
    quorum = quorum_problem(endpoint, labels[measured], relations[measured])
    problems = [quorum] if quorum and measured.any() else []
    advice: list[str] = []
    if not measured.any():
        problems.append("no value can be used")
    if endpoint.kind == "regression":
        values = endpoint.transformed(labels[measured])
        report["range"] = _range(values)
        report["valid_range"] = list(endpoint.valid_range)
        suspicion = unit_suspicion(endpoint, readings)
        problems += [suspicion] if suspicion else []
        report["piles"] = piles(endpoint, readings)
        advice = [pile["advice"] for pile in report["piles"]]
    else:
        report["class_1"], report["class_0"] = int(labels[measured].sum()), int((1 - labels[measured]).sum())
    return {**report, "quorum": not quorum, "problems": problems, "advice": advice}


def _unit(written: str, values: int, endpoint: AssayEndpoint, source: Source) -> dict[str, Any]:
    """How values written in one unit were converted, and with which mass if one was needed."""
    report: dict[str, Any] = {"written": written, "used": endpoint.unit, "values": values}
    if converter(written, endpoint.unit, source.path.name).mass_power:
        report["mass_of"] = source.columns[endpoint.name].mass_of
    return report


def quorum_problem(endpoint: AssayEndpoint, labels: NDArray[np.float64], relations: NDArray[np.int8]) -> str:
    """Why these are too few to train on; empty when they are enough."""
    if endpoint.kind == "classification":
        ones = int(labels.sum())
        zeros = len(labels) - ones
        enough = min(ones, zeros) >= QUORUM_CLASS
        return "" if enough else f"{ones} of class 1 and {zeros} of class 0; {QUORUM_CLASS} of each are needed"
    uncensored = int(np.count_nonzero(relations == 0))
    if len(labels) >= QUORUM_VALUES and uncensored >= QUORUM_UNCENSORED:
        return ""
    return (
        f"{len(labels)} values, {uncensored} of them no bounds; "
        f"{QUORUM_VALUES} with {QUORUM_UNCENSORED} that are no bounds are needed"
    )


def piles(endpoint: AssayEndpoint, readings: Readings) -> list[dict[str, Any]]:
    """Equal values, written without a relation, at the lowest or highest number: most likely an assay limit."""
    written = np.asarray(readings.written, np.float64)
    if len(written) == 0 or written.min() == written.max():
        return []
    found = []
    for side, limit in (("low_limit", written.min()), ("high_limit", written.max())):
        count = int(np.count_nonzero(np.isclose(written, limit, rtol=1e-9, atol=0.0)))
        if readings.limited and count <= readings.limited:
            continue
        if count >= max(PILE_COUNT, PILE_SHARE * len(written)):
            setting = f"{side} = {float(limit)!r}"
            advice = (
                f"{count} of {len(written)} values are exactly {float(limit):.9g}; if that is the assay's limit, "
                f"declare it: {setting} in data.columns.{endpoint.name}"
            )
            found.append({"side": side, "value": float(limit), "count": count, "of": len(written), "setting": setting,
                          "advice": advice})  # fmt: skip
    return found


def unit_suspicion(endpoint: AssayEndpoint, readings: Readings) -> str:
    """A factor by which the values look wrong, against the charter's range and the catalogue; empty when they fit."""
    native = np.asarray(readings.native, np.float64)
    native = native[np.isfinite(native)]
    if len(native) < PILE_COUNT:
        return ""
    if endpoint.transform == "log10" and np.mean(native <= 0) > 0.1:
        share = float(np.mean(native <= 0))
        return (
            f"{share:.0%} of the values are 0 or negative; are they logarithms? Then the unit is log10({endpoint.unit})"
        )
    entry = look_up(endpoint.name)
    known = entry is not None and entry.endpoint.unit == endpoint.unit and entry.typical is not None
    low, high = entry.typical if entry and known and entry.typical else endpoint.valid_range
    inside = float(np.mean((native >= low) & (native <= high)))
    logarithms = endpoint.unit.startswith("log10(")
    if inside >= 0.5 or (endpoint.transform == "identity" and not logarithms):
        outside = readings.outside / len(native)
        return f"{outside:.0%} of the values are outside the charter's valid range" if outside > 0.2 else ""

    def moved(factor: float) -> float:
        other = native + np.log10(factor) if logarithms else native * factor
        return float(np.mean((other >= low) & (other <= high)))

    best = max(UNIT_FACTORS, key=moved)
    if moved(best) > inside + 0.3:
        return (
            f"only {inside:.0%} of the values are between {low:g} and {high:g} {endpoint.unit}; multiplied by {best:g} "
            f"{moved(best):.0%} would be: the unit given is likely wrong"
        )
    return f"only {inside:.0%} of the values are between {low:g} and {high:g} {endpoint.unit}; check unit and column"


def _replicates(own: Measurements, place: int) -> dict[str, Any]:
    several = own.replicates[:, place] > 1
    spread = own.spread[several & (own.relations[:, place] == 0), place] * own.endpoints[place].scale
    return {
        "compounds": int(np.count_nonzero(several)),
        "most": int(own.replicates[:, place].max(initial=0)),
        "median_spread": float(np.median(spread)) if len(spread) else None,
        "widest_spread": float(spread.max()) if len(spread) else None,
    }


def _range(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    points = np.quantile(values, [0, 0.05, 0.5, 0.95, 1])
    return dict(zip(("lowest", "p05", "median", "p95", "highest"), map(float, points), strict=True))


def _folds(own: Measurements, folds: NDArray[np.int8], test: Measurements | None) -> dict[str, Any]:
    """Sizes, and what train and test have in common."""
    scaffolds: dict[str, set[str]] = {}
    compounds: dict[str, set[str]] = {}
    for fold in Fold:
        rows = np.flatnonzero(folds == fold)
        scaffolds[fold.name.lower()] = {own.structures.scaffolds[row] for row in rows} - {""}
        compounds[fold.name.lower()] = {own.structures.identities[row] for row in rows}
    if test is not None:
        scaffolds["test"] |= set(test.structures.scaffolds) - {""}
        compounds["test"] |= set(test.structures.identities)
    return {
        **{name: len(members) for name, members in compounds.items()},
        "scaffolds": {name: len(members) for name, members in scaffolds.items()},
        "scaffolds_in_train_and_test": len(scaffolds["train"] & scaffolds["test"]),
        "compounds_in_train_and_test": len(compounds["train"] & compounds["test"]),
    }
