"""What would be used of a site's data, and what looks wrong with it: the figures behind `kmel-peer data check`."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.manifest import reason_kind
from kmel_p2p.chem.dataset.measurements import SHOWN_CHANGES, Measurements
from kmel_p2p.chem.dataset.units import converter
from kmel_p2p.chem.report.findings import (
    constant_finding,
    copies,
    noise_finding,
    noise_of,
    piles,
    replicate_finding,
    unit_finding,
    unusual_median,
)
from kmel_p2p.chem.report.overlooked import odd_dates, test_overlap, unmapped

QUORUM_CLASS = 25
"""Compounds of each class that training needs (MELLODDY-TUNER's and K-MELLODDY's rule)."""
QUORUM_VALUES, QUORUM_UNCENSORED = 50, 25
"""Values in all, and values that are no bounds."""

THIN_FOLD = 10
"""A fold with fewer compounds says next to nothing."""


def check(
    source: Source,
    own: Measurements,
    split: SplitRule,
    test: Measurements | None = None,
    today: datetime.date | None = None,
    retired: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The report, JSON-ready.

    Args:
        test: measurements of the separate test file, if there is one.
        today: dates after it are odd; by default this machine's date.
        retired: assay endpoint that is trained no more -> the campaign that retired it.
    """
    folds = own.folds(split)
    endpoints = [_endpoint(own, place, folds, source, test) for place in range(len(own.endpoints))]
    mapped = [report for report in endpoints if report["found"] or report["name"] in source.columns]
    problems = [f"{report['name']}: {text}" for report in mapped for text in report["problems"]]
    advice = [f"{report['name']}: {text}" for report in mapped for text in report["advice"]]
    shared = _folds(own, folds, test) | {
        "new_by_date": int(own.late.sum()),
        "held_out_here_only": _own_only(own, split, test),
    }
    return {
        "file": source.path.name,
        "dataset_hash": own.dataset_hash(),
        "rows_in": own.rows_in,
        "compounds": len(own),
        **asdict(own.total),
        "unnamed": own.total.found - sum(counts.found for counts in own.counts),
        "test_file": {"rows_in": test.rows_in, "compounds": len(test), **asdict(test.total)} if test else None,
        "endpoints": mapped,
        "not_measured_here": [e.name for e in own.endpoints if e.name not in (*source.columns, *retired)],
        "retired": dict(retired),
        "folds": shared,
        "structures_changed": _changes(own, test),
        "embargo_withheld": dict(own.embargo_withheld),
        "examples": _examples(own),
        "refused_for": dict(Counter(reason_kind(reject.reason) for reject in own.rejects).most_common()),
        "problems": problems,
        "advice": [
            *advice,
            *_shared_columns(source, own),
            *_advice(shared, own),
            *unmapped(source, own, retired),
            *test_overlap(own, test, folds),
            *odd_dates(own, today or datetime.date.today()),
        ],
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
    if not own.counts[place].found:
        problems.append("no row of the file is mapped to it; look at its column and 'match', and at rejects.csv")
    elif not measured.any():
        problems.append("no value can be used")
    elif not quorum:
        advice += _thin_folds(report)
        constant = constant_finding(endpoint, labels[measured], relations[measured])
        advice += [constant] if constant else []
    if endpoint.kind == "regression":
        values = endpoint.transformed(labels[measured])
        report["range"] = _range(values)
        report["valid_range"] = list(endpoint.valid_range)
        report["native_unit"] = endpoint.unit
        wrong_unit = unit_finding(endpoint, readings)
        problems += [wrong_unit] if wrong_unit else []
        report["piles"] = piles(endpoint, readings)
        advice += [pile["advice"] for pile in report["piles"]]
        advice += [text for text in (unusual_median(endpoint, values, relations[measured]) if not wrong_unit else "",
                                     replicate_finding(own, place), noise_finding(own, place)) if text]  # fmt: skip
    else:
        report["class_1"], report["class_0"] = int(labels[measured].sum()), int((1 - labels[measured]).sum())
    return {**report, "quorum": not quorum, "problems": problems, "advice": advice}


def _thin_folds(report: dict[str, Any]) -> list[str]:
    """Folds that are too small to choose a model with or to say how good it is."""
    return [
        f"only {report[fold]} compounds to {purpose} it (series stay together, so a large one decides alone)"
        for fold, purpose in (("train", "train"), ("valid", "choose a model for"), ("test", "test"))
        if report[fold] < THIN_FOLD
    ]


def _unit(written: str, values: int, endpoint: AssayEndpoint, source: Source) -> dict[str, Any]:
    """How values written in one unit were converted, and with which mass if one was needed."""
    column = source.columns[endpoint.name]
    report: dict[str, Any] = {"written": written, "used": endpoint.unit, "values": values}
    if column.factor != 1.0:
        report["factor"] = column.factor
    if column.complement:
        report["complement"] = True
    if converter(written, endpoint.unit, source.path.name).mass_power:
        report["mass_of"] = column.mass_of
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


def _replicates(own: Measurements, place: int) -> dict[str, Any]:
    """How many compounds have replicates and how these differ; the five compounds that differ most."""
    endpoint = own.endpoints[place]
    several = own.replicates[:, place] > 1
    noise = noise_of(own, place) if endpoint.kind == "regression" else None
    exact = np.flatnonzero(several & (own.relations[:, place] == 0) & np.isfinite(own.labels[:, place]))
    spread = own.spread[exact, place] * endpoint.scale
    widest = exact[np.argsort(-spread, kind="stable")[:5]] if endpoint.kind == "regression" else exact[:0]
    return {
        "compounds": int(np.count_nonzero(several)),
        "most": int(own.replicates[:, place].max(initial=0)),
        "median_spread": float(np.median(spread)) if len(spread) else None,
        "pooled_spread": noise[0] * endpoint.scale if noise else None,
        "widest_spread": float(spread.max()) if len(spread) else None,
        "widest": [
            {
                "smiles": own.structures.smiles[row],
                "measurements": int(own.replicates[row, place]),
                "median": float(endpoint.transformed(own.labels[row : row + 1, place].astype(np.float64))[0]),
                "spread": float(own.spread[row, place] * endpoint.scale),
            }
            for row in widest
            if own.spread[row, place] > 0
        ],
    }


def _range(values: NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    # Labels are float32: a value of 0 comes back as -6e-8.
    points = np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).round(6) + 0.0
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


def _own_only(own: Measurements, split: SplitRule, test: Measurements | None) -> int:
    """Test compounds by date or test file that the charter's key does not hold out at other sites."""
    by_date = np.flatnonzero(own.late)
    series = [own.structures.series[row] for row in by_date] + (list(test.structures.series) if test else [])
    return int(np.count_nonzero(split.folds(series) != Fold.TEST))


def _advice(folds: dict[str, Any], own: Measurements) -> list[str]:
    """What concerns no single assay endpoint."""
    found = [f"embargo: {text}" for text in own.embargo_unmatched]
    if folds["held_out_here_only"]:
        found.append(
            f"{folds['held_out_here_only']} of {folds['test']} test compounds are held out here alone, by date or test "
            "file, not by the charter's key: another site may train on them, and scores would flatter"
        )
    return found


def _shared_columns(source: Source, own: Measurements) -> list[str]:
    """Assay endpoints of one kind that take the same values, which is hardly intended."""
    taken: dict[tuple[str, ...], list[str]] = {}
    for endpoint in own.endpoints:
        if (column := source.columns.get(endpoint.name)) is not None:
            rows = (f"{name}={value}" for name, value in sorted(column.match.items()))
            taken.setdefault((endpoint.kind, column.column, column.part, *rows), []).append(endpoint.name)
    found = [f"{' and '.join(names)} take the same values: is one of them mapped to the wrong column?"
             for names in taken.values() if len(names) > 1]  # fmt: skip
    return found or copies(own)


def _changes(own: Measurements, test: Measurements | None) -> dict[str, dict[str, Any]]:
    """What standardising changed, by kind: rows of both files, and the first ones."""
    report: dict[str, dict[str, Any]] = {}
    for found in (own, test) if test else (own,):
        for kind, changed in found.changes.items():
            entry = report.setdefault(kind, {"rows": 0, "examples": []})
            entry["rows"] += changed.rows
            entry["examples"] += [
                {"row": line, "written": written, "standardised": standardised, "removed": detail}
                for line, written, standardised, detail in changed.examples[: SHOWN_CHANGES - len(entry["examples"])]
            ]
    return dict(sorted(report.items(), key=lambda item: -item[1]["rows"]))


def _examples(own: Measurements) -> dict[str, list[dict[str, Any]]]:
    """The first three refused rows of each kind of reason."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for reject in own.rejects:
        rows = shown.setdefault(reason_kind(reject.reason), [])
        if len(rows) < 3:
            rows.append({"row": reject.row, "column": reject.column, "value": reject.value[:60]})
    return shown
