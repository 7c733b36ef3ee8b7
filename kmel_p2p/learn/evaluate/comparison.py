"""Was it worth it? Four models of one site on the same budget; the validation fold chooses one per assay endpoint.

    local         the charter's initial trunk, trained on this site's data alone
    federated     the trunk all sites made, with this site's private heads
    personalised  federated, then tuned on this site's data
    hybrid        mean of the outputs of local and personalised

Every model gets the same number of optimiser steps at this site: those taken for its entries plus those for tuning.
On request, two more local networks from other seeds are trained, and the stack (`learn.stack`) is fitted at the end.
The result also has the scores of the training median, of a random forest, and of what the site predicts with
(`learn.predict.outputs.answers`).

A validation fold of a few dozen compounds cannot rank models that differ by a few percent: whichever was lucky scores
best. So the choice starts from the model that was best on average over sites and assay endpoints (docs/models.md), and
leaves it only for one whose errors on the same compounds are smaller by more than `CONFIDENCE` standard errors of the
paired difference. First, the measurements of all assay endpoints together decide which model this site starts from:
they show when a federation ended too early, or fits none of the site's assay endpoints. Then each assay endpoint is
checked for an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.losses import compound_losses, difference
from kmel_p2p.learn.evaluate.scores import (
    FoldScores,
    Predict,
    fold_scores,
    forest_baseline,
    median_baseline,
    metric,
    sampled,
    scorable,
    scores_of,
)
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import ONLY_OTHERS, MeanOf, answers, outputs_on
from kmel_p2p.learn.stack.fit import FittedStack, fit_stack, learners_in_all
from kmel_p2p.learn.stack.graph_networks import graph_steps, train_graphs
from kmel_p2p.learn.stack.sides import LOCAL_NETWORKS, OTHERS
from kmel_p2p.learn.stack.verdict import compare_sides
from kmel_p2p.learn.train.checkpoint import Parameters, TrainingRun, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.train.prefix import better_start
from kmel_p2p.learn.worker.plan import TrainingSettings

MODELS = ("local", "federated", "personalised", "hybrid")
HYBRID_OF = ("local", "personalised")

PREDICTED = "predicted"
"""In a result, scores of what the site predicts with; on the validation fold, from weights fitted to others of it."""

TUNING_SHARE = 0.25
"""Tuning steps as a share of the federated steps."""

TUNING_RATE = 0.3
"""Learning rate of tuning as a share of the charter's: the start is already good."""

PREFERRED = "hybrid"
"""The mean of two models that make different mistakes is rarely the worst and on average the best."""

CONFIDENCE = 2.0
"""Standard errors by which another model must be better. With 2, an equal model passes once in 44 times."""

OTHER_SEED = 7919
"""Added to the seeds of a further local network, once for `local-2`, twice for `local-3`."""

MIN_CHOICE = 20
"""With fewer validation values nothing is chosen: the standard error itself would be a guess."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        models: parameters of local, federated and personalised.
        result: plain dict, JSON-ready (see `session.Finished`).
        forest: the random forest.
        neighbours: the training compounds.
        took_prefix: whether the personalised model started from an earlier trunk than the final one.
        stacked: the site's stack, and its outputs on held-out compounds; None unless asked for.
    """

    models: dict[str, Parameters]
    result: dict[str, Any]
    forest: Predict
    neighbours: Neighbours
    took_prefix: bool = False
    stacked: FittedStack | None = None


