"""What looks wrong with measurements: limits written as values, units, noise, copies. Advice, never a change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.catalogue import look_up
from kmel_p2p.chem.dataset.labels import Readings
from kmel_p2p.chem.dataset.measurements import Measurements

PILE_SHARE, PILE_COUNT = 0.02, 10
"""Equal values near an end of the range make a pile: as a share of all values, and at least this many."""
PILE_BEYOND = 0.01
"""Share of values that may lie beyond a pile: a few assays reported more than the usual limit."""
PILE_PROMINENCE, PILE_NEIGHBOURS = 3.0, 5
"""A pile is this many times as high as each of the next values inwards; coarse rounding makes heaps everywhere."""

UNIT_FACTORS = (1e-9, 1e-6, 1e-3, 0.01, 1 / 60, 60.0, 100.0, 1e3, 1e6, 1e9)
"""Between nM, uM, mM, M and the like; shares and percent; hours, minutes and seconds."""

UNUSUAL_MEDIAN = 1.5
"""In labels: this far from 0 the median is unlike the catalogue's."""

SAME_SHARE, FLAT_SPREAD, RARE_SHARE = 0.9, 0.1, 0.02
"""A target is near-constant where so many of its values are one, or their standard deviation is so small (in labels); a
class is rare where so few compounds are of it."""

NOISE_SHARE, NOISE_COUNT = 0.5, 10
"""Replicates that explain so much of the variance are worth reporting, from so many compounds with replicates on."""

COPY_SHARE, COPY_COUNT = 0.95, 10
"""Two assay endpoints are copies where so many of the compounds with both have one value, from so many compounds on."""

WIDE_SPREAD, WIDE_SHARE, WIDE_COUNT = 0.5, 0.1, 5
"""In labels: a standard deviation of replicates beyond noise; the share and number of compounds worth reporting."""


def piles(endpoint: AssayEndpoint, readings: Readings) -> list[dict[str, Any]]:
    """Equal values, written without a relation, near the lowest or highest number: most likely an assay limit."""
    written = np.asarray(readings.written, np.float64)
    written = written[np.isfinite(written)]
    if len(written) == 0 or written.min() == written.max():
        return []
    values, counts = np.unique(written, return_counts=True)
    found = []
    # Zeros have no logarithm and are refused, so even one is worth mentioning.
    zeros = bool(endpoint.transform == "log10" and values[0] == 0 and 0.0 in readings.native)
    ends = (
        ("low_limit", 0 if zeros else _pile(counts, len(written))),
        ("high_limit", _pile(counts[::-1], len(written))),
    )
    for side, at in ends:
        if at is None:
            continue
        place = at if side == "low_limit" else len(values) - 1 - at
        count, limit = int(counts[place]), float(values[place])
        if readings.limited and count <= readings.limited:
            continue
        setting, advice = _declaration(endpoint, side, limit, count, len(written), readings.lowest if zeros else None)
        found.append({"side": side, "value": limit, "count": count, "of": len(written), "setting": setting,
                      "advice": advice})  # fmt: skip
    return found


def _pile(counts: NDArray[np.integer], total: int) -> int | None:
    """Place of the first pile from the start of these counts of ascending (or descending) values."""
    beyond = 0
    for place, count in enumerate(counts):
        inwards = counts[place + 1 : place + 1 + PILE_NEIGHBOURS]
        high = count >= max(PILE_COUNT, PILE_SHARE * total)
        if high and (not len(inwards) or count >= PILE_PROMINENCE * inwards.max()):
            return place
        beyond += int(count)
        if beyond > PILE_BEYOND * total:
            return None
    return None


def _declaration(
    endpoint: AssayEndpoint, side: str, limit: float, count: int, total: int, lowest: float | None
) -> tuple[str, str]:
    """(the setting that declares a limit, what to say about it)."""
    where = f"in data.columns.{endpoint.name}"
    if side == "low_limit" and lowest is not None:
        # As a limit 0 would be refused like the values; the assay's is what the lowest real values show.
        setting = f"low_limit = {lowest!r}" if math.isfinite(lowest) else ""
        return setting, (
            f'{count} of {total} values are 0, which has no logarithm, and are refused; if they mean "below the '
            f"assay's limit\", declare that limit {where}"
            + (f": perhaps {setting}, the lowest value that can be used" if setting else "")
        )
    setting = f"{side} = {limit!r}"
    return setting, (
        f"{count} of {total} values are exactly {limit:.9g}; if that is the assay's limit, "
        f"declare it: {setting} {where}"
    )


def unit_finding(endpoint: AssayEndpoint, readings: Readings) -> str:
    """A factor by which the values look wrong, against the charter's range and the catalogue; empty when they fit."""
    native = np.asarray(readings.native, np.float64)
    native = native[np.isfinite(native)]
    if len(native) < PILE_COUNT:
        return ""
    if endpoint.transform == "log10" and np.mean(native < 0) > 0.1:
        share = float(np.mean(native < 0))
        return f"{share:.0%} of the values are negative; are they logarithms? Then the unit is log10({endpoint.unit})"
    if endpoint.unit == "%" and 0 < native.max() <= 1:
        return "all values are between 0 and 1; are they shares? Then the unit is 'fraction'"
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

    # The mildest of factors that do equally well.
    best = max(sorted(UNIT_FACTORS, key=lambda factor: abs(np.log10(factor))), key=moved)
    if moved(best) > inside + 0.3:
        return (
            f"only {inside:.0%} of the values are between {low:g} and {high:g} {endpoint.unit}; "
            f"multiplied by {best:.3g} {moved(best):.0%} would be: the unit given is likely wrong"
        )
    return f"only {inside:.0%} of the values are between {low:g} and {high:g} {endpoint.unit}; check unit and column"


