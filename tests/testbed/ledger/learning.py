"""A small learning task for virtual federations: one teacher, sites that see different parts of the world.

The trunk is a two-layer perceptron in numpy, trained by SGD with momentum on the site's own data, compressed by the
real codec with the real residual. Every site's inputs lie around its own centre (non-IID); the score is the area under
the ROC curve on data of all sites together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.layout import Layout, TensorSpec, initial_trunk
from tests.testbed.ledger.federation import LedgerWorld
from tests.testbed.ledger.toy import toy_charter, toy_identities

INPUTS, HIDDEN = 24, 48
LAYOUT = Layout(
    [
        TensorSpec("first.weight", (HIDDEN, INPUTS), 1 / INPUTS**0.5),
        TensorSpec("first.bias", (HIDDEN,), 0.1),
        TensorSpec("second.weight", (HIDDEN,), 1 / HIDDEN**0.5),
        TensorSpec("second.bias", (1,), 0.0),
    ]
)
PARAMETERS = CodecParameters(chunk=256, kept=16, bits=2)
BATCH = 32
RATE = 0.05
MOMENTUM = 0.9
SEED = 7

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs float32[n, INPUTS] and labels float32[n] of 0 and 1."""

    inputs: Floats
    labels: Floats


class Task:
    """Data of every site, and of all together for scoring."""

    def __init__(self, sites: int, seed: int, rows: int = 200) -> None:
        rng = np.random.default_rng(seed)
        teacher = rng.standard_normal((INPUTS, 16)), rng.standard_normal(16)
        centres = 1.5 * rng.standard_normal((sites, INPUTS)) / INPUTS**0.25
        self.train = [_sample(rng, teacher, centre, rows) for centre in centres]
        tests = [_sample(rng, teacher, centre, 100) for centre in centres]
        self.test = Sample(np.concatenate([t.inputs for t in tests]), np.concatenate([t.labels for t in tests]))

    def score(self, trunk: Floats) -> float:
        """Area under the ROC curve on data of all sites."""
        return float(roc_auc_score(self.test.labels, forward(trunk, self.test.inputs)[1]))


def _sample(rng: np.random.Generator, teacher: Any, centre: NDArray[np.float64], rows: int) -> Sample:
    inputs = centre + rng.standard_normal((rows, INPUTS))
    signal = np.tanh(inputs @ teacher[0] / INPUTS**0.5) @ teacher[1]
    labels = (signal + 0.3 * rng.standard_normal(rows) > 0).astype(np.float32)
    return Sample(inputs.astype(np.float32), labels)


def forward(trunk: Floats, inputs: Floats) -> tuple[Floats, Floats]:
    """Hidden activations float32[n, HIDDEN] and logits float32[n]."""
    part = LAYOUT.split(trunk)
    hidden = np.tanh(inputs @ part["first.weight"].T + part["first.bias"])
    return hidden, hidden @ part["second.weight"] + part["second.bias"]


def gradient(trunk: Floats, batch: Sample) -> Floats:
    """Of the mean log loss, float32[LAYOUT.size]."""
    hidden, logits = forward(trunk, batch.inputs)
    error = (1 / (1 + np.exp(-logits)) - batch.labels) / len(batch.labels)
    back = np.outer(error, LAYOUT.split(trunk)["second.weight"]) * (1 - hidden**2)
    return LAYOUT.join(
        {
            "first.weight": (back.T @ batch.inputs).astype(np.float32),
            "first.bias": back.sum(axis=0).astype(np.float32),
            "second.weight": (hidden.T @ error).astype(np.float32),
            "second.bias": np.array([error.sum()], np.float32),
        }
    )


@dataclass(slots=True)
class State:
    """What a trainer's state file holds."""

    round: int
    residual: Floats
    drift: NDArray[np.float64]
    """Sum of all drifts so far; the same of what was published. Only for the invariant."""
    published: NDArray[np.float64]


class LearningTrainer:
    """Trains one site. `files` outlive it, as a disk does."""

    def __init__(self, sample: Sample, codec: DeltaCodec, seed: int, files: dict[str, State]) -> None:
        self.state = State(0, np.zeros(LAYOUT.size, np.float32), np.zeros(LAYOUT.size), np.zeros(LAYOUT.size))
        self._sample = sample
        self._codec = codec
        self._seed = seed
        self._files = files
        self._open: State | None = None

    def resume(self, state_file: str | None) -> None:
        if state_file is not None:
            self.state = self._files[state_file]

    def train(self, trunk: Floats, number: int, steps: int, norm_bound: float) -> tuple[bytes, str]:
        rng = np.random.default_rng((self._seed, number))
        trained, momentum = trunk.copy(), np.zeros(LAYOUT.size, np.float32)
        for _ in range(steps):
            rows = rng.integers(0, len(self._sample.labels), BATCH)
            batch = Sample(self._sample.inputs[rows], self._sample.labels[rows])
            momentum = MOMENTUM * momentum + gradient(trained, batch)
            trained -= np.float32(RATE) * momentum.astype(np.float32)
        drift = trained - trunk
        residual = self.state.residual + drift
        payload = self._codec.encode(residual, norm_bound)
        sent = self._codec.decode(payload).dense(LAYOUT.size)
        name = f"round-{number}"
        self._open = State(number, residual, self.state.drift + drift, self.state.published + sent)
        self._files[name] = self._open
        return payload, name

    def commit(self, number: int) -> None:
        if self._open is None or self._open.round != number:
            raise Bug(f"round {number} is not open")
        self.state, self._open = self._open, None

    def abandon(self, number: int) -> None:
        self._open = None

    def gap(self) -> float:
        """How far published plus residual is from the sum of the drifts; 0 up to the rounding of the residual."""
        return float(np.abs(self.state.published + self.state.residual - self.state.drift).max())


class SharedDecoder:
    """All virtual sites decode the same payloads; decoding is a pure function, so once is enough."""

    def __init__(self, codec: DeltaCodec) -> None:
        self.codec_id = codec.codec_id
        self.decode = lru_cache(maxsize=4096)(codec.decode)


def learning_world(
    sites: int,
    seed: int,
    averaging: Mapping[str, Any] | None = None,
    pace: Mapping[str, Any] | None = None,
    members: Sequence[Identity] | None = None,
    **changes: Any,
) -> tuple[LedgerWorld, Task]:
    """A world in which `sites` sites learn the task of this seed; `changes` are fields of `LedgerWorld`."""
    identities = list(members) if members is not None else toy_identities(sites)
    task = Task(sites, seed)
    codec = DeltaCodec(LAYOUT, PARAMETERS)
    disks: list[dict[str, State]] = [{} for _ in range(sites)]
    rule = {"steps_per_entry": 10, "entry_limit": 30, **(averaging or {})}
    world = LedgerWorld(
        charter=toy_charter(identities, rule, pace),
        identities=identities,
        codec=SharedDecoder(codec),
        initial_trunk=initial_trunk(LAYOUT, SEED),
        make_trainer=lambda index: LearningTrainer(task.train[index], codec, 1000 * seed + index, disks[index]),
        max_payload_bytes=codec.max_payload_bytes,
        **changes,
    )
    return world, task
