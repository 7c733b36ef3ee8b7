"""What each command does inside the trainer process."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing.shared_memory
import os
import sys
import time
from typing import Any, Protocol

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError
from kmel_p2p.agreement.privacy import NoisePlan
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.device import use_device
from kmel_p2p.learn.evaluate.comparison import compare, predictors, start_local
from kmel_p2p.learn.evaluate.effect import EffectMeter, looked_at
from kmel_p2p.learn.evaluate.worth import WorthMeter
from kmel_p2p.learn.models.carried_heads import private_heads
from kmel_p2p.learn.models.layout import check_layout, trunk_layout, unlearned
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.reference import MADE_WITH, installation
from kmel_p2p.learn.models.start_file import started_trunk
from kmel_p2p.learn.predict.model_directory import Card, rewritten, write_model
from kmel_p2p.learn.predict.stack_file import StoredStack, write_stack
from kmel_p2p.learn.predict.uncertainty import calibrate, calibrate_stack
from kmel_p2p.learn.predict.versions import NEWEST_FOLDER, keep_version, prune
from kmel_p2p.learn.privacy.grid import planned
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.tensor_file import read_parts, read_vector
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.round import Rounds
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.learn.worker.prepare import prepare
from kmel_p2p.learn.worker.reload import reload
from kmel_p2p.learn.worker.session import (
    Abandon,
    Answer,
    Appraise,
    Appraised,
    Command,
    Commit,
    Examine,
    Examined,
    Finish,
    Finished,
    PartEffect,
    Prepare,
    Prepared,
    Progress,
    Reload,
    Reloaded,
    Train,
    Trained,
)
from kmel_p2p.learn.worker.tracking import Tracking

log = structlog.get_logger()

LEAST_STEPS = 600
"""Of the models trained for comparison under differential privacy. Noised steps are few and of large batches; a site
alone needs no noise and would take as many as a draft for small sites suggests."""


class Outlet(Protocol):
    """Where the trainer reports progress. Both methods may raise to stop the work."""

    def report(self, progress: Progress) -> None: ...
    def check(self) -> None: ...


class Trainer:
    """State of the trainer process between commands."""

    def __init__(self, plan: TrainerPlan, outlet: Outlet) -> None:
        if plan.threads:
            torch.set_num_threads(plan.threads)
        use_device(plan.device)
        self._plan, self._outlet = plan, outlet
        self._layout = trunk_layout(plan.architecture)
        check_layout(self._layout, plan.layout_hash)
        own = plan.architecture
        self._start = started_trunk(own, self._layout, plan.start_file) if own.start else None
        self._memory = _attach(plan.trunk_memory)
        self._tracking = Tracking(plan.tracking, plan.state_dir / "trainer", plan.labels)
        self._network = Network(plan.architecture)
        self._dataset: Dataset | None = None
        self._prepared: Prepared | None = None
        self._rounds: Rounds | None = None
        self._meter: EffectMeter | None = None
        self._worth: WorthMeter | None = None

    def close(self) -> None:
        """Release the shared memory, and let trackers write what they have."""
        self._tracking.close()
        # A round that is interrupted still has the trunk in its hands; the memory then goes when that does.
        with contextlib.suppress(BufferError):
            self._memory.close()

    def handle(self, command: Command) -> Answer | None:
        """Execute one command.

        Returns:
            its answer, or None for commands without one.
        """
        match command:
            case Prepare():
                return self._prepare()
            case Train():
                return self._train(command)
            case Commit(round=number):
                self._require_rounds().commit(number)
                return None
            case Abandon(round=number):
                self._require_rounds().abandon(number, rejected=command.rejected, deferred=command.deferred)
                return None
            case Finish():
                return self._finish(command)
            case Examine():
                return self._examine(command)
            case Appraise():
                return self._appraise(command)
            case Reload():
                return self._reload(command)
        raise Bug(f"unknown command {command!r}")

    def _prepare(self) -> Prepared:
        if self._prepared is None:
            plan = self._plan
            dataset, prepared = prepare(plan, self._outlet.report)
            # Private heads and optimiser start from the site's seed. The trunk always comes from shared memory.
            start_local(self._network, plan.architecture, plan.model_seed, plan.training.seed, self._start)
            rounds = Rounds(
                self._network,
                dataset,
                self._layout,
                None if plan.codec is None else DeltaCodec(self._layout, plan.codec),
                plan.training,
                plan.state_dir / "trainer",
                None if plan.noise is None else _noised(plan.noise, self._network, dataset),
            )
            rounds.resume(plan.resume_file, founding_heads(plan))
            self._dataset, self._rounds, self._prepared = dataset, rounds, prepared
        return self._prepared

    def _reload(self, command: Reload) -> Reloaded:
        rounds = self._require_rounds()
        assert self._prepared is not None
        plan = dataclasses.replace(
            self._plan,
            source=command.source,
            test_source=command.test_source,
            require_approval=command.require_approval,
        )
        answer, dataset = reload(plan, self._prepared, self._outlet.report, accept_removed=command.accept_removed)
        if dataset is not None:
            noised = None if plan.noise is None else _noised(plan.noise, self._network, dataset)
            rounds.learn_from(dataset, noised, test=command.test_in_rounds)
            self._plan, self._dataset, self._prepared = plan, dataset, answer.prepared
            self._meter = self._worth = None
        return answer

    def _train(self, command: Train) -> Trained:
        started = time.monotonic()
        result = self._require_rounds().train(
            command.round,
            command.steps,
            command.norm_bound,
            self._trunk(),
            self._outlet.report,
            entry_limit=command.entry_limit,
            campaign=command.campaign,
        )
        answer = Trained(
            round=command.round,
            payload=result.payload,
            norm=result.norm,
            steps=command.steps,
            state_file=result.state_file,
            train_loss=result.train_loss,
            scores=result.scores,
            seconds=time.monotonic() - started,
            training_us=result.training_us,
        )
        self._tracking.trained(answer)
        return answer

    def _finish(self, command: Finish) -> Finished:
        rounds, plan = self._require_rounds(), self._plan
        assert self._dataset is not None
        assert self._prepared is not None
        trunk = self._trunk()
        comparison = compare(
            plan.architecture,
            self._dataset,
            plan.training if command.training is None else plan.training.changed(**dict(command.training)),
            plan.model_seed,
            Parameters(trunk.copy(), rounds.private()),
            steps=max(command.total_steps, LEAST_STEPS if plan.noise is not None else 0),
            federated_history=rounds.history,
            report=self._comparison_progress,
            prefix=rounds.prefix.parameters,
            others=None if command.others_file is None else read_vector(command.others_file, self._layout.size),
            stacking=True,
            graph_networks=plan.graph_networks,
            start=self._start,
        )
        stacked = comparison.stacked
        assert stacked is not None, "asked for"
        result: dict[str, Any] = {"entries": command.entries, **comparison.result}
        # The trunk that a round started from has the entries before it.
        result["prefix"] = rounds.prefix.number - 1 if comparison.took_prefix else command.entries
        chosen = {endpoint["name"]: endpoint["network"] for endpoint in result["endpoints"]}
        known = calibrate(self._dataset, predictors(plan.architecture, comparison.models), chosen)
        stored = StoredStack(stacked.stack, calibrate_stack(self._dataset, stacked, comparison.neighbours))
        folder = plan.state_dir / NEWEST_FOLDER
        with rewritten(folder) as aside:
            comparison.neighbours.write(aside)
            card = Card(
                architecture=plan.architecture,
                features=plan.features,
                reference_hash=self._prepared.features_hash,
                chosen=chosen,
                labels={**plan.labels, **command.labels, MADE_WITH: installation(plan.architecture)},
                result={key: value for key, value in result.items() if key != "history"},
                uncertainty={name: calibration.plain() for name, calibration in known.items()},
                untrained=[plan.endpoints[place].name for place in self._dataset.untrained()],
                unlearned=self._unlearned(trunk),
                stack_digest=write_stack(aside, stored),
                retired=plan.retired,
            )
            models = {name: (model.trunk, model.private) for name, model in comparison.models.items()}
            card = write_model(aside, card, models)
        self._tracking.finished(command.entries, result)
        return Finished({**result, "digest": card.digest}, folder, self._keep_version())

    def _unlearned(self, trunk: NDArray[np.float32]) -> list[str]:
        """Assay endpoints that no site trained; under differential privacy, where noise moves every head, those that
        this site has not measured: nobody can tell whether others have."""
        if self._plan.noise is None:
            drawn = initial_trunk(self._layout, self._plan.model_seed)
            return unlearned(self._plan.architecture, trunk, drawn if self._start is None else self._start)
        assert self._dataset is not None
        return [self._plan.endpoints[place].name for place in self._dataset.untrained()]

    def _keep_version(self) -> str:
        """Keep the models that were just written as a version; returns why that failed, if it did."""
        try:
            dataset = self._prepared.dataset_hash if self._prepared is not None else ""
            keep_version(self._plan.state_dir, time.time(), dataset)
            prune(self._plan.state_dir, self._plan.versions)
        except ConfigError as error:
            # The models themselves are written.
            return str(error)
        return ""

    def _examine(self, command: Examine) -> Examined:
        started = time.monotonic()
        rounds = self._require_rounds()
        if self._meter is None:
            assert self._dataset is not None
            # A network of its own: a round that is open must not find another trunk in its network.
            dataset = looked_at(self._dataset, self._plan.training.seed)
            self._meter = EffectMeter(dataset, Network(self._plan.architecture))
        self._meter.load_private(rounds.private())
        whole = self._meter.losses(read_vector(command.trunk, self._layout.size))
        effects = []
        for part in command.parts:
            self._outlet.check()
            found = self._meter.effects(whole, read_vector(part.path, self._layout.size))
            effects.append(PartEffect(part, found))
        return Examined(tuple(effects), time.monotonic() - started)

    def _appraise(self, command: Appraise) -> Appraised:
        started = time.monotonic()
        rounds = self._require_rounds()
        if self._worth is None:
            assert self._dataset is not None
            seed = self._plan.training.seed
            self._worth = WorthMeter(looked_at(self._dataset, seed), Network(self._plan.architecture), seed)
        self._worth.load_private(rounds.private())
        parts = read_parts(command.parts, command.count, self._layout.size)
        found = self._worth.worth(read_vector(command.half_way, self._layout.size), parts)
        return Appraised(found, time.monotonic() - started)

    def _comparison_progress(self, done: int, total: int) -> None:
        self._outlet.report(Progress("comparison", done, total))

    def _trunk(self) -> NDArray[np.float32]:
        """The trunk that the daemon put into shared memory, float32[d]: it stays as it is until the next command. Do
        not write to it, nor keep it."""
        return np.ndarray((self._layout.size,), np.float32, buffer=self._memory.buf)

    def _require_rounds(self) -> Rounds:
        if self._rounds is None:
            raise LocalError("Prepare comes first")
        return self._rounds


def founding_heads(plan: TrainerPlan) -> list[str]:
    """What private heads predicted before any assay endpoint was added."""
    shape = plan.architecture
    return private_heads(shape.changed(endpoints=shape.endpoints[: len(shape.endpoints) - plan.added_endpoints]))


def _noised(plan: NoisePlan, network: Network, dataset: Dataset) -> NoisedSum:
    rule, grid = plan.rule, planned(plan, network.trunk.numel())
    if rule.delta * len(dataset.train) >= 1:
        log.warning("delta is too large for so many compounds", delta=rule.delta, compounds=len(dataset.train))
    # From the operating system and not from the site's seed: who can guess the noise takes it off.
    return NoisedSum(network, dataset, rule, grid, os.urandom)


def _attach(name: str) -> multiprocessing.shared_memory.SharedMemory:
    if sys.version_info >= (3, 13):
        # The daemon owns the block; if it were tracked here too, it would be removed when this process ends.
        return multiprocessing.shared_memory.SharedMemory(name=name, track=False)
    # Before 3.13, a spawned child shares its parent's resource tracker, so registering twice is harmless.
    return multiprocessing.shared_memory.SharedMemory(name=name)
