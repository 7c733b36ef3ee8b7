"""kmel_p2p: serverless federated ADMET learning."""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"


def load(folder: str | os.PathLike[str]) -> Any:
    """A model directory that a site wrote or `kmel-peer export` made, as a `kmel_p2p.learn.predict.predict.Model`.

    Raises:
        kmel_p2p.agreement.errors.ConfigError: it is missing or damaged, or this RDKit describes molecules otherwise.
    """
    # By name, at the time of use: importing the package must not load torch, and nothing below learn may depend on it.
    from pathlib import Path

    return importlib.import_module("kmel_p2p.learn.predict.predict").load_model(Path(folder))
