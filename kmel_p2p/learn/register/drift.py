"""Signs that models no longer do what they promised, in sentences.

Each sign needs both a size that matters and evidence: one month in some hundred shows one by chance. Compared are the
newest month with enough values and all months before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.losses import log_losses
from kmel_p2p.learn.register.matched import Matched

MIN_VALUES = 20
"""Of the newest month, and of those before it."""

BEYOND_CHANCE = 3.0
"""Standard errors."""

FEWER_INSIDE = 0.05
"""How far below the promised share those inside intervals must lie."""

MORE_ERROR = 1.25
"""Times the mean squared error, or log loss, of the months before."""

WORSE_THAN_LOCAL = 1.02
"""Times the mean squared error, or log loss, of best local, over all months."""

MORE_OUTSIDE = 0.2
"""More of the compounds lie outside of what the model was validated on than before."""


def drifts(months: Sequence[tuple[str, Matched]]) -> list[str]:
    """What there is to tell of one assay endpoint.

    Args:
        months: ascending, with the predictions made in each.
    """
    counted = [place for place, (_, part) in enumerate(months) if len(part) >= MIN_VALUES]
    if not counted:
        return []
    month, newest = months[counted[-1]]
    before = [part for _, part in months[: counted[-1]]]
    signs = [_intervals(newest), _error(newest, before), _outside(newest, before)]
    found = [f"predictions of {month} {sign}" for sign in signs if sign]
    if worse := _best_local([part for _, part in months]):
        found.append(worse)
    return [f"{newest.endpoint.name}: {sign}" for sign in found]


def _intervals(newest: Matched) -> str:
    told = np.isfinite(newest.inside)
    if told.sum() < MIN_VALUES:
        return ""
    promised = float(np.mean([row.level for row, one in zip(newest.rows, told, strict=True) if one]))
    inside = float(newest.inside[told].mean())
    error = np.sqrt(promised * (1 - promised) / told.sum())
    if inside > promised - FEWER_INSIDE or (promised - inside) < BEYOND_CHANCE * error:
        return ""
    what = "intervals" if newest.endpoint.kind == "regression" else "sets of classes"
    return (
        f"had {what} that hold {100 * inside:.0f} % of {told.sum()} measured values, where {100 * promised:.0f} % were "
        "promised: widen them by a higher level, and train again with these values"
    )


def _error(newest: Matched, before: Sequence[Matched]) -> str:
    past = np.concatenate([np.empty(0), *map(_losses, before)])
    now = _losses(newest)
    if len(past) < MIN_VALUES or now.mean() < MORE_ERROR * past.mean():
        return ""
    if now.mean() - past.mean() < BEYOND_CHANCE * np.hypot(_standard_error(now), _standard_error(past)):
        return ""
    grown = 100 * (_score(newest, now) / max(_score(newest, past), 1e-12) - 1)
    return (
        f"erred {grown:.0f} % more than earlier ones ({len(now)} values against {len(past)}): look at what changed in "
        "assay or chemistry, and train again with these values"
    )


def _best_local(months: Sequence[Matched]) -> str:
    own, local = [], []
    for part in months:
        known = np.isfinite(part.best_local)
        chosen = part.take(known)
        own.append(_losses(chosen))
        local.append(_losses(chosen, chosen.best_local))
    mine, other = np.concatenate(own), np.concatenate(local)
    if len(mine) < MIN_VALUES or mine.mean() < WORSE_THAN_LOCAL * other.mean():
        return ""
    if (mine - other).mean() < BEYOND_CHANCE * _standard_error(mine - other):
        return ""
    return (
        f"best local would have been right more often on {len(mine)} values measured since: compare the two with "
        "kmel-peer evaluate; --model best_local predicts with it"
    )


def _outside(newest: Matched, before: Sequence[Matched]) -> str:
    past = np.concatenate([np.empty(0, bool), *(part.outside for part in before)])
    if len(past) < MIN_VALUES:
        return ""
    now, then = float(newest.outside.mean()), float(past.mean())
    error = np.sqrt(
        np.clip(now * (1 - now), 1e-4, None) / len(newest) + np.clip(then * (1 - then), 1e-4, None) / len(past)
    )
    if now - then < MORE_OUTSIDE or now - then < BEYOND_CHANCE * error:
        return ""
    return (
        f"were for other chemistry: {100 * now:.0f} % outside of what the model was validated on, {100 * then:.0f} % "
        "before; trust them less until it was trained on some of it"
    )


def _losses(part: Matched, outputs: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Squared errors in labels, or log losses; float64[n]."""
    found = part.outputs if outputs is None else outputs
    if part.endpoint.kind == "regression":
        losses: NDArray[np.float64] = (found - part.labels) ** 2
        return losses
    return log_losses(found, part.labels)


def _score(part: Matched, losses: NDArray[np.float64]) -> float:
    mean = float(losses.mean())
    return mean**0.5 if part.endpoint.kind == "regression" else mean


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
