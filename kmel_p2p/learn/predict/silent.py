"""Assay endpoints that a model directory says nothing about, or nothing about how far off it may be, and why."""

from __future__ import annotations

from kmel_p2p.learn.predict.answering import Answering
from kmel_p2p.learn.predict.model_directory import Card
from kmel_p2p.learn.predict.uncertainty import MIN_CALIBRATION, needed
from kmel_p2p.learn.stack.rare_classes import MIN_OF_CLASS
from kmel_p2p.learn.stack.sides import BEST_LOCAL

NOT_WITHOUT_OWN = ("local", "hybrid", BEST_LOCAL)
"""Models that know nothing about an assay endpoint the site has not measured, even if its head is shared."""


def without_values(card: Card, model: str | None) -> dict[str, str]:
    """Assay endpoint -> why it is not predicted, for those that are not.

    Args:
        model: that was asked for; None for what the site predicts with.
    """
    reasons = {}
    for endpoint in card.architecture.endpoints:
        if endpoint.name in card.retired:
            reasons[endpoint.name] = (
                f"it was retired in campaign {card.retired[endpoint.name]}; a version of the models from before still "
                "predicts it (kmel-peer models list)"
            )
            continue
        if endpoint.name not in card.untrained:
            continue
        if endpoint.name in card.unlearned:
            reasons[endpoint.name] = "no site of the federation had measurements to train its shared head on"
        elif endpoint.head == "private":
            reasons[endpoint.name] = "this site had no measurements to train its private head on"
        elif model in NOT_WITHOUT_OWN:
            reasons[endpoint.name] = f"this site had no measurements to train a {model} model on"
    return reasons


def without_intervals(card: Card, answering: Answering, level: float) -> dict[str, str]:
    """Assay endpoint -> why its predictions have no interval or classes at this level, for those that have none."""
    reasons, silent = {}, without_values(card, None)
    for endpoint in card.architecture.endpoints:
        if endpoint.name in silent:
            continue
        both = answering.calibration(endpoint.name)
        known = min(both.own, both.unusual, key=lambda calibration: calibration.values)
        classes = endpoint.kind == "classification"
        if not known and endpoint.name in card.untrained:
            reasons[endpoint.name] = "this site had no measurements of it to calibrate with"
        elif not known:
            reasons[endpoint.name] = _too_few(classes, stacked=bool(answering.models))
        elif known.values < needed(level):
            # Those like the site's own may have enough.
            some = "for compounds less like this site's own, " if both.own.values >= needed(level) else ""
            reasons[endpoint.name] = (
                f"{some}a level of {level:g} needs {needed(level)} values{' of each class' if classes else ''} to "
                f"calibrate with, there were {known.values}; a lower level has "
                f"{'sets of classes' if classes else 'intervals'}"
            )
    return reasons


def _too_few(classes: bool, stacked: bool) -> str:
    """`stacked`: the site's stack answers, which calibrates classes with training compounds where it has to."""
    if classes and stacked:
        return (
            f"the site has fewer than {MIN_OF_CLASS} values of each class to train on and hold out together, or one "
            "series of compounds has nearly all of a class"
        )
    few = f"{MIN_OF_CLASS} values of each class" if classes else f"{MIN_CALIBRATION} values"
    return f"the model's validation fold had fewer than {few} to calibrate with"
