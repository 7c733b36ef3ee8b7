"""The best prefix: the trunk, among all that rounds started from, that the validation fold likes best.

Every prefix of the ledger is a model. A federation with too high a learning rate or too many entries ends with a trunk
that has overfitted; a site then tunes an earlier one instead, which is early stopping after the fact (Prechelt 1998).
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.models.carried_heads import identity_of
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.tensor_file import glance, read_state, state_facts, write_state
from kmel_p2p.learn.train.checkpoint import Parameters, can_choose, validation_loss
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import MultiTaskLoss, loss_of

PREFIX_NAME = "best-prefix.safetensors"


class BestPrefix:
    """Kept in one file of the trainer's folder.

    Attributes:
        number: the round that started from it; 0 while there is none.
        loss: on the validation fold, in labels.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._path = folder / PREFIX_NAME
        self._dataset, self._loss = dataset, MultiTaskLoss(dataset.endpoints)
        self._choosing = can_choose(dataset)
        measured = (place for place in range(len(dataset.endpoints)) if len(dataset.measured(dataset.valid, place)))
        self._chosen_by = [identity_of(dataset.endpoints[place]) for place in measured]
        """The assay endpoints that the loss is over."""
        self.number, self.loss = 0, math.inf
        self._shapes: dict[str, tuple[int, ...]] = {}

    @property
    def parameters(self) -> Parameters | None:
        """Its trunk, and the private heads of that moment, read from the file; None while there is none.

        Raises:
            ConfigError: the file is gone or damaged.
        """
        if not self.number:
            return None
        tensors, _ = read_state(self._path, self._shapes)
        return Parameters(tensors["trunk"], tensors["private"])

    def offer(
        self, number: int, valid: NDArray[np.float64], trunk: NDArray[np.float32], private: NDArray[np.float32]
    ) -> None:
        """Keep this trunk if it is the best so far.

        Args:
            number: the round that starts from it.
            valid: its outputs on the validation fold, float64[len(dataset.valid), E].

        Raises:
            ConfigError: the disk is full or not writable.
        """
        if not self._choosing:
            return
        loss = loss_of(self._dataset, self._dataset.valid, valid, self._loss)
        if not loss < self.loss:
            return
        write_state(
            self._path,
            {"trunk": trunk, "private": private},
            {"number": number, "loss": loss, "chosen_by": self._chosen_by},
        )
        self.number, self.loss = number, loss
        self._shapes = {"trunk": trunk.shape, "private": private.shape}

    def resume(self, trunk: int, private: int) -> None:
        """Read what an earlier trainer of this run left, if anything.

        Where assay endpoints came or went since, its loss says nothing about them, and it is forgotten.

        Args:
            trunk, private: numbers of values.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self._path.exists():
            return
        shapes, facts = glance(self._path)
        of_others = facts.get("chosen_by", self._chosen_by) != self._chosen_by
        if of_others or shapes.get("private", (private,)) != (private,):
            self.forget()
            return
        self._shapes = {"trunk": (trunk,), "private": (private,)}
        facts = state_facts(self._path, self._shapes)
        try:
            self.number, self.loss = int(facts["number"]), float(facts["loss"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._path}: is damaged: {error}; remove it") from error

    def forget(self) -> None:
        """Remove what another run left."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def better_start(network: Network, dataset: Dataset, final: Parameters, prefix: Parameters | None) -> Parameters:
    """Which of the two has the lower loss on the validation fold; the final one, unless the prefix has."""
    if prefix is None:
        return final
    loss, found = MultiTaskLoss(dataset.endpoints), []
    for parameters in (final, prefix):
        parameters.load_into(network)
        found.append(validation_loss(network, dataset, loss))
    return prefix if found[1] < found[0] or not np.isfinite(found[0]) else final
