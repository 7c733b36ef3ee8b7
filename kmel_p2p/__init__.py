"""kmel_p2p: federated ADMET learning without a server.

`__all__` is what other programs may rely on; docs/models.md describes it. Everything else may change at any time.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from kmel_p2p.version import VERSION

if TYPE_CHECKING:
    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError, LocalError
    from kmel_p2p.learn.predict.explain import AssayExplanation, Explanation, Neighbour
    from kmel_p2p.learn.predict.own_compounds import Measured
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.values import Prediction, Value

__all__ = [
    "AssayEndpoint",
    "AssayExplanation",
    "ConfigError",
    "DataError",
    "Explanation",
    "KmelError",
    "LocalError",
    "Measured",
    "Model",
    "Neighbour",
    "Prediction",
    "Value",
    "__version__",
    "load",
]

__version__ = VERSION

_HOMES = {
    "AssayEndpoint": "kmel_p2p.agreement.endpoint",
    "AssayExplanation": "kmel_p2p.learn.predict.explain",
    "ConfigError": "kmel_p2p.agreement.errors",
    "DataError": "kmel_p2p.agreement.errors",
    "Explanation": "kmel_p2p.learn.predict.explain",
    "KmelError": "kmel_p2p.agreement.errors",
    "LocalError": "kmel_p2p.agreement.errors",
    "Measured": "kmel_p2p.learn.predict.own_compounds",
    "Model": "kmel_p2p.learn.predict.predict",
    "Neighbour": "kmel_p2p.learn.predict.explain",
    "Prediction": "kmel_p2p.learn.predict.values",
    "Value": "kmel_p2p.learn.predict.values",
}
"""Where a name is defined. It is imported when first used: `import kmel_p2p` must not load torch."""


def load(folder: str | os.PathLike[str]) -> Model:
    """Load a model directory: one that a site wrote, its shared trunk, or what `kmel-peer export` made.

    Raises:
        ConfigError: it is missing or damaged, or the RDKit installed here computes different features.
    """
    from pathlib import Path

    model: Model = importlib.import_module(_HOMES["Model"]).load_model(Path(folder))
    return model


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
