"""What daemon and trainer process say to each other over their pipe. Imports no torch and no RDKit.

The daemon starts `learn.worker.process.main(connection, plan)` with the spawn method, `daemon=False` (it featurises in
child processes of its own, which daemonic processes may not have). Commands are answered in order, one at a time:

    Prepare   -> Progress*, Prepared
    Train     -> Progress*, Trained      (then Commit or Abandon, which have no answer)
    Finish    -> Progress*, Finished
    Examine   -> Examined             (at any time after Prepared; it changes nothing)
    Appraise     -> Appraised              (likewise)
    Reload    -> Progress*, Reloaded (after Prepared, while no round is open)
    Stop      -> (the process ends with exit code 0, also in the middle of another command)

`Failed` may answer any command; the process then ends with exit code 1. Closing the pipe ends the process, as does
SIGTERM, with exit code 0. The trunk lies in shared memory: the daemon writes it before Train and Finish, and
leaves it alone until the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.training import TrainingRule
from kmel_p2p.learn.train.campaign import CampaignTraining

# daemon -> trainer


@dataclass(frozen=True, slots=True)
class Prepare:
    """Read the measurements, standardise and featurise the structures, split."""


@dataclass(frozen=True, slots=True)
class Train:
    """Train from the trunk in shared memory and encode the delta of this round.

    Attributes:
        round: number that the entry will have; one above the last committed round.
        steps: optimiser steps to take.
        norm_bound: largest L2 norm the entry may have, or None.
        entry_limit: rounds in all, over which the learning rate falls; None: as the plan says.
        campaign: the later campaign that the round is of; None: the first one.
    """

    round: int
    steps: int
    norm_bound: float | None = None
    entry_limit: int | None = None
    campaign: CampaignTraining | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """The entry of this round is stored: earlier round files are no longer needed."""

    round: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The entry of this round was not stored: return to the state before it.

    Attributes:
        rejected: the operator kept it back: its batches are not trained on again.
        deferred: it was kept back, and what was trained goes into the residual.
    """

    round: int
    rejected: bool = False
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is complete: train the models to compare, choose, and write the model directory.

    Attributes:
        total_steps: steps this site took for all its entries; the budget of every model compared.
        entries: entries this site published.
        labels: facts about the trunk for the model's card, in addition to those of the plan.
        others_file: the trunk without this site's own entries (`tensor_file.read_vector`); None where it is not known.
        training: the settings of the campaign that has ended; None: the plan's.
    """

    total_steps: int
    entries: int
    labels: Mapping[str, str] = field(default_factory=dict)
    others_file: Path | None = None
    training: TrainingRule | None = None


@dataclass(frozen=True, slots=True)
class PartFile:
    """The trunk without entries `first` to `number` of an author, in a file (`tensor_file.read_vector`).

    Attributes:
        author: its key.
    """

    author: bytes
    first: int
    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class Examine:
    """Measure what parts of the trunk do to the loss on held-out compounds.

    Attributes:
        trunk: file of the whole trunk.
        parts: the trunk without each of them.
    """

    trunk: Path
    parts: tuple[PartFile, ...]


FEWEST_COMPOUNDS = 20
"""Held-out compounds with a value of an assay endpoint; with fewer, nothing is said of what contributions are worth."""


@dataclass(frozen=True, slots=True)
class Appraise:
    """Measure what each part of a stretch of the trunk's way did to the loss on held-out compounds.

    Attributes:
        half_way: file of the trunk half-way (`tensor_file.read_vector`).
        parts: file of the parts (`tensor_file.read_parts`).
        count: of parts.
    """

    half_way: Path
    parts: Path
    count: int


@dataclass(frozen=True, slots=True)
class Reload:
    """Read the measurements again, by these settings, and train on them from the next round on.

    What cannot be read, was not approved, or lacks too much of what there was, changes nothing.

    Attributes:
        test_in_rounds: whether rounds are scored on the test fold, too.
        accept_removed: take them also where many of those in use are gone.
    """

    source: Source
    test_source: Source | None = None
    test_in_rounds: bool = False
    require_approval: bool = False
    accept_removed: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End now."""


Command: TypeAlias = Prepare | Train | Commit | Abandon | Finish | Examine | Appraise | Reload | Stop

# trainer -> daemon

