"""What the stack is worth, per assay endpoint, in numbers ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.losses import compound_losses, difference
from kmel_p2p.learn.evaluate.scores import blocks, scorable, score
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.stack.fit import FittedStack
from kmel_p2p.learn.stack.sides import BEST_LOCAL, SIDES, STACK
from kmel_p2p.learn.train.dataset import Dataset


def compare_sides(dataset: Dataset, fitted: FittedStack, neighbours: Neighbours) -> list[dict[str, Any]]:
    """One document for each assay endpoint of the dataset:

    own, unusual        the side that answers for compounds like the site's own, and for those that are less so
    held_out            compounds that decided
    best_local, stack, foreign
                        {"held_out": score, "test": score}, as `scores.score`; without a fold that has no values
    answers             {"valid": score, "test": score} of what the site predicts with: the side that answers for each
    difference          [mean, standard error] of the losses on held-out compounds, stack - best local; None if few
    """
    tests = _test_outputs(dataset.read_by(fitted.stack.reads), fitted)
    answered = fitted.stack.chosen(tests, neighbours.unusual(dataset.inputs.bits(dataset.test)))
    found: list[dict[str, Any]] = []
    for place, endpoint in enumerate(dataset.endpoints):
        held, stack = fitted.held_out[place], fitted.stack.endpoints[place]
        asked = scorable(dataset, dataset.test, place)
        labels = dataset.labels[dataset.test[asked], place]
        told: dict[str, Any] = {"own": stack.own, "unusual": stack.unusual, "held_out": len(held.rows), "answers": {}}
        valid = np.isin(held.rows, dataset.valid)
        if valid.any():
            far = neighbours.unusual(dataset.inputs.bits(held.rows[valid]))
            answer = np.where(far, held.sides[stack.unusual][valid], held.sides[stack.own][valid])
            told["answers"]["valid"] = score(endpoint, answer, held.labels[valid].astype(np.float32))
        if asked.any():
            told["answers"]["test"] = score(endpoint, answered[asked, place], labels)
        for side in SIDES:
            scores = {}
            if len(held.rows):
                scores["held_out"] = score(endpoint, held.sides[side], held.labels.astype(np.float32))
            if asked.any():
                scores["test"] = score(endpoint, tests[side][asked, place], labels)
            told[side] = scores
        losses = [compound_losses(endpoint, held.sides[side], held.labels) for side in (STACK, BEST_LOCAL)]
        told["difference"] = list(difference(*losses)) if len(held.rows) > 1 else None
        found.append(told)
    return found


def _test_outputs(dataset: Dataset, fitted: FittedStack) -> dict[str, NDArray[np.float64]]:
    """Side -> float64[len(test), E], in bounded memory."""
    parts = [fitted.stack.sides(dataset.inputs.rows(block)) for block in blocks(dataset.test)]
    nothing = np.empty((0, len(dataset.endpoints)))
    return {side: np.concatenate([nothing, *(part[side] for part in parts)]) for side in SIDES}