def unusual_median(endpoint: AssayEndpoint, values: NDArray[np.float64], relations: NDArray[np.int8]) -> str:
    """Whether the middle of the values (float64[n], transformed) is far from the catalogue's; empty when it is not."""
    entry = look_up(endpoint.name)
    exact = values[relations == 0]
    if entry is None or entry.endpoint.reported_unit != endpoint.reported_unit or len(exact) < PILE_COUNT:
        return ""
    usual, median = entry.endpoint, float(np.median(exact))
    if abs(median - usual.center) <= UNUSUAL_MEDIAN * usual.scale:
        return ""
    hint = ", and whether these are % bound (complement = true)" if "unbound" in entry.note else ""
    return (
        f"the median is {_native(usual, median)}, usual is about {_native(usual, usual.center)}: "
        f"check unit and column{hint}"
    )


def _native(endpoint: AssayEndpoint, value: float) -> str:
    return f"{10**value if endpoint.transform == 'log10' else value:.3g} {endpoint.unit}".strip()


def replicate_finding(own: Measurements, place: int) -> str:
    """Whether replicates differ as if several assays or species stood in one column; empty when not."""
    repeated = (own.replicates[:, place] > 1) & (own.relations[:, place] == 0)
    wide = int(np.count_nonzero(repeated & (own.spread[:, place] > WIDE_SPREAD)))
    total = int(np.count_nonzero(repeated))
    if wide < max(WIDE_COUNT, WIDE_SHARE * total):
        return ""
    return (
        f"replicates of {wide} of {total} compounds scatter by more than "
        f"{WIDE_SPREAD * own.endpoints[place].scale:.2g} {own.endpoints[place].reported_unit}".rstrip()
        + ": are several assays or species in one column? 'match' chooses rows"
    )


def constant_finding(endpoint: AssayEndpoint, labels: NDArray[np.float64], relations: NDArray[np.int8]) -> str:
    """Whether there is hardly anything to learn, because nearly all values are one; empty when not.

    Args:
        labels: of the measured compounds. relations: likewise.
    """
    if endpoint.kind == "classification":
        ones = int(labels.sum())
        few, name = min((ones, "1"), (len(labels) - ones, "0"))
        return f"only {few} of {len(labels)} compounds are of class {name}" if few < RARE_SHARE * len(labels) else ""
    exact = labels[relations == 0]
    if len(exact) < PILE_COUNT:
        return ""
    values, counts = np.unique(exact, return_counts=True)
    most = int(counts.max())
    if most >= SAME_SHARE * len(exact):
        value = endpoint.transformed(values[[counts.argmax()]])[0]
        return f"{most} of {len(exact)} values are {_native(endpoint, float(value))}: hardly anything differs"
    if (spread := float(exact.std())) < FLAT_SPREAD:
        return (
            f"the values hardly differ: their standard deviation is {_scaled(endpoint, spread)}, {spread:.2g} of the "
            "charter's scale; is it the right column?"
        )
    return ""


def noise_of(own: Measurements, place: int) -> tuple[float, float] | None:
    """Standard deviations, in labels: of replicates of one compound (pooled), and of all values.

    None where too few compounds were measured several times.
    """
    exact = np.isfinite(own.labels[:, place]) & (own.relations[:, place] == 0)
    repeated = exact & (own.replicates[:, place] > 1)
    if np.count_nonzero(repeated) < NOISE_COUNT:
        return None
    freedom = own.replicates[repeated, place] - 1.0
    within = float(np.sqrt(np.sum(freedom * own.spread[repeated, place].astype(np.float64) ** 2) / freedom.sum()))
    return within, float(own.labels[exact, place].astype(np.float64).std())


def noise_finding(own: Measurements, place: int) -> str:
    """Whether replicates of one compound differ nearly as much as compounds do; empty when not."""
    noise = noise_of(own, place)
    if noise is None or noise[0] ** 2 <= NOISE_SHARE * noise[1] ** 2:
        return ""
    endpoint, (within, total) = own.endpoints[place], noise
    explained = max(0.0, 1 - within**2 / total**2) if total else 0.0
    return (
        f"replicates of one compound differ by {_scaled(endpoint, within)}, all values by {_scaled(endpoint, total)} "
        f"(standard deviations): no model can explain more than about {explained:.0%} of the variance"
    )


def copies(own: Measurements) -> list[str]:
    """Assay endpoints with one value for the same compounds, although they have columns of their own."""
    found = []
    values = [_charter_values(own, place) for place in range(len(own.endpoints))]
    for one in range(len(values)):
        for other in range(one + 1, len(values)):
            if own.endpoints[one].kind != own.endpoints[other].kind:
                continue
            both = np.isfinite(values[one]) & np.isfinite(values[other])
            count = int(np.count_nonzero(both))
            same = int(np.count_nonzero(np.isclose(values[one][both], values[other][both], rtol=1e-4, atol=1e-6)))
            if count >= COPY_COUNT and same >= COPY_SHARE * count and np.ptp(values[one][both]) > 0:
                names = f"{own.endpoints[one].name} and {own.endpoints[other].name}"
                found.append(f"{names} have the same value for {same} of {count} compounds: is one column a copy?")
    return found


def _charter_values(own: Measurements, place: int) -> NDArray[np.float64]:
    """Transformed values, NaN where nothing was measured."""
    labels: NDArray[np.float64] = own.labels[:, place].astype(np.float64)
    return labels if own.endpoints[place].kind == "classification" else own.endpoints[place].transformed(labels)


def _scaled(endpoint: AssayEndpoint, labels: float) -> str:
    return f"{labels * endpoint.scale:.2g} {endpoint.reported_unit}".strip()
