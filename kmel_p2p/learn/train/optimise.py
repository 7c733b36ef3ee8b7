"""Local training: the multi-task loss, and AdamW (Loshchilov and Hutter 2019) over batches drawn from a seed.

`OptimiserState` holds everything a restart needs, as flat vectors and plain numbers: the same state, trunk and data
give the same next step, bit for bit on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.device import device, seed_generator, training_precision
from kmel_p2p.learn.models.dropout import sharing
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.tensor_file import Stream
from kmel_p2p.learn.train.adamw import AdamW
from kmel_p2p.learn.train.dataset import Dataset

CLIP_NORM = 5.0
"""Gradients are scaled down to this L2 norm, so that one odd batch cannot ruin a round."""

FINAL_RATE = 0.05
"""Share of the learning rate left at the end of the schedule."""

LEAST_WEIGHT = 1e-12
"""A batch without any measurement has a loss of zero."""

Interrupted = Callable[[], None]
"""Called before each step; raises to stop the training."""

HUBER_DELTA = 1.0
"""In labels, that is in units of the charter's scale; larger errors count linearly (Huber 1964)."""


class OptimiserSettings(Protocol):
    """The part of `plan.TrainingSettings` that the optimiser needs."""

    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(slots=True)
class OptimiserState:
    """Moments of AdamW and the position in the stream of batches.

    Attributes:
        first, second: float32[d + p] moments, the trunk first.
        steps: optimiser steps taken so far.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    steps: int
    fresh_at: int = 0
    """Steps at which the moments last began at zero."""

    def copy(self) -> OptimiserState:
        return OptimiserState(self.first.copy(), self.second.copy(), self.steps, self.fresh_at)


class Ranks(Protocol):
    """The processes that train together, each on its share of every batch (`ranks.TrainerGroup`)."""

    @property
    def rank(self) -> int:
        """Number of this process among them, from 0."""

    @property
    def size(self) -> int:
        """How many they are."""

    def before_step(self, optimiser: LocalOptimiser, rate: float) -> None:
        """Have the others take the same step."""

    def after_step(self, optimiser: LocalOptimiser) -> None:
        """It is taken."""

    def add_up(self, values: Tensor) -> None:
        """Replace float32 values by their sums over all ranks."""


_ranks: Ranks | None = None


def train_with(ranks: Ranks | None) -> None:
    """Have every optimiser of this process share its steps with other ranks; None: work alone."""
    global _ranks
    _ranks = ranks


def cosine_rate(progress: float) -> float:
    """Share of the learning rate at `progress` (0 to 1) of the planned run (Loshchilov and Hutter 2017)."""
    progress = min(max(progress, 0.0), 1.0)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


class LocalOptimiser:
    """Trains one network on the training fold of one dataset.

    Attributes:
        changes: how often the settings or moments were replaced from outside.
    """

    def __init__(
        self, network: Network, dataset: Dataset, settings: OptimiserSettings, private_only: bool = False
    ) -> None:
        self.network, self.dataset, self.settings, self.private_only = network, dataset, settings, private_only
        self._loss = MultiTaskLoss(dataset.endpoints)
        groups = (network.private,) if private_only else (network.trunk, network.private)
        self._parameters = [parameter for parameter in groups if parameter.numel()]
        self._adam = AdamW(self._parameters, settings.learning_rate, settings.weight_decay)
        self._steps = self._fresh_at = self.changes = 0
        # Ranks that read the same features draw the same masks and take their rows of them. Other trunks draw for their
        # own rows, and must not draw alike.
        self._masks_shared = kind_of(network.architecture).perceptron
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        """The last permutation drawn, and its epoch: drawing one in every step is slow for a large site."""

    @property
    def steps(self) -> int:
        """Optimiser steps taken so far."""
        return self._steps

    def use(self, settings: OptimiserSettings) -> None:
        """Train by other settings from now on; their seed stays the same."""
        self.settings = settings
        self.changes += 1
        self._adam.weight_decay = settings.weight_decay

    def learn_from(self, dataset: Dataset) -> None:
        """Train on other measurements of the same assay endpoints; moments and the count of steps stay."""
        self.dataset = dataset
        self.changes += 1
        self._epoch = -1, np.empty(0, np.int64)

    def forget(self) -> None:
        """Have the moments begin at zero; the stream of batches goes on."""
        self._fresh_at = self._steps
        self.changes += 1
        self._adam.state.clear()

    def train(self, steps: int, rate: float, interrupted: Interrupted | None = None) -> float:
        """Take `steps` steps at `rate` times the learning rate.

        Returns:
            mean loss over the steps.
        """
        self._adam.learning_rate = self.settings.learning_rate * rate
        losses = []
        for _ in range(steps):
            if interrupted is not None:
                interrupted()
            if _ranks is not None:
                _ranks.before_step(self, rate)
            losses.append(self._step())
            if _ranks is not None:
                _ranks.after_step(self)
        return float(np.mean(losses)) if losses else math.nan

    def state(self) -> OptimiserState:
        """A copy of everything but the parameters that the next step depends on."""
        if self._steps == self._fresh_at:
            size = sum(parameter.numel() for parameter in self._parameters)
            return OptimiserState(np.zeros(size, np.float32), np.zeros(size, np.float32), self._steps, self._fresh_at)
        first, second = (np.concatenate(list(stream.parts)) for stream in self.moments())
        return OptimiserState(first, second, self._steps, self._fresh_at)

    @property
    def fresh_at(self) -> int:
        """See `OptimiserState`."""
        return self._fresh_at

    def moments(self) -> tuple[Stream, Stream]:
        """The moments of `state`, piece by piece; each can be read once, before the next step."""
        size = sum(parameter.numel() for parameter in self._parameters)
        return Stream(size, self._parts("exp_avg")), Stream(size, self._parts("exp_avg_sq"))

    def restore(self, state: OptimiserState) -> None:
        """Continue from `state`."""
        self.go_on(lambda piece: (state.first[piece], state.second[piece]), state.steps, state.fresh_at)

    def go_on(
        self, read: Callable[[slice], tuple[NDArray[np.float32], NDArray[np.float32]]], steps: int, fresh_at: int
    ) -> None:
        """Continue from moments that lie elsewhere.

        Args:
            read: pieces of both moments, float32[d + p] as the layouts say.
            steps, fresh_at: see `OptimiserState`.
        """
        self._steps, self._fresh_at = steps, fresh_at
        self.changes += 1
        if steps == fresh_at:
            self._adam.state.clear()
            return
        start = 0
        for parameter in self._parameters:
            state = self._begun(parameter)
            for piece in self._pieces(parameter):
                first, second = read(slice(start + piece.start, start + piece.stop))
                self._put(parameter, state["exp_avg"], piece, first)
                self._put(parameter, state["exp_avg_sq"], piece, second)
            start += parameter.numel()

    def skip_to(self, steps: int) -> None:
        """Go on at another place of the stream of batches, with the same moments."""
        self.changes += 1
        self._steps = steps
        if steps == self._fresh_at:
            return
        for parameter in self._parameters:
            self._begun(parameter)

    def _begun(self, parameter: Tensor) -> dict[str, Tensor]:
        """Adam's state of a parameter with the count of steps as it is now; the moments are zeros where it had none."""
        state = self._adam.state.setdefault(parameter, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name not in state:
                state[name] = torch.zeros_like(parameter.detach())
        state["step"] = torch.tensor(float(self._steps - self._fresh_at)).to(device())
        return state

    def _pieces(self, parameter: Tensor) -> list[slice]:
        return self.network.order.pieces if parameter is self.network.trunk else [slice(0, parameter.numel())]

    def _put(self, parameter: Tensor, values: Tensor, piece: slice, given: NDArray[np.float32]) -> None:
        if parameter is self.network.trunk:
            self.network.order.put(values, piece, given)
        else:
            values.copy_(torch.from_numpy(given.copy()))

    def _parts(self, name: str) -> Iterator[NDArray[np.float32]]:
        """A moment in the order of the layouts; zeros where no step was taken since it began."""
        for parameter in self._parameters:
            state = self._adam.state.get(parameter, {})
            for piece in self._pieces(parameter):
                if not state:
                    yield np.zeros(piece.stop - piece.start, np.float32)
                elif parameter is self.network.trunk:
                    yield self.network.order.take(state[name], piece)
                else:
                    yield state[name].cpu().numpy()

    def _step(self) -> float:
        rows, ranks = self._batch(self._steps), _ranks
        self.network.clear_gradients()
        # One seed per step: dropout is the same after a restart, without saving torch's generator.
        if ranks is None:
            seed_generator(_mix(self.settings.seed, self._steps))
            loss = float(self._pass(rows, None))
        else:
            loss = self._shared_pass(rows, ranks)
        members = self.network.architecture.members
        # Each member is trained as if it were alone. A loss of their mean would let them rely on one another.
        self._clip(CLIP_NORM * math.sqrt(members))
        self._adam.step()
        self._steps += 1
        return loss / members

    def _pass(self, rows: NDArray[np.int64], divisor: float | None) -> Tensor:
        """Add the gradients of the loss on these rows; returns the sum of the members' losses.

        Args:
            divisor: see `MultiTaskLoss.__call__`.
        """
        data = self.dataset
        with training_precision():
            members = self.network.member_outputs(self.network.read(data.inputs.rows(rows)), training=True)
        labels, relations = torch.from_numpy(data.labels[rows]), torch.from_numpy(data.relations[rows])
        losses = [self._loss(outputs.float(), labels, relations, divisor) for outputs in members]
        loss = torch.stack(losses).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _shared_pass(self, rows: NDArray[np.int64], ranks: Ranks) -> float:
        """`_pass` of a batch that several ranks share: every `size`-th row is this one's.

        Where labels are missing, ranks have different numbers of measurements. So each divides by the weights of the
        whole batch, which it knows, and the sum over the ranks is the mean over the batch, not a mean of means.
        """
        seed = _mix(self.settings.seed, self._steps)
        seed_generator(seed if self._masks_shared or not ranks.rank else _mix(seed, ranks.rank))
        own, gradients = rows[ranks.rank :: ranks.size], self.network.gradients
        if len(own):
            divisor = self._loss.weight_of(torch.from_numpy(self.dataset.labels[rows]))
            with sharing(ranks.rank, ranks.size, len(rows)):
                gradients[-1] = self._pass(own, divisor)
        ranks.add_up(gradients)
        return float(gradients[-1])

    def _clip(self, most: float) -> None:
        """Scale the gradients down to an L2 norm of `most`. Most steps need no scaling, and then none is done."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = math.sqrt(sum(float(torch.dot(gradient, gradient)) for gradient in gradients))
        if norm > most:
            for gradient in gradients:
                gradient.mul_(most / norm)

    def _batch(self, step: int) -> NDArray[np.int64]:
        """Rows of the batch of one step. An epoch is a permutation drawn from the seed and the epoch's number alone."""
        rows = self.dataset.train
        size = min(self.settings.batch_size, len(rows))
        first = step * size
        epochs = range(first // len(rows), (first + size - 1) // len(rows) + 1)
        stream = np.concatenate([self._permutation(epoch) for epoch in epochs])
        begin = first - epochs.start * len(rows)
        chosen: NDArray[np.int64] = rows[stream[begin : begin + size]]
        return chosen

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            drawn = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.dataset.train))
            self._epoch = epoch, drawn
        return self._epoch[1]


