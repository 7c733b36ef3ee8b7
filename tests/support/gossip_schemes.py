"""Published averaging schemes in their plainest form, to check formulas and to compare pushsum with.

Values are float64[n] unless stated otherwise. `loss` is per message.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def other_than(rng: np.random.Generator, i: int, n: int) -> int:
    j = int(rng.integers(n - 1))
    return j + (j >= i)


# ---- one round of exact averaging, section 1.2; every row of float64[trials, n] draws for itself ----------------


def one_pair(x: Values, rng: np.random.Generator) -> Values:
    """One random pair averages (Boyd et al. 2006)."""
    pairs = rng.random(x.shape).argsort(axis=1)[:, :2]
    out = x.copy()
    np.put_along_axis(out, pairs, np.take_along_axis(x, pairs, 1).mean(axis=1, keepdims=True), 1)
    return out


def groups(x: Values, rng: np.random.Generator, size: int) -> Values:
    """Everybody averages in a random group of `size` (Moshpit, one round; a perfect matching for 2)."""
    order = rng.random(x.shape).argsort(axis=1)
    means = np.take_along_axis(x, order, 1).reshape(len(x), -1, size).mean(axis=2)
    out = np.empty_like(x)
    np.put_along_axis(out, order, np.repeat(means, size, axis=1), 1)
    return out


def el_local(x: Values, rng: np.random.Generator, out_degree: int) -> Values:
    """Everybody sends to `out_degree` others and averages what it got with its own (Epidemic Learning, 2023)."""
    trials, n = x.shape
    total, count, every = x.copy(), np.ones_like(x), np.arange(trials)
    for i in range(n):
        to = rng.random((trials, n - 1)).argpartition(out_degree, axis=1)[:, :out_degree]
        to += to >= i
        for column in to.T:
            total[every, column] += x[:, i]
            count[every, column] += 1
    return total / count


def ring_matrix(n: int) -> Values:
    """Thirds to oneself and both neighbours."""
    eye = np.eye(n)
    return (eye + np.roll(eye, 1, axis=0) + np.roll(eye, -1, axis=0)) / 3


# ---- push-sum under loss, section 1.4 ---------------------------------------------------------------------------


def naive_push_sum(x: Values, loss: float, units: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Half of sum and mass to a random site; what is lost is lost. Poisson clocks.

    Args: x: float64[trials, n]. Returns: (quotients, masses), each float64[trials, n].
    """
    (trials, n), every = x.shape, np.arange(len(x))
    x, y = x.copy(), np.ones_like(x)
    for _ in range(units * n):
        i = rng.integers(n, size=trials)
        j = rng.integers(n - 1, size=trials)
        j += j >= i
        arrives = rng.random(trials) >= loss
        for held in (x, y):
            held[every, i] /= 2
            held[every, j] += held[every, i] * arrives
    return x / y, y


def running_sums(x: Values, loss: float, units: int, offsets: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Broadcast of cumulative sums over fixed links (Hadjicostis et al., TAC 2016); loss is repaired by the next."""
    n, k = len(x), len(offsets)
    held, sent, seen = np.stack([x, np.ones(n)]), np.zeros((2, n)), np.zeros((2, n, n))
    for i in rng.integers(n, size=units * n):
        sent[:, i] += held[:, i] / (k + 1)
        held[:, i] /= k + 1
        for j in ((i + offset) % n for offset in offsets):
            if rng.random() >= loss:
                held[:, j] += sent[:, i] - seen[:, j, i]
                seen[:, j, i] = sent[:, i]
    return held[0] / held[1]


# ---- outer momentum, section 2 ----------------------------------------------------------------------------------


def noloco_factor(momentum: float, step: float, n: int) -> float:
    """Exact factor per round of the second moments of disagreement under NoLoCo (2506.10911) without drift.

    With P the averaging of a random perfect matching and a = E|Px|^2/|x|^2, the map
    (phi, delta) -> ((1 - g) phi + g P phi + m delta, m delta + g (P - 1) phi) is linear in the three second moments.
    """
    a = (n - 2) / (2 * (n - 1))
    keep, pull = 1 - step + step * a, step * (a - 1)
    moments = np.array(
        [
            [(1 - step) ** 2 + 2 * step * (1 - step) * a + step**2 * a, 2 * momentum * keep, momentum**2],
            [(1 - step) * pull, momentum * (keep + pull), momentum**2],
            [step**2 * (1 - a), 2 * momentum * pull, momentum**2],
        ]
    )
    return float(np.abs(np.linalg.eigvals(moments)).max())


def disagreement(scheme: str, loss: float, rng: np.random.Generator, n: int = 12, trials: int = 6000) -> float:
    """Steady-state variance between sites per variance of drift, momentum .5 and step .7. Trials share partners."""
    phi, v = np.zeros((n, trials)), np.zeros((n, trials))
    found = []
    for turn in range(90):
        drift = rng.standard_normal((n, trials))
        mixed, mixed_drift, mixed_v = phi.copy(), drift.copy(), v.copy()
        for i, j in rng.permutation(n).reshape(-1, 2):
            for here, there in ((i, j), (j, i)):
                if rng.random() >= loss:
                    mixed[here] = (phi[here] + phi[there]) / 2
                    mixed_drift[here] = (drift[here] + drift[there]) / 2
                    mixed_v[here] = (v[here] + v[there]) / 2
        if scheme == "noloco":
            v = 0.5 * v + 0.7 * mixed_drift + 0.7 * (mixed - phi)
            phi = phi + v
        else:
            v = 0.5 * (mixed_v if scheme == "averaged" else v) + 0.7 * mixed_drift
            phi = mixed + v
        if turn >= 20:
            found.append(phi.var(axis=0, ddof=1).mean())
    return float(np.mean(found))
