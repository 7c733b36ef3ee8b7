"""How far apart the sites' trunks are at the end of a run in which each has its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.predict.model_directory import read_card, read_parameters
from kmel_p2p.site.loaded_site import architecture_of

MODEL_FOLDER = "model"


def final_trunks(state_dirs: Mapping[str, Path]) -> dict[str, NDArray[np.float32]]:
    """The trunk that each site wrote with its models, float32[d], by site.

    Raises:
        ConfigError: a site has no whole model.
    """
    folders = {name: folder / MODEL_FOLDER for name, folder in state_dirs.items()}
    return {name: read_parameters(folder, read_card(folder))["federated"][0] for name, folder in folders.items()}


def spread(trunks: Mapping[str, NDArray[np.float32]], charter: Charter) -> float:
    """Largest distance of a site's trunk from the sites' mean, relative to the way training moved that mean.

    0: all trunks are equal; 1: as far apart as one of them is from the initial trunk.
    """
    base = initial_trunk(trunk_layout(architecture_of(charter)), charter.model.seed).astype(np.float64)
    mean = np.mean([trunk.astype(np.float64) for trunk in trunks.values()], axis=0)
    way = float(np.linalg.norm(mean - base))
    apart = max(float(np.linalg.norm(trunk - mean)) for trunk in trunks.values())
    return apart / way if way else 0.0