def _mix(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class MultiTaskLoss:
    """Mean loss per measurement, weighted by assay endpoint.

    Huber for values, on one side only where a value is a bound, and cross entropy for classes.
    """

    def __init__(self, endpoints: Sequence[AssayEndpoint]) -> None:
        weights = [endpoint.weight for endpoint in endpoints]
        self._weights = torch.tensor(weights, dtype=torch.float32, device=device())
        self._classes = torch.tensor([e.kind == "classification" for e in endpoints], device=device())
        self._any_class = bool(self._classes.any())
        beyond = [endpoint.beyond_bound for endpoint in endpoints]
        self._beyond_bound = torch.tensor(beyond, dtype=torch.float32, device=device())
        positive = [endpoint.positive_weight for endpoint in endpoints]
        self._positive = torch.tensor(positive, dtype=torch.float32, device=device())

    def weight_of(self, labels: Tensor) -> float:
        """What the loss of these labels is divided by: the summed weights of what was measured, or nearly zero."""
        return float((torch.isfinite(labels.to(device())) * self._weights).sum().clamp_min(LEAST_WEIGHT))

    def __call__(self, outputs: Tensor, labels: Tensor, relations: Tensor, divisor: float | None = None) -> Tensor:
        """Scalar loss.

        Args:
            outputs: float32[n, E]; labels for regressions, logits for classifications.
            labels: float32[n, E], NaN where nothing was measured.
            relations: int8[n, E]. With -1 the true value is below the label: predicting higher is an error, predicting
                lower costs only the assay endpoint's `beyond_bound`. With 1 the other way round.
            divisor: of the summed terms, where these rows are a part of a batch; None: `weight_of` them.
        """
        outputs, labels, relations = (part.to(device()) for part in (outputs, labels, relations))
        measured = torch.isfinite(labels)
        targets = torch.where(measured, labels, outputs.detach())
        error = outputs - targets
        # A bound can be violated on one side only (Tobit-like hinge, as in SparseChem's censored regression).
        satisfied = ((relations < 0) & (error < 0)) | ((relations > 0) & (error > 0))
        terms = functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=HUBER_DELTA)
        terms = torch.where(satisfied, terms * self._beyond_bound, terms)
        if self._any_class:
            classes = targets.clamp(0.0, 1.0)
            entropy = functional.binary_cross_entropy_with_logits(
                outputs, classes, pos_weight=self._positive, reduction="none"
            )
            terms = torch.where(self._classes, entropy, terms)
        weights = measured * self._weights
        return (terms * weights).sum() / (weights.sum().clamp_min(LEAST_WEIGHT) if divisor is None else divisor)


@torch.no_grad()
def loss_of(dataset: Dataset, rows: NDArray[np.int64], outputs: NDArray[np.float64], loss: MultiTaskLoss) -> float:
    """Loss of a model's outputs for compounds of the dataset, float64[len(rows), E], in labels."""
    given = torch.from_numpy(outputs).float()
    return float(loss(given, torch.from_numpy(dataset.labels[rows]), torch.from_numpy(dataset.relations[rows])))
