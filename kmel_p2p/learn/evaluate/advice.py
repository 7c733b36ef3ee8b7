"""Whether to predict with what the federation had a part in, for one assay endpoint, in words and numbers.

What the site predicts with is compared, on the test fold, with *best local*: the strongest models it can make alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.catalogue import look_up
from kmel_p2p.learn.evaluate.scores import score

USE, NO_EVIDENCE, LOCAL = "use it", "no evidence either way", "use your local model"

INTERVAL = 0.95

Resampled = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Outputs float64[n], as labels or logits, and their scores on bootstrap resamples (`scores.resampled`)."""


def advise(
    endpoint: AssayEndpoint,
    answers: Resampled,
    best_local: Resampled,
    labels: NDArray[np.float64],
    *,
    rejected: bool,
) -> dict[str, Any]:
    """The advice, ready for JSON.

    Args:
        answers: what the site predicts with.
        best_local: the same of best local, on the same resamples.
        labels: float64[n], measured, none of them a bound.
        rejected: whether held-out compounds contradicted the federation, so that best local answers everywhere.

    Returns:
        `advice`, one of `USE`, `NO_EVIDENCE` and `LOCAL`; `score` and `best_local`, RMSE or log loss; `change_pct`, and
        its 95 % bootstrap `interval_pct` (see `_ends`); `same`, whether best local answers for all of these compounds;
        where labels are logarithms `fold_error`, the factor by which both are off; where the catalogue has thresholds
        `decisions`: `threshold`, `unit`, and how many of `of` compounds are on the wrong side, `wrong` and
        `wrong_best_local`; `rejected`.
    """
    outputs, (new, old) = (answers[0], best_local[0]), (answers[1], best_local[1])
    scores = [score(endpoint, output, labels.astype(np.float32)) for output in outputs]
    changes = new / np.maximum(old, 1e-12) - 1
    low, high = (100 * float(end) for end in np.quantile(changes, _ends(len(labels))))
    found: dict[str, Any] = {
        "advice": LOCAL if rejected or low > 0 else USE if high < 0 else NO_EVIDENCE,
        "score": scores[0],
        "best_local": scores[1],
        "change_pct": 100 * (scores[0] / max(scores[1], 1e-12) - 1),
        "interval_pct": [low, high],
        "rejected": rejected,
        "same": bool(np.array_equal(*outputs)),
    }
    if endpoint.transform == "log10":
        found["fold_error"] = [10.0 ** min(error, 300.0) for error in scores]
    decisions = _decisions(endpoint, *outputs, labels)
    return found | ({"decisions": decisions} if decisions else {})


def _ends(compounds: int) -> tuple[float, float]:
    """Quantiles of resamples that make a 95 % interval: further out the fewer compounds there are.

    Resamples of few compounds vary too little: at 2.5 and 97.5 %, ten compounds gave advice for no reason in 13 cases
    of 100 instead of 5, twenty in 9. With the "expanded percentile" (Hesterberg, Am Stat 2015, 69, 371), in 8 and 6.
    """
    z, free = NormalDist().inv_cdf((1 - INTERVAL) / 2), compounds - 1
    # Student's quantile by its expansion (Abramowitz and Stegun 26.7.5), right to 0.01 from 10 compounds on.
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    outside = NormalDist().cdf((compounds / free) ** 0.5 * student)
    return outside, 1 - outside


def _decisions(
    endpoint: AssayEndpoint, answers: NDArray[np.float64], best_local: NDArray[np.float64], labels: NDArray[np.float64]
) -> list[dict[str, Any]]:
    entry = look_up(endpoint.name)
    if endpoint.kind != "regression" or entry is None or entry.endpoint.reported_unit != endpoint.reported_unit:
        return []
    found = []
    for threshold in entry.thresholds:
        # As labels are kept, so that a compound measured at the very threshold is on its side.
        border = np.float64(np.float32(endpoint.label(np.array([threshold]))[0]))
        above = labels >= border
        wrong, wrong_local = (int(np.count_nonzero((output >= border) != above)) for output in (answers, best_local))
        found.append(
            {
                "threshold": threshold,
                "unit": entry.endpoint.unit,
                "of": len(labels),
                "wrong": wrong,
                "wrong_best_local": wrong_local,
            }
        )
    return found


def in_words(advice: Mapping[str, Any], metric: str, translated: Callable[[str], str] = str) -> str:
    """The reasons, in a few sentences, each as `translated` has it."""
    if advice["rejected"]:
        return translated(
            "Held-out compounds contradicted the federation, so the site predicts with its best local model already "
            f"({metric} {advice['score']:.3f})."
        )
    if advice["same"]:
        return translated(
            "Nothing speaks for the federation, so the site predicts all of these compounds with its best local model "
            f"already ({metric} {advice['score']:.3f})."
        )
    change, (low, high) = advice["change_pct"], advice["interval_pct"]
    words = [
        f"The {metric} is {advice['score']:.3f}, {abs(change):.1f} % {'lower' if change < 0 else 'higher'} than the "
        f"best local model's {advice['best_local']:.3f} (95 %: {low:+.1f} to {high:+.1f} %)."
    ]
    if "fold_error" in advice:
        own, local = advice["fold_error"]
        words.append(f"Values are off by a factor of {own:.2f} instead of {local:.2f}.")
    for decision in advice.get("decisions", ()):
        fewer = decision["wrong_best_local"] - decision["wrong"]
        differ = f"{fewer} fewer" if fewer > 0 else f"{-fewer} more"
        said = differ if fewer else "as many as with the latter"
        where = f"{decision['threshold']:g} {decision['unit']}".strip()
        words.append(f"At {where}, {decision['wrong']} of {decision['of']} decisions are wrong: {said}.")
    return " ".join(map(translated, words))
