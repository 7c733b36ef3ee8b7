"""One look at a trunk, in a process of its own: what it makes of some structures, as digests and figures.

    python -m kmel_p2p.learn.conformance.probe    reads a `Task` as JSON from standard input, prints a `Probed` as JSON

Two such processes, whose hashes of texts, clocks and random generators differ, have to print the same digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import KmelError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.strict import build
from kmel_p2p.agreement.training import ModelRule, TrainingRule
from kmel_p2p.chem.structures.features import describe
from kmel_p2p.chem.structures.standardise import standardise
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.conformance.positions import Positions, positions_shown
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.train.adamw import AdamW
from kmel_p2p.learn.train.dataset import Inputs

BATCH = 64
"""Rows of a timed pass: a training batch of the charter's default."""

TIMED = 5
STEPS = 10
"""Of AdamW, after which everything still has to be finite."""

ENDPOINT = AssayEndpoint(name="probe", head="shared")


@dataclass(frozen=True, slots=True)
class Task:
    """What to look at.

    Attributes:
        model: the charter's `[model]` (`ModelRule`), as JSON has it.
        structures: SMILES.
        seed: of the initial trunk.
        noise: of Python's and numpy's generators, which a trunk must not use.
    """

    model: dict[str, Any]
    structures: list[str]
    seed: int
    noise: int


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found.

    Attributes:
        digests: what has to be the same in every process, by name.
        again: the same, computed a second time in this process.
        values: numbers that are trained and shared, without the head.
        not_finite: what has values that are not finite: outputs, gradient, or the trunk after `STEPS` steps.
        unmoved: tensors whose gradient is zero throughout.
        apart: largest difference between outputs of one batch and of its rows one by one, relative to their spread.
        train_us, predict_us: processor time per row, in a batch of `BATCH`.
        bytes_per_row: kept for the backward pass of training.
        positions: what the first layer shows of fingerprints.
    """

    digests: dict[str, str]
    again: dict[str, str]
    values: int
    not_finite: list[str]
    unmoved: list[str]
    apart: float
    train_us: float
    predict_us: float
    bytes_per_row: float
    positions: Positions | None


def main() -> int:
    task = Task(**json.load(sys.stdin))
    try:
        found = look(task)
    except KmelError as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201
        return 0
    print(json.dumps(dataclasses.asdict(found)))  # noqa: T201
    return 0


def look(task: Task) -> Probed:
    """Everything of one process.

    Raises:
        ConfigError: the package is not the model's, or its module cannot be used.
    """
    random.seed(task.noise)
    np.random.seed(task.noise)
    torch.set_num_threads(1)
    model, policy = build(ModelRule, task.model, "model"), FeatureRule()
    shape = Architecture(
        **dict(model), inputs=policy.width, endpoints=(ENDPOINT,), descriptors=len(descriptor_constants())
    )
    layout, occurs, inputs = trunk_layout(shape), *_read(model, policy, task.structures)
    start = initial_trunk(layout, task.seed)
    rows, start_private = inputs.rows(np.arange(len(inputs))), initial_trunk(private_layout(shape), task.seed)
    network = Network(shape)

    def again() -> tuple[dict[str, str], NDArray[np.float64], NDArray[np.float32]]:
        network.load(start)
        network.load_private(start_private)
        outputs, gradient = network.predict(rows), gradient_of(network, rows)
        return (
            {
                "layout": layout.hash.hex(),
                "initial values": _digest(start),
                "outputs": _digest(outputs),
                "gradient of a training pass": _digest(gradient),
                "frozen values and descriptions": kind_of(model).reference_hash(
                    _smiles(policy, task), model, policy.bits
                ),
            },
            outputs,
            gradient,
        )

    (digests, outputs, gradient), (second, _, _) = again(), again()
    tensors = layout.split(gradient)
    unmoved = [spec.name for spec in layout.specs if spec.size and not np.any(tensors[spec.name])]
    after = _trained(network, rows)
    finite: dict[str, NDArray[Any]] = {"outputs": outputs, "gradient": gradient, f"trunk after {STEPS} steps": after}
    network.load(start)
    batch = inputs.rows(np.resize(np.arange(len(inputs)), BATCH))
    return Probed(
        digests=digests,
        again=second,
        values=sum(spec.size for spec in layout.specs if spec.name.startswith("trunk.")),
        not_finite=[name for name, found in finite.items() if not np.isfinite(found).all()],
        unmoved=unmoved,
        apart=_apart(network, inputs, outputs),
        train_us=_timed(lambda: gradient_of(network, batch)) / BATCH,
        predict_us=_timed(lambda: network.predict(batch)) / BATCH,
        bytes_per_row=(_kept(network, batch) - _kept(network, inputs.rows(np.array([0])))) / (BATCH - 1),
        positions=positions_shown(network, layout, inputs, occurs),
    )


def gradient_of(network: Network, rows: NDArray[np.float32], training: bool = True) -> NDArray[np.float32]:
    """float32[d] of half the mean squared distance of outputs from one, with dropout of a fixed seed."""
    network.clear_gradients()
    torch.default_generator.manual_seed(1)
    _loss(network, rows, training).backward()  # type: ignore[no-untyped-call]
    assert network.trunk.grad is not None
    return network.laid_out(network.trunk.grad)


def _loss(network: Network, rows: NDArray[np.float32], training: bool) -> torch.Tensor:
    return (network.forward(network.read(rows), training) - 1).square().mean() / 2


def _trained(network: Network, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rule = TrainingRule()
    optimiser = AdamW([network.trunk], rule.learning_rate, rule.weight_decay)
    for _ in range(STEPS):
        network.clear_gradients()
        _loss(network, rows, training=True).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.trunk_values()


def _apart(network: Network, inputs: Inputs, outputs: NDArray[np.float64]) -> float:
    """Of predictions in one batch and one by one: a row must not depend on its neighbours."""
    alone = np.concatenate([network.predict(inputs.rows(np.array([row]))) for row in range(len(inputs))])
    spread = max(float(np.ptp(outputs)), float(np.abs(outputs).max()), 1e-12)
    return float(np.abs(alone - outputs).max()) / spread


def _timed(work: Any) -> float:
    """Microseconds of processor time, the median of some runs after one that warms up."""
    taken = []
    for _ in range(TIMED + 1):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken[1:]) * 1e6


def _kept(network: Network, rows: NDArray[np.float32]) -> int:
    """Bytes that a training pass keeps for its way back, beside the parameters."""
    own, kept = network.trunk.untyped_storage().data_ptr(), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(network, rows, training=True)
    return sum(size for size, _ in kept.values())


def _smiles(policy: FeatureRule, task: Task) -> list[str]:
    return [standardise(text, policy)[0].smiles for text in task.structures]


def _read(model: ModelRule, policy: FeatureRule, structures: Sequence[str]) -> tuple[NDArray[np.bool_], Inputs]:
    """Which positions occur in each structure, bool[n, bits], and the inputs of all."""
    described = [standardise(text, policy) for text in structures]
    features = [describe(molecule, policy) for _, molecule in described]
    counts = np.stack([counts for counts, _ in features])
    descriptors = np.stack([values for _, values in features]).astype(np.float32)
    inputs = Inputs(CountMatrix.from_rows(counts, policy.bits), descriptors).read_by(
        model, [found.smiles for found, _ in described]
    )
    return counts > 0, inputs


def _digest(values: NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
