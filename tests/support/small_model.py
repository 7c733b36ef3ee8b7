"""A model directory with untrained networks: predictions mean nothing, and everything around them is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.learn.predict.uncertainty import Calibration

LOGS = AssayEndpoint(name="logS", unit="log10(mol/L)", head="shared")
LOGD = AssayEndpoint(name="logD")
HERG = AssayEndpoint(name="herg", kind="classification")


def write_small_model(folder: Path, endpoints: tuple[AssayEndpoint, ...] = (LOGS, LOGD), seed: int = 0) -> Path:
    """logS has intervals and herg sets of classes; logD has none."""
    policy = FeatureRule(bits=64)
    architecture = Architecture(inputs=policy.width, hidden=(4,), endpoints=endpoints, dropout=0.0)
    rng = np.random.default_rng(seed)
    parameters = {
        name: (
            rng.normal(size=trunk_layout(architecture).size).astype(np.float32),
            rng.normal(size=private_layout(architecture).size).astype(np.float32),
        )
        for name in ("local", "federated", "personalised")
    }
    chosen = {endpoint.name: "federated" if endpoint.head == "shared" else "local" for endpoint in endpoints}
    apart = tuple(np.arange(1, 21) / 40)
    known = {
        "logS": Calibration(tuple(np.arange(1, 41) / 20), 0.5).plain(),
        "herg": Calibration(class_0=apart, class_1=apart).plain(),
    }
    uncertainty = {name: value for name, value in known.items() if name in chosen}
    write_model(folder, Card(architecture, policy, reference_hash(policy), chosen, {}, {}, uncertainty=uncertainty),
                parameters)  # fmt: skip
    return folder