Stage = Literal["reading", "structures", "training", "comparison"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the current command is; sent at most a few times per second."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class EndpointCounts:
    """Measurements of one assay endpoint by fold. `test` includes those of the test file."""

    endpoint: str
    train: int
    valid: int
    test: int
    censored: int


@dataclass(frozen=True, slots=True)
class DataChanges:
    """What is new, different and gone of the measurements since they were read before.

    Attributes:
        endpoints: assay endpoint -> how many were added, changed and removed.
        trained_on_removed: version of the models -> how many of the removed measurements it was trained on.
        before: measurements that there were.
        path: a list of each.
    """

    endpoints: Mapping[str, Mapping[str, int]]
    trained_on_removed: Mapping[str, int]
    before: int
    path: Path

    def count(self, kind: str) -> int:
        """How many were `added`, `changed` or `removed`, of all assay endpoints."""
        return sum(kinds[kind] for kinds in self.endpoints.values())


FileStamps: TypeAlias = Mapping[str, tuple[int, ...] | None]
"""Path of a data file -> what differs when it has changed (`chem.dataset.refresh.file_stamps`)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data are ready. Of measurements, found = used + rejected + aggregated (`chem.dataset.measurements.Counts`).

    Attributes:
        rows_in: rows of the data file.
        size_class: floor(log2(training measurements)) + 1, or 0 without any; the only figure about the amount of data
            that may leave the site.
        heads: numbers of the shared heads with training measurements. The other sites get them for weighting entries;
            the non-zero parts of this site's entries reveal the same.
        rejects_path: the list of refused rows; always written.
        features_hash: hash of the reference molecules' features on this machine.
        dataset_hash: hash of what is used (structures, labels, folds).
        files: the files as they were before they were read.
    """

    rows_in: int
    found: int
    used: int
    rejected: int
    aggregated: int
    train_rows: int
    valid_rows: int
    test_rows: int
    size_class: int
    heads: tuple[int, ...]
    rejects_path: Path
    endpoints: tuple[EndpointCounts, ...]
    features_hash: str
    dataset_hash: str
    files: FileStamps = field(default_factory=dict)


Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""Assay endpoint -> {"valid": score}, with "test" too where rounds are scored on it. Lower is better: RMSE in the
transformed unit for regressions, log loss for classifications. Folds without measurements are left out."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A round's delta is encoded and its state is on disk.

    Attributes:
        payload: the encoded delta, or without a codec the drift as little-endian float32[d].
        norm: L2 norm of the decoded payload.
        steps: optimiser steps taken.
        state_file: name (in `trainer/`) of the round file to store with the entry.
        train_loss: mean loss over the steps.
        scores: of the trunk this round started from, on a sample (`learn.evaluate.scores.sampled`).
        seconds: time from command to answer.
        training_us: time of the steps alone, without scoring and writing.
    """

    round: int
    payload: bytes
    norm: float
    steps: int
    state_file: str
    train_loss: float
    scores: Scores
    seconds: float
    training_us: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The comparison is done and `model_dir` holds the models.

    Attributes:
        result: plain dict, JSON-ready; see `learn.evaluate.comparison`.
        not_kept: why they are not among the versions, or the oldest of these were not deleted; empty if all is well.
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    model_dir: Path = Path()
    not_kept: str = ""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The measurements were read again.

    Attributes:
        prepared: those that are trained on now.
        refused: why they are still the former ones, and what to do; empty where they are the new ones.
        changes: of the new against the former ones; None where that is not known.
    """

    prepared: Prepared
    refused: str = ""
    changes: DataChanges | None = None


@dataclass(frozen=True, slots=True)
class EndpointEffect:
    """Of a part of the trunk on one assay endpoint.

    Attributes:
        compounds: held-out compounds with a value; at least two.
        loss: mean loss with the whole trunk, in labels.
        without: mean loss with the trunk less the part.
        error: standard error of the mean difference of the two.
    """

    compounds: int
    loss: float
    without: float
    error: float


@dataclass(frozen=True, slots=True)
class PartEffect:
    """Of one part, by place of the assay endpoint in the charter."""

    part: PartFile
    endpoints: Mapping[int, EndpointEffect]


@dataclass(frozen=True, slots=True)
class Examined:
    """What `Examine` found; `seconds` is what it took."""

    effects: tuple[PartEffect, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class EndpointWorth:
    """What the parts of a stretch did to one assay endpoint.

    Attributes:
        compounds: held-out compounds with a value.
        loss: mean loss half-way, in labels.
        worth: by group of compounds, then by part: by how much the part made the mean loss of the group smaller.
    """

    compounds: int
    loss: float
    worth: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Appraised:
    """What `Appraise` found, by place of the assay endpoint in the charter; `seconds` is what it took."""

    endpoints: Mapping[int, EndpointWorth]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The last command failed.

    Attributes:
        kind: `data` (the site's measurements), `config` (its settings or the charter), `room` (the disk is full) or
            `bug`.
        text: what is wrong, where, and what to do; with traceback for a bug.
    """

    kind: Literal["data", "config", "room", "bug"]
    text: str


Answer: TypeAlias = Progress | Prepared | Trained | Finished | Examined | Appraised | Reloaded | Failed