def compare(
    architecture: Architecture,
    dataset: Dataset,
    settings: TrainingSettings,
    model_seed: int,
    federated: Parameters,
    *,
    steps: int,
    federated_history: Sequence[tuple[int, FoldScores]],
    report: Callable[[int, int], None],
    prefix: Parameters | None = None,
    stacking: bool = False,
    others: NDArray[np.float32] | None = None,
    graph_networks: int = 0,
    start: NDArray[np.float32] | None = None,
) -> Comparison:
    """Train local and personalised models, score all, choose, and fit the stack.

    Args:
        federated: final trunk with the private heads as the rounds left them.
        others: the final trunk without this site's own entries, float32[d], where it is known.
        steps: optimiser steps this site took for its entries.
        federated_history: (round, scores of the trunk it started from).
        report: called with (steps done, total steps); may raise to interrupt.
        prefix: the earlier trunk that did best on the validation fold, with the private heads of that time. The
            personalised model starts from it if it does better there than the final one.
        graph_networks: members of the ensemble that the stack has beside its other learners; 0: none.
        start: trunk of the charter's start file, float32[d]; local networks start from it, as a site alone could.
    """
    tuning = max(1, round(TUNING_SHARE * steps)) if steps else 0
    total = steps + 2 * tuning
    if stacking:
        names = (*LOCAL_NETWORKS, "federated", "personalised", *([OTHERS] if others is not None else []))
        total += 2 * (steps + tuning) + learners_in_all(dataset, names) + graph_networks * graph_steps(dataset)
    network = Network(architecture)

    fitted = fit_private_heads(network, dataset, settings, federated, tuning, lambda: report(0, total))
    every = max(1, settings.steps_per_entry)
    start_local(network, architecture, model_seed, settings.seed, start)
    local = train_with_checkpoints(
        network,
        dataset,
        settings,
        steps=steps + tuning,
        every=every,
        tick=lambda done: report(done, total),
        scored=sampled(dataset, settings.seed, test=settings.test_in_rounds),
    )
    better = better_start(network, dataset, fitted, prefix)
    better.load_into(network)
    personalised = train_with_checkpoints(
        network,
        dataset,
        settings,
        steps=tuning,
        every=max(1, tuning // 8),
        rate=TUNING_RATE,
        tick=lambda done: report(steps + tuning + done, total),
    )
    models = {"local": local.best, "federated": fitted, "personalised": personalised.best}
    stacked = None
    if stacking:
        stacked = _stacked(
            architecture, dataset, settings, model_seed, models, others, steps + tuning, graph_networks,
            lambda done: report(steps + 2 * tuning + done, total), start,
        )  # fmt: skip
    predict = predictors(architecture, models)
    networks = choices(dataset, predict)
    neighbours = Neighbours.of(dataset)
    forest = forest_baseline(dataset, settings.seed)
    scores = {
        **_scores(dataset, predict, networks, neighbours),
        "median": fold_scores(dataset, median_baseline(dataset)),
        "forest": fold_scores(dataset, forest),
    }
    result = _result(dataset, scores, networks, local, federated_history, every)
    if stacked is not None:
        for endpoint, told in zip(result["endpoints"], compare_sides(dataset, stacked, neighbours), strict=True):
            endpoint[PREDICTED] = told.pop("answers")
            endpoint["stacked"] = told
            if endpoint["train"]:
                endpoint["chosen"] = told["own"]
    result |= {"steps": steps, "tuning_steps": tuning}
    return Comparison(models, result, forest, neighbours, better is prefix, stacked)


def _stacked(
    architecture: Architecture,
    dataset: Dataset,
    settings: TrainingSettings,
    model_seed: int,
    models: dict[str, Parameters],
    others: NDArray[np.float32] | None,
    steps: int,
    graph_networks: int,
    report: Callable[[int], None],
    start: NDArray[np.float32] | None,
) -> FittedStack:
    """Train further local networks, and fit the stack.

    Args:
        steps: optimiser steps of each network.
        graph_networks: beside them, from structures.
        report: called with what is done: steps, then learners.
    """
    further = {}
    for number, name in enumerate(LOCAL_NETWORKS[1:], start=1):
        before = (number - 1) * steps
        further[name] = train_local(
            architecture, dataset, settings, model_seed, number, steps=steps, start=start,
            tick=lambda done, before=before: report(before + done),  # type: ignore[misc]
        )  # fmt: skip
    if others is not None:
        further[OTHERS] = Parameters(others, models["federated"].private)
    graphs = train_graphs(architecture, dataset, graph_networks, settings.seed, lambda own: report(2 * steps + own))
    done = 2 * steps + graph_networks * graph_steps(dataset)
    return fit_stack(
        architecture, dataset, {**models, **further}, settings.seed, lambda own, _: report(done + own), graphs
    )


def train_local(
    architecture: Architecture,
    dataset: Dataset,
    settings: TrainingSettings,
    model_seed: int,
    number: int,
    *,
    steps: int,
    tick: Callable[[int], None] = lambda done: None,
    start: NDArray[np.float32] | None = None,
) -> Parameters:
    """A further local network: as `local`, from other seeds.

    Args:
        number: 1 for `local-2`, 2 for `local-3`.
        tick: called with the steps done; may raise to interrupt.
    """
    network = Network(architecture)
    settings = settings.changed(seed=settings.seed + number * OTHER_SEED)
    start_local(network, architecture, model_seed + number * OTHER_SEED, settings.seed, start)
    every = max(1, settings.steps_per_entry)
    return train_with_checkpoints(network, dataset, settings, steps=steps, every=every, tick=tick).best


def start_local(
    network: Network, architecture: Architecture, model_seed: int, site_seed: int,
    start: NDArray[np.float32] | None = None,
) -> None:  # fmt: skip
    """Load the charter's initial trunk (`start`, or one drawn from its seed), and private heads from the site's."""
    network.load(initial_trunk(trunk_layout(architecture), model_seed) if start is None else start)
    network.load_private(initial_trunk(private_layout(architecture), site_seed))


def fit_private_heads(
    network: Network,
    dataset: Dataset,
    settings: TrainingSettings,
    federated: Parameters,
    steps: int,
    tick: Callable[[], None],
) -> Parameters:
    """Fit private heads to the final trunk, which the other sites changed after this site's last round."""
    federated.load_into(network)
    if network.private.numel():
        LocalOptimiser(network, dataset, settings, private_only=True).train(steps, TUNING_RATE, tick)
    return Parameters.of(network)


def predictors(architecture: Architecture, models: dict[str, Parameters]) -> dict[str, Predict]:
    """A function from inputs to outputs for each model, and for hybrid if both of its parts are there.

    To evaluate several on the same rows, use `outputs_of`.
    """
    networks = {}
    for name, parameters in models.items():
        networks[name] = Network(architecture)
        parameters.load_into(networks[name])

    found: dict[str, Predict] = {name: network.predict for name, network in networks.items()}
    if not set(HYBRID_OF) <= found.keys():
        return found
    return found | {"hybrid": MeanOf({name: found[name] for name in HYBRID_OF})}


def choices(dataset: Dataset, predict: Mapping[str, Predict]) -> dict[str, str]:
    """Assay endpoint -> name of the model that the validation fold chooses.

    `ONLY_OTHERS` for assay endpoints without training measurements of the site's own: their local head is untrained.
    """
    rows = dataset.valid
    outputs = outputs_on(dataset, rows, predict, predict)
    losses = {}
    for place, endpoint in enumerate(dataset.endpoints):
        known = scorable(dataset, rows, place)
        labels = dataset.labels[rows[known], place]
        losses[endpoint.name] = {
            name: compound_losses(endpoint, output[known, place], labels) for name, output in outputs.items()
        }
    return choose_all(losses) | {dataset.endpoints[place].name: ONLY_OTHERS for place in dataset.untrained()}


def _scores(
    dataset: Dataset, predict: Mapping[str, Predict], chosen: Mapping[str, str], neighbours: Neighbours
) -> dict[str, FoldScores]:
    """Scores of each model, and under `PREDICTED` of what the site predicts with."""
    names = [chosen[endpoint.name] for endpoint in dataset.endpoints]
    found: dict[str, FoldScores] = {
        model: {endpoint.name: {} for endpoint in dataset.endpoints} for model in (*predict, PREDICTED)
    }
    for fold, rows in (("valid", dataset.valid), ("test", dataset.test)):
        outputs = outputs_on(dataset, rows, predict, predict)
        foreign = neighbours.foreign(dataset.inputs.bits(rows))
        outputs[PREDICTED] = answers(outputs, names, foreign, dataset.untrained())
        for model, output in outputs.items():
            for endpoint, score in scores_of(dataset, rows, output).items():
                found[model][endpoint][fold] = score
    return found


def _result(
    dataset: Dataset,
    scores: dict[str, FoldScores],
    chosen: dict[str, str],
    local: TrainingRun,
    federated_history: Sequence[tuple[int, FoldScores]],
    every: int,
) -> dict[str, Any]:
    endpoints = []
    for place, endpoint in enumerate(dataset.endpoints):
        models = {name: scores[name][endpoint.name] for name in MODELS}
        endpoints.append(
            {
                "name": endpoint.name,
                "kind": endpoint.kind,
                "metric": metric(endpoint),
                "unit": endpoint.reported_unit,
                "train": len(dataset.measured(dataset.train, place)),
                "valid": len(dataset.measured(dataset.valid, place)),
                "test": len(dataset.measured(dataset.test, place)),
                "baseline_median": scores["median"][endpoint.name],
                "baseline_forest": scores["forest"][endpoint.name],
                "models": models,
                "chosen": chosen[endpoint.name],
                "network": chosen[endpoint.name],
                PREDICTED: scores[PREDICTED][endpoint.name],
            }
        )
    return {
        "endpoints": endpoints,
        "history": {
            "local": [[steps / every, at] for steps, at in local.history],
            # A round starts from the trunk as it was after the entry before it.
            "federated": [
                *([number - 1, start] for number, start in federated_history),
                [len(federated_history), scores["federated"]],
            ],
        },
    }


def choose_all(losses: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> dict[str, str]:
    """Assay endpoint -> name of the model that predicts it.

    Args:
        losses: assay endpoint -> model -> loss of each validation compound (see `choose`).
    """
    if not losses:
        return {}
    models = next(iter(losses.values()))
    together = {name: np.concatenate([own[name] for own in losses.values()]) for name in models}
    start = choose(together, PREFERRED)
    return {endpoint: choose(own, start) for endpoint, own in losses.items()}


def choose(losses: Mapping[str, NDArray[np.float64]], start: str) -> str:
    """Name of the model to predict with.

    Args:
        losses: model -> loss of each validation compound, float64[n], in the same order; includes `start`. A model
            whose losses are not finite is never chosen.
        start: the model that is kept unless another is clearly better.
    """
    reference = losses[start]
    if len(reference) < MIN_CHOICE:
        return start
    if not np.isfinite(reference).all():
        finite = {name: float(own.mean()) for name, own in losses.items() if np.isfinite(own).all()}
        return min(finite, key=finite.__getitem__, default=start)
    best, lowest = start, 0.0
    for name, own in losses.items():
        if name == start or not np.isfinite(own).all():
            continue
        mean, error = difference(own, reference)
        if mean < min(lowest, -CONFIDENCE * error):
            best, lowest = name, mean
    return best
