"""Membership inference by likelihood ratios (LiRA, Carlini et al., S&P 2022), for few shadows and several statistics.

Every federation in turn is the target, and the others are its shadows, in which the attacker knows who was trained on:
an optimistic attacker. A statistic of a compound is normal about a level of its own, which the shadows give, plus a
shift if it was trained on; shift and covariance are pooled over compounds, because a handful of shadows cannot give
each its own. The score is the log-likelihood ratio up to a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEWEST = 4


def ratios(
    statistics: NDArray[np.float64], trained: NDArray[np.bool_], responses: Sequence[NDArray[np.floating]] = ()
) -> NDArray[np.float64]:
    """Scores of every compound in every federation, float64[federations, n].

    Args:
        statistics: float64[federations, n, k].
        trained: bool[federations, n].
        responses: of float[federations, n, p] each, vectors that move in a direction of the compound's own when it is
            trained on; the shadows give the direction (`matched`).

    Raises:
        ValueError: fewer than four federations.
    """
    if len(statistics) < FEWEST:
        raise ValueError(f"{len(statistics)} federations; a target and three shadows are the least")
    level = statistics.mean(axis=1, keepdims=True)
    spread = statistics.std(axis=1, keepdims=True)
    statistics = (statistics - level) / np.maximum(spread, 1e-12)
    found = np.empty(trained.shape)
    for target in range(len(statistics)):
        shadows = np.flatnonzero(np.arange(len(statistics)) != target)
        directed = [matched(response, trained, target)[..., None] for response in responses]
        everything = np.concatenate([statistics, *directed], axis=2)
        found[target] = _target(everything[target], everything[shadows], trained[shadows])
    return found


def matched(response: NDArray[np.floating], trained: NDArray[np.bool_], target: int) -> NDArray[np.float64]:
    """How far each response lies towards those of the federations that the compound was trained on in.

    Args:
        response: float[federations, n, p].
        target: the federation that is attacked: nothing of whose members is used.

    Returns:
        float64[federations, n]; for a shadow from the other shadows. 0 where those are all in or all out.
    """
    found = np.zeros(trained.shape)
    for at in range(len(response)):
        known = np.array([other for other in range(len(response)) if other not in (at, target)])
        inside = trained[known].astype(np.float64)
        count = inside.sum(axis=0)
        both = (count > 0) & (count < len(known))
        share = inside / np.maximum(count, 1), (1 - inside) / np.maximum(len(known) - count, 1)
        with_, without = (np.einsum("fn,fnp->np", part, response[known]) for part in share)
        rest = response[known] - np.where(trained[known][..., None], with_, without)
        noise = np.einsum("fnp,fnq->pq", rest, rest) / rest[..., 0].size
        noise += 1e-3 * np.trace(noise) / len(noise) * np.eye(len(noise))
        direction = np.linalg.solve(noise, (with_ - without).T).T
        towards = np.einsum("np,np->n", response[at] - (with_ + without) / 2, direction)
        length = np.sqrt(np.maximum(np.einsum("np,np->n", with_ - without, direction), 1e-12))
        found[at] = np.where(both, towards / length, 0.0)
    return found


def _target(
    target: NDArray[np.float64], shadows: NDArray[np.float64], trained: NDArray[np.bool_]
) -> NDArray[np.float64]:
    inside = trained[..., None].astype(np.float64)
    count = inside.sum(axis=0)
    both = ((count > 0) & (count < len(shadows)))[:, 0]
    with_, without = (shadows * inside).sum(axis=0), (shadows * (1 - inside)).sum(axis=0)
    shift = np.mean(with_[both] / count[both] - without[both] / (len(shadows) - count[both]), axis=0)
    own = np.mean(shadows - inside * shift, axis=0)
    rest = (shadows - inside * shift - own).reshape(-1, shadows.shape[-1])
    covariance = rest.T @ rest / len(rest) + 1e-6 * np.eye(rest.shape[1])
    return np.asarray((target - own - shift / 2) @ np.linalg.solve(covariance, shift))
