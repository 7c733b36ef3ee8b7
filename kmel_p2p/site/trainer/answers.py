"""What the trainer process answers, told to the protocol, the records and the operator."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.rounds import Ready, RoundFailed, Trained, Unready
from kmel_p2p.learn.worker import session
from kmel_p2p.site.state.store import Store

if TYPE_CHECKING:
    from kmel_p2p.site.daemon import Daemon

log = structlog.get_logger()


class TrainerAnswers:
    """See the module docstring. A `training.Listener`."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def trainer_prepared(self, answer: session.Prepared) -> None:
        """The data are ready: say how much there is (as a size class) and join in."""
        self._daemon.activity.data = {
            "rows_in": answer.rows_in,
            "used": answer.used,
            "rejected": answer.rejected,
            "aggregated": answer.aggregated,
            "train_rows": answer.train_rows,
            "valid_rows": answer.valid_rows,
            "test_rows": answer.test_rows,
        }
        log.info("data prepared", **self._daemon.activity.data, rejects=str(answer.rejects_path))
        self._daemon.driver.command(membership_commands.DescribeSelf(size_class=answer.size_class))
        self._daemon.driver.command(Ready(answer.heads))
        self._daemon.conclusion.prepared(answer.dataset_hash)

    def trainer_trained(self, answer: session.Trained) -> None:
        """A round's delta is there."""
        activity = self._daemon.activity
        activity.trained_at, activity.loss, activity.scores = activity.clock(), answer.train_loss, answer.scores
        activity.steps += answer.steps
        row = {
            "number": answer.round,
            "loss": answer.train_loss,
            "scores": {name: dict(scores) for name, scores in answer.scores.items()},
            "steps": answer.steps,
            "payload_bytes": len(answer.payload),
            "norm": answer.norm,
            "seconds": answer.seconds,
        }
        self._daemon.note(partial(Store.add_history, kind="round", at=time.time(), values=row))
        validation = _validation(answer.scores)
        self._daemon.driver.command(Trained(answer.round, answer.payload, answer.steps, answer.state_file, validation))

    def trainer_lost(self, number: int | None, reason: str) -> None:
        """The trainer died, in round `number` or between two; a new one starts by itself."""
        self._daemon.activity.last_error = reason
        self._daemon.activity.alarm("trainer", f"{reason}; restarted {self._daemon.trainer.restarts} times")
        self._daemon.driver.command(Unready(reason) if number is None else RoundFailed(number, reason))

    def trainer_finished(self, answer: session.Finished) -> None:
        """The models are compared and written; anew if the trunk changed meanwhile."""
        if self._daemon.conclusion.finished(answer):
            self._daemon.concluded()

    def trainer_unusable(self, kind: str, text: str) -> None:
        """The trainer found this site's files wrong: nothing to retry."""
        self._daemon.fail(DataError(text) if kind == "data" else ConfigError(text))


def _validation(scores: session.Scores) -> float | None:
    """One figure over all assay endpoints, whatever their units: the mean logarithm of the validation scores."""
    valid = [folds["valid"] for folds in scores.values() if folds.get("valid", 0.0) > 0.0]
    return math.fsum(math.log(score) for score in valid) / len(valid) if valid else None
