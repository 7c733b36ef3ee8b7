"""Was it worth it? Four models of one site under one budget, the validation fold choosing per assay endpoint.

    local         the charter's initial trunk, trained on this site's data alone
    federated     the trunk all sites made, with this site's private heads
    personalised  federated, then tuned on this site's data
    hybrid        mean of the outputs of local and personalised

Every model gets the same number of optimiser steps at this site: those it took for its entries plus those of tuning.
The training median and a random forest are printed beside them, and what the site predicts with: the chosen models, and
the personalised one for compounds unlike the site's own (`learn.predict.answer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.choice import choose_all, compound_losses
from kmel_p2p.learn.evaluate.forest import forest_baseline
from kmel_p2p.learn.evaluate.outputs import MeanOf, outputs_of
from kmel_p2p.learn.evaluate.scores import (
    FoldScores,
    Predict,
    fold_scores,
    median_baseline,
    metric,
    scorable,
    scores_of,
)
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.answer import ONLY_OTHERS, answers
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.train.checkpoint import Parameters, TrainingRun, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.worker.session import TrainingSettings

MODELS = ("local", "federated", "personalised", "hybrid")
HYBRID_OF = ("local", "personalised")

PREDICTED = "predicted"
"""In a result, scores of what the site predicts with: the chosen model, and `answer.FALLBACK` for foreign compounds."""

TUNING_SHARE = 0.25
"""Steps of tuning, relative to the federated steps."""

TUNING_RATE = 0.3
"""Learning rate of tuning, relative to the charter's: the start is good already."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        models: parameters of local, federated and personalised.
        result: plain dict, JSON-ready (see `session.Finished`).
        forest: the random forest beside them.
        neighbours: the training compounds, which tell whose compounds are unlike them.
    """

    models: dict[str, Parameters]
    result: dict[str, Any]
    forest: Predict
    neighbours: Neighbours


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
) -> Comparison:
    """Train local and personalised models, score all, choose.

    Args:
        federated: final trunk with the private heads as the rounds left them.
        steps: optimiser steps this site took for its entries.
        federated_history: (round, scores of the trunk it started from).
        report: called with (steps done, steps in all); may raise to interrupt.
    """
    tuning = max(1, round(TUNING_SHARE * steps)) if steps else 0
    total = steps + 2 * tuning
    network = Network(architecture)

    fitted = fit_private_heads(network, dataset, settings, federated, tuning, lambda: report(0, total))
    every = max(1, settings.steps_per_entry)
    start_local(network, architecture, model_seed, settings.seed)
    local = train_with_checkpoints(
        network, dataset, settings, steps=steps + tuning, every=every, tick=lambda done: report(done, total)
    )
    fitted.load_into(network)
    personalised = train_with_checkpoints(
        network,
        dataset,
        settings,
        steps=tuning,
        every=max(1, tuning // 8),
        rate=TUNING_RATE,
        tick=lambda done: report(steps + tuning + done, total),
        scored=False,
    )
    models = {"local": local.best, "federated": fitted, "personalised": personalised.best}
    predict = predictors(architecture, models)
    chosen = choices(dataset, predict)
    neighbours = Neighbours.of(dataset)
    forest = forest_baseline(dataset, settings.seed)
    scores = {
        **_scores(dataset, predict, chosen, neighbours),
        "median": fold_scores(dataset, median_baseline(dataset)),
        "forest": fold_scores(dataset, forest),
    }
    result = _result(dataset, scores, chosen, local, federated_history, every)
    return Comparison(models, result | {"steps": steps, "tuning_steps": tuning}, forest, neighbours)


def start_local(network: Network, architecture: Architecture, model_seed: int, site_seed: int) -> None:
    """The charter's initial trunk, and private heads of the site's own seed."""
    network.load(initial_trunk(trunk_layout(architecture), model_seed))
    network.load_private(initial_trunk(private_layout(architecture), site_seed))


def fit_private_heads(
    network: Network,
    dataset: Dataset,
    settings: TrainingSettings,
    federated: Parameters,
    steps: int,
    tick: Callable[[], None],
) -> Parameters:
    """Private heads follow the final trunk, which the others changed since this site's last round."""
    federated.load_into(network)
    if network.private.numel():
        LocalOptimiser(network, dataset, settings, private_only=True).train(steps, TUNING_RATE, tick)
    return Parameters.of(network)


def predictors(architecture: Architecture, models: dict[str, Parameters]) -> dict[str, Predict]:
    """A function from inputs to outputs for each of the models, and for hybrid where both it is made of are there.

    To ask several of them for the same rows, see `outputs.outputs_of`.
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
    """Assay endpoint -> name of the model that the validation fold chooses (see `learn.evaluate.choice`).

    `ONLY_OTHERS` for assay endpoints without own training measurements, whose local model is as it was initialised.
    """
    rows = dataset.valid
    outputs = outputs_of(predict, predict, dataset.inputs.rows(rows))
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
    """Scores of each model, and as `PREDICTED` of what the site predicts with."""
    names = [chosen[endpoint.name] for endpoint in dataset.endpoints]
    found: dict[str, FoldScores] = {
        model: {endpoint.name: {} for endpoint in dataset.endpoints} for model in (*predict, PREDICTED)
    }
    for fold, rows in (("valid", dataset.valid), ("test", dataset.test)):
        outputs = outputs_of(predict, predict, dataset.inputs.rows(rows))
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
