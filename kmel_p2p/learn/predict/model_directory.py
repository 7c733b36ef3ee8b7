"""A model directory: `model.safetensors` with the parameters, and `card.json`, which says what they are.

    model.safetensors   <model>.trunk, <model>.private   for local, federated and personalised
    card.json           assay endpoints, architecture, features, the model chosen for each assay endpoint, scores

    neighbours_STAYS.safetensors   training compounds with measured values (`neighbours`); export leaves it out
    learners_STAYS.safetensors     the site's stack (`stack_file`); export leaves it out

Nothing in it is code, and nothing in card or parameters is a structure or a measurement of the site.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.strict import build, parse_json
from kmel_p2p.files import BY_UMASK, sync_directory, write_whole
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.tensor_file import read_state, write_state

FORMAT = 1
TENSORS, CARD = "model.safetensors", "card.json"
UNFINISHED = ".unfinished"
"""Directory of a model that is being written; what a crash left of it is removed by the next."""
STORED = ("local", "federated", "personalised")
NAMES = (*STORED, "hybrid")


@dataclass(frozen=True, slots=True)
class Card:
    """What a model directory contains.

    Attributes:
        reference_hash: hash of the reference molecules' features on the machine that trained the model.
        chosen: assay endpoint -> the one of `NAMES` used to predict it where there is no stack.
        labels: facts such as federation and site.
        result: the comparison (see `learn.evaluate.comparison`), without history.
        digest: BLAKE2b-256 (hex) of the parameters; identifies the model.
        uncertainty: assay endpoint -> data for its intervals (`learn.predict.uncertainty.Calibration`).
        untrained: assay endpoints without training measurements at this site.
        unlearned: assay endpoints whose shared head no site has trained.
        stack_digest: of the file with the site's stack, which then predicts; empty without one.
        retired: assay endpoint that was trained no more -> the campaign that had retired it.
    """

    architecture: Architecture
    features: FeatureRule
    reference_hash: str
    chosen: Mapping[str, str]
    labels: Mapping[str, str]
    result: Mapping[str, Any]
    digest: str = ""
    uncertainty: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    untrained: Sequence[str] = ()
    unlearned: Sequence[str] = ()
    stack_digest: str = ""
    retired: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Short name of what predicts, networks and stack together: equal exactly where both are."""
        return hashlib.blake2b(f"{self.digest} {self.stack_digest}".encode(), digest_size=6).hexdigest()


@contextlib.contextmanager
def rewritten(folder: Path) -> Iterator[Path]:
    """An empty directory to write a model to; at the end of the block its files take their places in `folder`.

    Until then nothing in `folder` changes: a full disk or an interruption leaves the former model whole. The card is
    withdrawn before the first file moves and put in place last, because a directory with a card is complete. Other
    files in `folder` stay.

    Raises:
        ConfigError: not writable.
    """
    aside = folder / UNFINISHED
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        made = sorted((path for path in aside.iterdir() if path.is_file()), key=lambda path: path.name == CARD)
        (folder / CARD).unlink(missing_ok=True)
        for path in made:
            os.replace(path, folder / path.name)
        sync_directory(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}; make room or permissions") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_model(folder: Path, card: Card, parameters: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Card:
    """Write a model directory (`rewritten`).

    Args:
        parameters: model -> (trunk float32[d], private float32[p]) for the three of `STORED`.

    Returns:
        the card with its digest.

    Raises:
        ConfigError: the disk is full or not writable; the former model, if there was one, is whole.
    """
    tensors = {}
    for name in STORED:
        tensors[f"{name}.trunk"], tensors[f"{name}.private"] = parameters[name]
    card = dataclasses.replace(card, digest=_digest(tensors))
    text = json.dumps({"format": FORMAT, **card_values(card)}, indent=1)
    with rewritten(folder) as aside:
        write_state(aside / TENSORS, tensors, {"digest": card.digest})
        write_whole(aside / CARD, text.encode(), mode=BY_UMASK)
    return card


def card_values(card: Any) -> dict[str, Any]:
    """A `Card` or `TrunkCard` as JSON has it, without rules that the card states elsewhere or that nobody needs."""
    values = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    if not values.get("retired", True):
        del values["retired"]
    values["architecture"] = card.architecture.model_dump(mode="json")
    values["features"] = card.features.model_dump(mode="json", exclude={"kind", "reference_hash"})
    return values


def shapes_of(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """`architecture` and `features` of a card, taken out of its JSON.

    Raises:
        ConfigError: they are damaged.
    """
    damaged = f"{path}: is damaged"
    return {
        "architecture": build(Architecture, raw.pop("architecture"), damaged),
        "features": build(FeatureRule, raw.pop("features"), damaged),
    }


def read_card(folder: Path) -> Card:
    """The card of a model directory.

    Raises:
        ConfigError: there is none, or it is damaged or of another format.
    """
    path = folder / CARD
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: no model here yet ({CARD} is missing); a site writes it when its run ends"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        given = raw.pop("format")
        if isinstance(given, str):
            raise ConfigError(
                f"{folder}: holds the shared trunk alone ({given}), not the models of a site; kmel_p2p.load and "
                "kmel-peer predict --model-dir read it, and it may be copied as it is"
            )
        if given != FORMAT:
            raise ConfigError(f"{path}: has a format other than {FORMAT}; use the program version that wrote it")
        card = Card(**shapes_of(raw, path), **raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged: {error!r}") from None
    if card.architecture.inputs != card.features.width:
        raise ConfigError(
            f"{path}: was written by another version of this program: its trunk has {card.architecture.inputs} inputs"
        )
    _require_whole(path, card)
    return card


def _require_whole(path: Path, card: Card) -> None:
    """A card may come from anywhere: check that everything later looked up in it is there."""
    for endpoint in card.architecture.endpoints:
        chosen = card.chosen.get(endpoint.name) if isinstance(card.chosen, dict) else None
        if chosen not in NAMES:
            raise ConfigError(
                f"{path}: is damaged: the model chosen for {endpoint.name!r} is {chosen!r:.40}, not one of "
                f"{', '.join(NAMES)}; copy the directory again"
            )
    labels, uncertainty = card.labels, card.uncertainty
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ConfigError(f"{path}: is damaged: labels must be text; copy the directory again")
    lists = isinstance(card.untrained, list) and isinstance(card.unlearned, list)
    texts = isinstance(card.digest, str) and isinstance(card.stack_digest, str)
    lists = lists and isinstance(card.retired, dict) and all(type(number) is int for number in card.retired.values())
    if not isinstance(uncertainty, dict) or not texts or not lists:
        raise ConfigError(f"{path}: is damaged: a field has the wrong type; copy the directory again")


def read_parameters(folder: Path, card: Card) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Parameters by model.

    Raises:
        ConfigError: they are missing, or not those of the card.
    """
    trunk, private = trunk_layout(card.architecture).size, private_layout(card.architecture).size
    shapes = {f"{name}.{part}": (size,) for name in STORED for part, size in (("trunk", trunk), ("private", private))}
    tensors, _ = read_state(folder / TENSORS, shapes)
    if _digest(tensors) != card.digest:
        raise ConfigError(f"{folder}: {TENSORS} and {CARD} do not belong together; copy the directory as a whole")
    return {name: (tensors[f"{name}.trunk"], tensors[f"{name}.private"]) for name in STORED}


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    state = hashlib.blake2b(digest_size=32, person=b"kmel model 1")
    for name in sorted(tensors):
        state.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return state.hexdigest()
