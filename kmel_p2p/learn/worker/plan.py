"""What a trainer process is told when it starts. Imports no torch and no RDKit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.privacy import NoisePlan
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.agreement.training import TrainingRule
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.learn.models.architecture import Architecture


class TrainingSettings(TrainingRule):
    """The charter's local optimiser, and what this site's run adds to it."""

    seed: int = 0
    """Of this site's batches, dropout and private heads; differs between sites."""
    entry_limit: int = 200
    """Entries the learning rate is scheduled over (cosine, down to `optimise.FINAL_RATE`, a twentieth)."""
    steps_per_entry: int = 20
    """Usual steps of a round; sets the budget of the models trained for comparison."""
    test_in_rounds: bool = False
    """Whether rounds are scored on the test fold, too. Otherwise it is scored once, at the end of the run."""


@dataclass(frozen=True, slots=True)
class TrackingPlan:
    """Where a site's curves go (`worker.tracking`).

    Attributes:
        tensorboard: folder of event files; None: none.
        mlflow: URI of a server, or a folder; empty: none.
        experiment: MLflow's name for it; empty: that of the federation.
    """

    tensorboard: Path | None = None
    mlflow: str = ""
    experiment: str = ""


@dataclass(frozen=True, slots=True)
class TrainerPlan:
    """Everything a trainer process needs to know.

    Attributes:
        model_seed: charter seed of the initial trunk.
        start_file: this site's copy of the file that the trunk starts from, where the charter names one.
        source: measurements to train on.
        test_source: further file used for scoring only, or None.
        codec: how a round's delta is compressed; None hands it over uncompressed, without a residual.
        noise: what is added under differential privacy: a round is one step then, and its payload the noised sum.
        layout_hash: what `trunk_layout(architecture).hash` must be.
        reference_hash: the charter's hash of the reference molecules' features; empty if the charter has none.
        trunk_memory: name of the shared memory block that holds the trunk, float32[layout.size].
        state_dir: the site's; files go to `trainer/`, `model/`, `cache/` and `rejects.csv` in it.
        structure_cache: folder of prepared structures; None: `cache/`.
        resume_file: name (in `trainer/`) of the round file stored with the last published entry; None at the start.
        threads: torch threads; 0 leaves the choice to torch.
        device: where to compute (`learn.device`).
        featurise_processes: 0 for all cores.
        processes: that train together on this machine, under torchrun (`worker.launch`); 1: this one alone.
        nodes: machines with so many processes each.
        rendezvous: host:port where the processes of several machines find each other.
        nice: how much to lower the process's priority, 0 to 19.
        require_approval: train only on an approved dataset (`chem.dataset.manifest`).
        versions: of the models that are kept (`learn.predict.versions`).
        graph_networks: in the site's stack (`learn.stack.graph_networks`); 0: none.
        tracking: where curves go.
        added_endpoints: how many of the assay endpoints, up to the last, came with later campaigns.
        retired: assay endpoint that is trained no more -> the campaign that retired it.
        labels: facts for the model's card, such as federation, charter id and site name.
    """

    architecture: Architecture
    features: FeatureRule
    model_seed: int
    source: Source
    test_source: Source | None
    split: SplitRule
    training: TrainingSettings
    codec: CodecParameters | None
    layout_hash: bytes
    reference_hash: str
    trunk_memory: str
    state_dir: Path
    resume_file: str | None = None
    threads: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    featurise_processes: int = 0
    processes: int = 1
    nodes: int = 1
    rendezvous: str = ""
    nice: int = 0
    require_approval: bool = False
    versions: int = 10
    graph_networks: int = 0
    start_file: Path | None = None
    structure_cache: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    noise: NoisePlan | None = None
    tracking: TrackingPlan = TrackingPlan()
    added_endpoints: int = 0
    retired: Mapping[str, int] = field(default_factory=dict)

    @property
    def endpoints(self) -> tuple[AssayEndpoint, ...]:
        """Assay endpoints by place, retired ones included."""
        return self.architecture.endpoints
